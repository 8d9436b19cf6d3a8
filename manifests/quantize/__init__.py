"""Quantizing: a GGUF of plain floats becomes a GGUF of blocks, a tensor at a time."""
