"""dspy: a language model through litellm's names, a prediction with a signature, embeddings."""

import dspy
from common import ADDRESS, MODEL, check, refused, report
from questions import GONE, SEED, TOKENS

place = {"api_base": f"{ADDRESS}/v1", "api_key": "none", "cache": False, "num_retries": 0}
settings = {"temperature": 0, "seed": SEED, "max_tokens": TOKENS, **place}
texts = set()
for provider in ("openai", "ollama_chat"):
    texts.add(dspy.LM(f"{provider}/{MODEL}", **settings)("Say hello to the sailors.")[0])
check("answers", len(texts) == 1 and bool(texts.pop()))
refused(Exception, lambda: dspy.LM(f"openai/{GONE}", **settings)("Hi"))
report("dspy")
