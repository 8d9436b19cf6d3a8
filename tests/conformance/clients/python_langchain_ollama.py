"""langchain-ollama: a chat model, tools bound to it, structured output, a language model, embeddings."""

import ollama
from common import ADDRESS, EMBEDDER, MODEL, check, person, refused, report, same, vectors
from langchain_ollama import ChatOllama, OllamaEmbeddings, OllamaLLM
from questions import CALL, GONE, PERSON, SCHEMA, SEED, TEXTS, TOKENS, TOOLS, examples

settings = {"base_url": ADDRESS, "temperature": 0, "seed": SEED, "num_predict": TOKENS}
chat = ChatOllama(model=MODEL, validate_model_on_init=True, **settings)
hello = "Say hello to the sailors."
same([chunk.content for chunk in chat.stream(hello)], chat.invoke(hello).content)
language = OllamaLLM(model=MODEL, **settings)
same(list(language.stream(hello)), language.invoke(hello))
refused(ollama.ResponseError, lambda: ChatOllama(model=GONE, **settings).invoke(hello))

bound = ChatOllama(model=MODEL, base_url=ADDRESS, temperature=0).bind_tools(TOOLS)
answer = bound.invoke(examples(as_text=True))
check("tools", [(call["name"], call["args"]) for call in answer.tool_calls], [CALL])
total = None
for chunk in bound.stream(examples(as_text=True)):
    total = chunk if total is None else total + chunk
check("tools", [(call["name"], call["args"]) for call in total.tool_calls], [CALL])
form = {"title": "Person", "description": "A person", **SCHEMA}
formed = ChatOllama(model=MODEL, base_url=ADDRESS, temperature=0)
person(formed.with_structured_output(form, method="json_schema").invoke(PERSON))
vectors(OllamaEmbeddings(model=EMBEDDER, base_url=ADDRESS).embed_documents(TEXTS))
report("langchain-ollama")
