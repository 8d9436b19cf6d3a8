"""Small GGUF tokenizer tables, made in memory: every byte, a few merges, a few control tokens."""

from __future__ import annotations

from typing import Any

CONTROL_TEXTS = ("<|im_start|>", "<|im_end|>", "<s>", "</s>")


def byte_chars() -> list[str]:
    """GPT-2's spelling of bytes 0 to 255."""
    plain = {*range(33, 127), *range(161, 173), *range(174, 256)}
    out, extra = [], 256
    for byte in range(256):
        if byte in plain:
            out.append(chr(byte))
        else:
            out.append(chr(extra))
            extra += 1
    return out


def byte_level(
    *, pre: str = "gpt-2", add_bos: bool = False, merges: tuple[str, ...] = ("h e", "l l", "he ll")
) -> dict[str, Any]:
    tokens = [*byte_chars(), *("".join(merge.split(" ")) for merge in merges), *CONTROL_TEXTS]
    n_text = len(tokens) - len(CONTROL_TEXTS)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * n_text + [3] * len(CONTROL_TEXTS),
        "tokenizer.ggml.merges": list(merges),
        "tokenizer.ggml.bos_token_id": n_text + 2,
        "tokenizer.ggml.eos_token_id": n_text + 1,
        "tokenizer.ggml.add_bos_token": add_bos,
    }


def scored(words: dict[str, float], *, space_prefix: bool = True) -> dict[str, Any]:
    """A SentencePiece-style table: <unk>, <s>, </s>, 256 byte tokens, then `words` with their scores."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3, *([6] * 256), *([1] * len(words))],
        "tokenizer.ggml.scores": [0.0] * 259 + list(words.values()),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": space_prefix,
    }
