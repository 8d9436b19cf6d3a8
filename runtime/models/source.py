"""What an architecture reads: a GGUF's keys and tensor names, with a record of which keys were read.

Refused, by name: a key that is missing, of the wrong type or out of range; and, by `finish`, any key under the
architecture's own prefix that was neither read nor listed as harmless, because it may change the answer.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from manifests.gguf import Gguf
from manifests.gguf_values import RawArray
from runtime.errors import ArchitectureRefused

MAX_LAYERS = 1024
MAX_WIDTH = 2**20  # of any vector in a model
MAX_CONTEXT = 2**28
MIN_NUMBER, MAX_NUMBER = 1e-30, 1e30


class Source:
    """`keys` below are given without the architecture's prefix."""

    def __init__(self, gguf: Gguf) -> None:
        self.gguf = gguf
        self.architecture = gguf.architecture
        self._read: set[str] = set()

    def has_tensor(self, name: str) -> bool:
        return name in self.gguf.tensors

    def tensor_rows(self, name: str) -> int:
        """Rows of a matrix."""
        info = self.gguf.tensors.get(name)
        if info is None or len(info.shape) != 2:
            raise ArchitectureRefused(f"{self.architecture}: tensor {name} is missing or not a matrix")
        return info.shape[1]

    def refuse(self, key: str, problem: str) -> ArchitectureRefused:
        return ArchitectureRefused(f"{self.architecture}.{key}: {problem}")

    def value(self, key: str) -> Any:
        """The raw value, None where the file has none. Counts as read."""
        self._read.add(key)
        value = self.gguf.metadata.get(f"{self.architecture}.{key}")
        return value.tolist() if isinstance(value, RawArray) else value

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = MAX_WIDTH) -> int:
        value = self.value(key)
        if value is None:
            if default is None:
                raise self.refuse(key, "missing, expected an integer")
            return default
        return self._in_range(key, value, low, high)

    def per_layer(self, key: str, layers: int, default: int | None = None, *, low: int = 1) -> tuple[int, ...]:
        """One integer for all layers, or a list with one for each."""
        value = self.value(key)
        if isinstance(value, list):
            if len(value) != layers:
                raise self.refuse(key, f"found {len(value)} values, expected {layers}, one for each layer")
            return tuple(self._in_range(key, item, low, MAX_WIDTH) for item in value)
        return (self.integer(key, default, low=low),) * layers

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0 that float32 can hold, and its inverse too."""
        value = self.value(key)
        if value is None:
            if default is None:
                raise self.refuse(key, "missing, expected a number")
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not MIN_NUMBER <= value <= MAX_NUMBER:
            raise self.refuse(key, f"found {value!r:.40}, expected a number from {MIN_NUMBER} to {MAX_NUMBER}")
        return float(value)

    def only(self, key: str, *allowed: object) -> None:
        """A key that is understood with these values alone (or absent)."""
        value = self.value(key)
        if value is not None and value not in allowed:
            raise self.refuse(key, f"found {value!r:.40}, only {' or '.join(map(repr, allowed))} is supported")

    def finish(self, harmless: Collection[str]) -> None:
        prefix = f"{self.architecture}."
        for name in self.gguf.metadata:
            key = name.removeprefix(prefix)
            if name.startswith(prefix) and key not in self._read and key not in harmless:
                hint = "the file also holds an encoder of images or sound; use a text-only file of this model"
                raise ArchitectureRefused(
                    f"{name}: unknown to this version, and it may change the model's answers",
                    hint=hint if key.startswith(("vision.", "audio.", "mm.")) else None,
                )

    def _in_range(self, key: str, value: object, low: int, high: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.refuse(key, f"found {value!r:.40}, expected an integer from {low} to {high}")
        return value
