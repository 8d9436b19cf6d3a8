"""ollama-haystack: a chat generator with a callback, tools, schema; embedders."""

import json

from common import ADDRESS, EMBEDDER, MODEL, check, person, refused, report, same, vectors
from haystack import Document
from haystack.dataclasses import ChatMessage, ToolCall
from haystack.tools import Tool
from haystack_integrations.components.embedders.ollama import OllamaDocumentEmbedder, OllamaTextEmbedder
from haystack_integrations.components.generators.ollama import OllamaChatGenerator
from questions import CALL, CITIES, GONE, PARAMETERS, PERSON, QUESTION, SCHEMA, SEED, TEXTS, TOKENS, TOOL

kwargs = {"temperature": 0, "seed": SEED, "num_predict": TOKENS}
hello = [ChatMessage.from_user("Say hello to the sailors.")]
whole = OllamaChatGenerator(model=MODEL, url=ADDRESS, generation_kwargs=kwargs).run(hello)["replies"][0].text
parts: list[str] = []
streaming = OllamaChatGenerator(
    model=MODEL, url=ADDRESS, generation_kwargs=kwargs, streaming_callback=lambda chunk: parts.append(chunk.content)
)
check("streaming", streaming.run(hello)["replies"][0].text, whole)
same(parts, whole)
refused(Exception, lambda: OllamaChatGenerator(model=GONE, url=ADDRESS).run(hello))

history: list[ChatMessage] = []
for city in CITIES:
    call = ToolCall(tool_name=TOOL, arguments={"city": city})
    history += [
        ChatMessage.from_user(f"What is the weather in {city}?"),
        ChatMessage.from_assistant(tool_calls=[call]),
        ChatMessage.from_tool("sunny", origin=call),
        ChatMessage.from_assistant(f"It is sunny in {city}."),
    ]
tool = Tool(name=TOOL, description="The weather of a city", parameters=PARAMETERS, function=lambda city: "sunny")
calling = OllamaChatGenerator(model=MODEL, url=ADDRESS, tools=[tool], generation_kwargs={"temperature": 0})
reply = calling.run([*history, ChatMessage.from_user(QUESTION)])["replies"][0]
check("tools", [(call.tool_name, call.arguments) for call in reply.tool_calls], [CALL])
formed = OllamaChatGenerator(model=MODEL, url=ADDRESS, response_format=SCHEMA, generation_kwargs={"temperature": 0})
person(json.loads(formed.run([ChatMessage.from_user(PERSON)])["replies"][0].text))
documents = OllamaDocumentEmbedder(model=EMBEDDER, url=ADDRESS, progress_bar=False)
vectors([one.embedding for one in documents.run([Document(content=text) for text in TEXTS])["documents"]])
check("embeddings", len(OllamaTextEmbedder(model=EMBEDDER, url=ADDRESS).run(TEXTS[0])["embedding"]) > 1)
report("ollama-haystack")
