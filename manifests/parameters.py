"""The parameters a Modelfile, a params layer or a request may set, with their types (contract, 2.1).

`stop` is a list; `main_gpu` and `use_mmap` may be unset. Names that Ollama dropped are accepted and have no effect.
"""

from __future__ import annotations

import math
from typing import Any

from manifests.errors import ModelfileError

Value = int | float | bool | list[str]

TYPES: dict[str, type] = {
    "num_ctx": int, "num_batch": int, "num_gpu": int, "main_gpu": int, "use_mmap": bool, "num_thread": int,
    "draft_num_predict": int, "num_keep": int, "seed": int, "num_predict": int, "top_k": int, "top_p": float,
    "min_p": float, "typical_p": float, "repeat_last_n": int, "temperature": float, "repeat_penalty": float,
    "presence_penalty": float, "frequency_penalty": float, "stop": list,
}  # fmt: skip

DROPPED = frozenset({
    "mirostat", "mirostat_tau", "mirostat_eta", "tfs_z", "penalize_newline", "numa", "low_vram", "f16_kv", "vocab_only",
    "logits_all", "use_mlock", "use_mlx",
})  # fmt: skip

_TRUE = ("1", "t", "T", "TRUE", "true", "True")  # what Go's ParseBool takes
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


def parse_parameter(name: str, text: str) -> Value | None:
    """The typed value of a Modelfile's `PARAMETER name text`; None for a name that has no effect any more."""
    if name in DROPPED:
        return None
    kind = TYPES.get(name)
    if kind is None:
        raise ModelfileError(f"unknown parameter '{name}'", hint="known: " + ", ".join(sorted(TYPES)))
    try:
        if kind is list:
            return [text]
        if kind is bool:
            return _boolean(text)
        if kind is int:
            return int(text)
        number = float(text)
    except ValueError:
        raise ModelfileError(f"invalid {kind.__name__} value [{text[:80]}]") from None
    if not math.isfinite(number):
        raise ModelfileError(f"invalid float value [{text[:80]}]")
    return number


def _boolean(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(text)


def check_parameters(given: dict[str, Any]) -> dict[str, Value]:
    """Decoded JSON (an API's `parameters`, a params layer) to typed values; None and dropped names are left out."""
    found: dict[str, Value] = {}
    for name, value in given.items():
        if name in DROPPED or value is None:
            continue
        if name not in TYPES:
            raise ModelfileError(f"unknown parameter '{name}'", hint="known: " + ", ".join(sorted(TYPES)))
        found[name] = _typed(name, value)
    return found


def _typed(name: str, value: Any) -> Value:
    kind = TYPES[name]
    if kind is list:
        texts = [value] if isinstance(value, str) else value
        if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
            return list(texts)
    elif kind is bool:
        if isinstance(value, bool):
            return value
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return int(value) if kind is int else float(value)
    raise ModelfileError(f"parameter '{name}' must be of type {kind.__name__}, found {type(value).__name__}")
