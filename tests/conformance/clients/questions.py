"""What is asked, by the clients and by the probes."""

from __future__ import annotations

import json
from typing import Any

GONE = "no-such-model"
HELLO: list[Any] = [{"role": "user", "content": "Say hello to the sailors."}]
SYSTEM = "You answer briefly."
TEXTS = ["a cat sat on the mat", "a queen is good"]
SEED, TOKENS = 7, 24

# A model of 135 million parameters calls a tool once its history holds calls that worked.
QUESTION = "What is the weather in Oslo?"
CITIES = ("Paris", "London", "Berlin", "Rome", "Madrid")
TOOL = "get_weather"
PARAMETERS: dict[str, Any] = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION: dict[str, Any] = {"name": TOOL, "description": "The weather of a city", "parameters": PARAMETERS}
TOOLS: list[Any] = [{"type": "function", "function": FUNCTION}]
CALL = (TOOL, {"city": "Oslo"})

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
PERSON = "Tell me of a person, as JSON: name and age."


def examples(*, as_text: bool) -> list[Any]:
    """Five worked calls and the question. `as_text`: arguments as OpenAI spells them, else objects."""
    messages: list[Any] = []
    for city in CITIES:
        arguments: Any = json.dumps({"city": city}) if as_text else {"city": city}
        call = {"id": f"call_{city}", "type": "function", "function": {"name": TOOL, "arguments": arguments}}
        messages += [
            {"role": "user", "content": f"What is the weather in {city}?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{city}", "content": "sunny"},
            {"role": "assistant", "content": f"It is sunny in {city}."},
        ]
    return [*messages, {"role": "user", "content": QUESTION}]
