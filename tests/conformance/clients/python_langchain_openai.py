"""langchain-openai: a chat model, tools bound to it, structured output, embeddings."""

import openai
from common import ADDRESS, EMBEDDER, MODEL, check, person, refused, report, same, vectors
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from questions import CALL, GONE, PERSON, SCHEMA, SEED, TEXTS, TOKENS, TOOL, TOOLS, examples

server = {"base_url": f"{ADDRESS}/v1", "api_key": "none"}
settings = {"temperature": 0, "seed": SEED, "max_retries": 0, **server}
hello = "Say hello to the sailors."
chat = ChatOpenAI(model=MODEL, max_completion_tokens=TOKENS, **settings)
same([chunk.content for chunk in chat.stream(hello)], chat.invoke(hello).content)
refused(openai.NotFoundError, lambda: ChatOpenAI(model=GONE, **settings).invoke(hello))
longer = ChatOpenAI(model=MODEL, max_completion_tokens=60, **settings)
for choice in ("auto", "required", TOOL):
    answer = longer.bind_tools(TOOLS, tool_choice=choice).invoke(examples(as_text=True))
    check("tools", [(call["name"], call["args"]) for call in answer.tool_calls], [CALL])
form = {"title": "Person", "description": "A person", **SCHEMA}
person(longer.with_structured_output(form, method="json_schema", strict=True).invoke(PERSON))
plain = OpenAIEmbeddings(model=EMBEDDER, check_embedding_ctx_length=False, **server)
vectors(plain.embed_documents(TEXTS))
report("langchain-openai")
