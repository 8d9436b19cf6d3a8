"""Registries: pull from, and push to, any server of Docker's and OCI's distribution protocol (Ollama's is one)."""
