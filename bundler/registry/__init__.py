"""Registries: pull from, and push to, any server that speaks Docker's and OCI's distribution protocol (Ollama's does)."""
