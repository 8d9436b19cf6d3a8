"""chromadb: its embedding function for Ollama, and a search with it."""

import chromadb
from chromadb.config import Settings
from chromadb.utils.embedding_functions import OllamaEmbeddingFunction
from common import ADDRESS, EMBEDDER, check, refused, report, vectors
from questions import GONE, TEXTS

embedding = OllamaEmbeddingFunction(url=ADDRESS, model_name=EMBEDDER)
vectors([list(map(float, one)) for one in embedding(TEXTS)])
collection = chromadb.EphemeralClient(Settings(anonymized_telemetry=False)).create_collection(
    "texts", embedding_function=embedding
)
collection.add(ids=["cat", "queen"], documents=TEXTS)
check("search", collection.query(query_texts=[TEXTS[1]], n_results=1)["ids"], [["queen"]])
refused(Exception, lambda: OllamaEmbeddingFunction(url=ADDRESS, model_name=GONE)(TEXTS))
report("chromadb")
