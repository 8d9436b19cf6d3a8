"""llama-index-llms-ollama: chat, completion, tools, structured output."""

import json

import ollama
from common import ADDRESS, MODEL, check, person, refused, report, same
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.ollama import Ollama
from pydantic import BaseModel, Field
from questions import CALL, CITIES, GONE, PERSON, QUESTION, SCHEMA, SEED, TOKENS, TOOL

hello = [ChatMessage(role="user", content="Say hello to the sailors.")]
settings = {"base_url": ADDRESS, "temperature": 0, "context_window": 2048, "request_timeout": 120}
model = Ollama(model=MODEL, additional_kwargs={"seed": SEED, "num_predict": TOKENS}, **settings)
same([part.delta or "" for part in model.stream_chat(hello)], model.chat(hello).message.content)
same([part.delta or "" for part in model.stream_complete("Say hello.")], model.complete("Say hello.").text)
refused(ollama.ResponseError, lambda: Ollama(model=GONE, **settings).chat(hello))


def get_weather(city: str) -> str:
    """The weather of a city"""
    return "sunny"


history = []
for city in CITIES:
    call = {"function": {"name": TOOL, "arguments": {"city": city}}}
    history += [
        ChatMessage(role="user", content=f"What is the weather in {city}?"),
        ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [call]}),
        ChatMessage(role="tool", content="sunny"),
        ChatMessage(role="assistant", content=f"It is sunny in {city}."),
    ]
longer = Ollama(model=MODEL, additional_kwargs={"num_predict": 60}, **settings)
tool = FunctionTool.from_defaults(get_weather)
answer = longer.chat_with_tools([tool], user_msg=QUESTION, chat_history=history)
calls = longer.get_tool_calls_from_response(answer)
check("tools", [(call.tool_name, call.tool_kwargs) for call in calls], [CALL])


class Person(BaseModel):
    name: str = Field(max_length=12)
    age: int


formed = longer.chat([ChatMessage(role="user", content=PERSON)], format=SCHEMA)
person(json.loads(formed.message.content))
found = longer.as_structured_llm(Person).chat([ChatMessage(role="user", content=PERSON)]).raw
person(found.model_dump())
report("llama-index-llms-ollama")
