"""smolagents: its model for OpenAI's API; messages of parts, a tool, a stream."""

import json

from common import ADDRESS, MODEL, check, person, refused, report, same
from questions import GONE, PERSON, SCHEMA, SEED, TOKENS, TOOL
from smolagents import OpenAIServerModel, tool

server = {"api_base": f"{ADDRESS}/v1", "api_key": "none", "temperature": 0, "seed": SEED}
hello = [{"role": "user", "content": [{"type": "text", "text": "Say hello to the sailors."}]}]
model = OpenAIServerModel(MODEL, max_tokens=TOKENS, **server)
whole = model.generate(hello).content
same([delta.content or "" for delta in model.generate_stream(hello)], whole)
refused(Exception, lambda: OpenAIServerModel(GONE, **server).generate(hello))


@tool
def get_weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name
    """
    return "sunny"


asked = [{"role": "user", "content": [{"type": "text", "text": "What is the weather in Oslo?"}]}]
longer = OpenAIServerModel(MODEL, max_tokens=60, **server)
calls = longer.generate(asked, tools_to_call_from=[get_weather]).tool_calls  # which asks with tool_choice required
found = [(call.function.name, json.loads(call.function.arguments)) for call in calls]
check("tools", [(name, list(arguments)) for name, arguments in found], [(TOOL, ["city"])])
form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
told = [{"role": "user", "content": [{"type": "text", "text": PERSON}]}]
person(json.loads(longer.generate(told, response_format=form).content))
report("smolagents")
