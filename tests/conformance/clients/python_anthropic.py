"""anthropic: messages, tools, counting."""

import anthropic
from common import ADDRESS, MODEL, check, refused, report, same
from questions import CALL, CITIES, GONE, HELLO, PARAMETERS, QUESTION, SYSTEM, TOKENS, TOOL

client = anthropic.Anthropic(base_url=ADDRESS, api_key="none", max_retries=0)
COLD = {"extra_body": {"temperature": 0}}  # this version has no argument for it
asked = {"model": MODEL, "messages": HELLO, "max_tokens": TOKENS, "system": SYSTEM, **COLD}

message = client.messages.create(**asked)
with client.messages.stream(**asked) as stream:
    same(list(stream.text_stream), message.content[0].text)
    final = stream.get_final_message()
check("usage", (final.usage.output_tokens, final.stop_reason), (message.usage.output_tokens, message.stop_reason))
count = client.messages.count_tokens(model=MODEL, messages=HELLO, system=SYSTEM)
check("usage", count.input_tokens, message.usage.input_tokens)
refused(anthropic.NotFoundError, lambda: client.messages.create(**asked | {"model": GONE}))

messages = []
for city in CITIES:
    call = {"type": "tool_use", "id": f"toolu_{city}", "name": TOOL, "input": {"city": city}}
    answer = {"type": "tool_result", "tool_use_id": f"toolu_{city}", "content": "sunny"}
    messages += [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [answer]},
        {"role": "assistant", "content": f"It is sunny in {city}."},
    ]
messages.append({"role": "user", "content": QUESTION})
tool = {"name": TOOL, "description": "The weather of a city", "input_schema": PARAMETERS}
asked = {"model": MODEL, "messages": messages, "max_tokens": 60, **COLD, "tools": [tool]}
for choice in ({"type": "auto"}, {"type": "any"}, {"type": "tool", "name": TOOL}):
    message = client.messages.create(**asked, tool_choice=choice)
    uses = [(block.name, block.input) for block in message.content if block.type == "tool_use"]
    check("tools", (message.stop_reason, uses), ("tool_use", [CALL]))
with client.messages.stream(**asked) as stream:
    final = stream.get_final_message()
check("tools", [block.input for block in final.content if block.type == "tool_use"], [CALL[1]])
report("anthropic")
