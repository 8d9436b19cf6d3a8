"""ANSWERING: models as specs, prompts and tokens, scheduling, the HTTP APIs."""
