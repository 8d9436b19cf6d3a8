"""litellm: the providers ollama, ollama_chat and openai; tools, schema, embeddings."""

import json

import litellm
from common import ADDRESS, EMBEDDER, MODEL, check, person, refused, report, same, vectors
from questions import CALL, GONE, HELLO, PERSON, SCHEMA, SEED, TEXTS, TOKENS, TOOLS, examples

litellm.telemetry = False
litellm.suppress_debug_info = True
native, compatible = {"api_base": ADDRESS}, {"api_base": f"{ADDRESS}/v1", "api_key": "none"}
asked = {"messages": HELLO, "temperature": 0, "seed": SEED, "max_tokens": TOKENS}
providers = (("ollama", native), ("ollama_chat", native), ("openai", compatible))
for provider, place in providers:
    named = {"model": f"{provider}/{MODEL}", **place}
    whole = litellm.completion(**named, **asked).choices[0].message.content
    chunks = litellm.completion(**named, **asked, stream=True)
    same([chunk.choices[0].delta.content or "" for chunk in chunks], whole)
    wrong = {**named, "model": f"{provider}/{GONE}"}
    refused(Exception, lambda wrong=wrong: litellm.completion(**wrong, **asked))
for provider, place in providers[1:]:
    history = {"messages": examples(as_text=True), "tools": TOOLS, "temperature": 0, "max_tokens": 60}
    message = litellm.completion(model=f"{provider}/{MODEL}", **place, **history).choices[0].message
    calls = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
    check("tools", calls, [CALL])
form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
told = [{"role": "user", "content": PERSON}]
for provider, place in providers[1:]:
    answer = litellm.completion(
        model=f"{provider}/{MODEL}", messages=told, temperature=0, max_tokens=60, response_format=form, **place
    )
    person(json.loads(answer.choices[0].message.content))
for provider, place in (providers[0], providers[2]):
    found = litellm.embedding(model=f"{provider}/{EMBEDDER}", input=TEXTS, **place)
    vectors([one["embedding"] for one in found.data])
report("litellm")
