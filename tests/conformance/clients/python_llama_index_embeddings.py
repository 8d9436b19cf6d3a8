"""llama-index-embeddings-ollama."""

import ollama
from common import ADDRESS, EMBEDDER, check, refused, report, vectors
from llama_index.embeddings.ollama import OllamaEmbedding
from questions import GONE, TEXTS

embedding = OllamaEmbedding(model_name=EMBEDDER, base_url=ADDRESS)
found = embedding.get_text_embedding_batch(TEXTS)
vectors(found)
check("embeddings", len(embedding.get_query_embedding(TEXTS[0])), len(found[0]))
wrong = OllamaEmbedding(model_name=GONE, base_url=ADDRESS)
refused(ollama.ResponseError, lambda: wrong.get_query_embedding(TEXTS[0]))
report("llama-index-embeddings-ollama")
