"""openai: chat, completions, responses, tools, parsed answers, embeddings, models."""

import json

import openai
from common import ADDRESS, EMBEDDER, MODEL, check, person, refused, report, same, vectors
from pydantic import BaseModel, ConfigDict, Field
from questions import CALL, GONE, HELLO, PERSON, SEED, TEXTS, TOKENS, TOOL, TOOLS, examples

client = openai.OpenAI(base_url=f"{ADDRESS}/v1", api_key="none", max_retries=0)
asked = {"model": MODEL, "messages": HELLO, "temperature": 0, "seed": SEED, "max_completion_tokens": TOKENS}


class Person(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=12)
    age: int


check("lists", {MODEL, f"{MODEL}:latest"} & {model.id for model in client.models.list()} != set())
answer = client.chat.completions.create(**asked)
whole = answer.choices[0].message.content or ""
chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
same([chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices], whole)
check("usage", chunks[-1].usage == answer.usage and answer.usage is not None and answer.usage.total_tokens > 0)

base = {"model": MODEL, "prompt": "Once upon a time", "temperature": 0, "seed": SEED, "max_tokens": TOKENS}
same(
    [chunk.choices[0].text for chunk in client.completions.create(**base, stream=True)],
    client.completions.create(**base).choices[0].text,
)
respond = {"model": MODEL, "input": HELLO, "temperature": 0, "max_output_tokens": TOKENS}
events = list(client.responses.create(**respond, stream=True))
same(
    [event.delta for event in events if event.type == "response.output_text.delta"],
    client.responses.create(**respond).output_text,
)
refused(openai.NotFoundError, lambda: client.chat.completions.create(**asked | {"model": GONE}))
refused(openai.NotFoundError, lambda: list(client.responses.create(**respond | {"model": GONE}, stream=True)))
refused(openai.BadRequestError, lambda: client.chat.completions.create(**asked | {"temperature": "hot"}), "temperature")

history = asked | {"messages": examples(as_text=True), "tools": TOOLS, "max_completion_tokens": 60}
named = {"type": "function", "function": {"name": TOOL}}
for choice in ("auto", "required", named):
    message = client.chat.completions.create(**history, tool_choice=choice).choices[0].message
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
    check("tools", calls, [CALL])
with client.chat.completions.stream(**history) as stream:
    final = stream.get_final_completion().choices[0]
check("tools", [json.loads(call.function.arguments) for call in final.message.tool_calls or ()], [CALL[1]])

told = [{"role": "user", "content": PERSON}]
parsed = client.chat.completions.parse(
    **asked | {"messages": told, "max_completion_tokens": 60}, response_format=Person
)
person(parsed.choices[0].message.parsed.model_dump())
person(client.responses.parse(model=MODEL, input=PERSON, temperature=0, text_format=Person).output_parsed.model_dump())
scored = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2).choices[0].logprobs
check("log probabilities", all(len(one.top_logprobs) == 2 for one in scored.content))
vectors([one.embedding for one in client.embeddings.create(model=EMBEDDER, input=TEXTS).data])
vectors([one.embedding for one in client.embeddings.create(model=EMBEDDER, input=TEXTS, encoding_format="float").data])
report("openai")
