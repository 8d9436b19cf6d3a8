"""Makes small random LoRA adapters as GGUF, for a base model, with the `gguf` package's own writer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from manifests.gguf import Gguf

Floats = npt.NDArray[np.float32]


def linear_names(base: Gguf) -> list[str]:
    """The base's matrices but for its embedding."""
    return [name for name, info in base.tensors.items() if len(info.shape) == 2 and name != "token_embd.weight"]


def make_adapter(
    path: Path,
    base: Gguf,
    *,
    targets: Sequence[str] | None = None,
    rank: int = 4,
    alpha: float = 8.0,
    seed: int = 0,
    size: float = 0.3,
    metadata: dict[str, Any] | None = None,
    quant: str = "F32",
) -> Path:
    """Halves whose product, scaled, is about `size` times as large as a matrix of 1 over the root of its width."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, base.architecture)
    keys: dict[str, Any] = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": alpha} | (
        metadata or {}
    )
    for key, value in keys.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
    kind = gguf.GGMLQuantizationType[quant]
    for name in linear_names(base) if targets is None else targets:
        cols, rows = base.tensors[name].shape
        down = rng.standard_normal((rank, cols), np.float32) / np.float32(np.sqrt(cols))
        up = rng.standard_normal((rows, rank), np.float32) * np.float32(size / np.sqrt(rank) * rank / (alpha or rank))
        for half, matrix in (("a", down), ("b", up)):
            plain = quant == "F32" or matrix.shape[1] % 32
            data = matrix if plain else gguf.quants.quantize(matrix, kind)
            writer.add_tensor(f"{name}.lora_{half}", data, raw_dtype=None if plain else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def merged(base: dict[str, Floats], adapter: Gguf, values: dict[str, Floats], alpha: float) -> dict[str, Floats]:
    """The base's tensors with the adapter's products added, in float64: what the adapter means."""
    found = {name: matrix.astype(np.float64) for name, matrix in base.items()}
    for name in {name[:-7] for name in adapter.tensors}:
        down, up = (values[f"{name}.lora_{half}"].astype(np.float64) for half in "ab")
        found[name] = found[name] + (alpha / len(down) if alpha else 1.0) * (up @ down)
    return found  # type: ignore[return-value]
