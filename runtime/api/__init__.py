"""The HTTP APIs: Ollama's and OpenAI's, over one store and one manager."""
