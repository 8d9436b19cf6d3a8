"""ollama: chat, generate, tools, format, logprobs, embed, lists."""

import asyncio
import json

import ollama
from common import ADDRESS, EMBEDDER, MODEL, check, person, refused, report, same, vectors
from questions import CALL, GONE, HELLO, PERSON, SCHEMA, SEED, TEXTS, TOKENS, TOOLS, examples

client = ollama.Client(host=ADDRESS)
options = {"temperature": 0, "seed": SEED, "num_predict": TOKENS}

check("lists", MODEL in {str(model.model).removesuffix(":latest") for model in client.list().models})
check("lists", "tools" in (client.show(MODEL).capabilities or ()))
whole = client.chat(MODEL, HELLO, options=options).message.content or ""
same([part.message.content or "" for part in client.chat(MODEL, HELLO, options=options, stream=True)], whole)
check("lists", MODEL in {str(model.model).removesuffix(":latest") for model in client.ps().models})
text = client.generate(MODEL, "Say hello.", options=options).response
same([part.response for part in client.generate(MODEL, "Say hello.", options=options, stream=True)], text)


async def streamed() -> list[str]:
    parts = await ollama.AsyncClient(host=ADDRESS).chat(MODEL, HELLO, options=options, stream=True)
    return [part.message.content or "" async for part in parts]


same(asyncio.run(streamed()), whole)
refused(ollama.ResponseError, lambda: client.chat(GONE, HELLO))
refused(ollama.ResponseError, lambda: list(client.chat(GONE, HELLO, stream=True)))

asked = {"model": MODEL, "messages": examples(as_text=False), "tools": TOOLS, "options": {"temperature": 0}}
for calls in (
    client.chat(**asked).message.tool_calls,
    [call for part in client.chat(**asked, stream=True) for call in part.message.tool_calls or ()],
):
    check("tools", [(call.function.name, dict(call.function.arguments)) for call in calls or ()], [CALL])

person(json.loads(client.generate(MODEL, PERSON, format=SCHEMA, options={"temperature": 0}).response))
scored = client.chat(MODEL, HELLO, options=options, logprobs=True, top_logprobs=2).logprobs or ()
check("log probabilities", len(scored) > 1 and all(len(one.top_logprobs or ()) == 2 for one in scored))
vectors(client.embed(EMBEDDER, TEXTS).embeddings)
check("embeddings", len(client.embeddings(EMBEDDER, TEXTS[0]).embedding) > 1)
report("ollama")
