"""llm with llm-ollama: its models are the server's; prompts, schema, tools, embeddings."""

import json
import os
import tempfile

from common import ADDRESS, EMBEDDER, MODEL, check, person, refused, report, same, vectors
from questions import PERSON, SCHEMA, SEED, TEXTS, TOKENS

os.environ["OLLAMA_HOST"] = ADDRESS
os.environ["LLM_USER_PATH"] = tempfile.mkdtemp()
import llm

prefix = next(one.model.model_id for one in llm.get_models_with_aliases() if MODEL in one.model.model_id)
model = llm.get_model(prefix)
options = {"temperature": 0, "seed": SEED, "num_predict": TOKENS}
whole = model.prompt("Say hello to the sailors.", stream=False, **options).text()
same(list(model.prompt("Say hello to the sailors.", **options)), whole)
refused(llm.UnknownModelError, lambda: llm.get_model("no-such-model"))
person(json.loads(model.prompt(PERSON, schema=SCHEMA, temperature=0).text()))
check("lists", model.supports_tools and model.supports_schema)
embedding = next(one.model for one in llm.get_embedding_models_with_aliases() if EMBEDDER in one.model.model_id)
vectors(list(embedding.embed_multi(TEXTS)))
report("llm-ollama")
