"""Anthropic's API: /v1/messages and /v1/messages/count_tokens (contract, 1.12).

`x-api-key` and `anthropic-version` are taken; no version is known by another shape. Thinking asked of a model that
cannot is no error, as in Ollama; a model that can does not think unless it is asked to, as in Anthropic's own service.
Refused by name: images, documents, hosted tools, blocks that only a hosted tool writes.
"""
