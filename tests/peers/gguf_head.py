"""The smallest file that is a GGUF: a head with one or two keys, and no tensors."""

from __future__ import annotations


def gguf_bytes(architecture: str = "llama", kind: str | None = None) -> bytes:
    """Magic, version 3, counts, then keys (GGUF specification)."""
    pairs = [("general.architecture", architecture)] + ([("general.type", kind)] if kind else [])
    body = b"".join(text(key) + (8).to_bytes(4, "little") + text(value) for key, value in pairs)
    return b"GGUF" + (3).to_bytes(4, "little") + (0).to_bytes(8, "little") + len(pairs).to_bytes(8, "little") + body


def text(value: str) -> bytes:
    return len(value).to_bytes(8, "little") + value.encode()
