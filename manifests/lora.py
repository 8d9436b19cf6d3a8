"""LoRA in a GGUF: which low-rank pairs an adapter has, and whether they fit a base model.

    y = W x + scale * B (A x)      A `X.lora_a` [rank rows, width of x], B `X.lora_b` [rows of W, rank]

`scale` is `adapter.lora.alpha` over the rank (1 where alpha is 0), as in llama.cpp. Refused by name: adapters of
another kind or architecture, a tensor without its other half or without a matrix in the base, shapes that do not fit,
an adapter of the embedding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from manifests.errors import GgufError
from manifests.gguf import Gguf, TensorInfo

MAX_RANK = 4096
_HALVES = (".lora_a", ".lora_b")
_EMBEDDINGS = ("token_embd.weight", "position_embd.weight", "token_types.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """`target`: the base's matrix. `down` is A and `up` is B."""

    target: str
    down: TensorInfo
    up: TensorInfo
    scale: float


def pairs(adapter: Gguf, base: Gguf) -> tuple[Pair, ...]:
    """Every change that `adapter` makes to `base`. Raises GgufError."""
    _check_kind(adapter, base)
    alpha = adapter.metadata.get("adapter.lora.alpha", 0.0)
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha) or alpha < 0:
        raise GgufError(f"adapter.lora.alpha: found {alpha!r:.40}, expected a number of 0 or more")
    targets = []
    for name in adapter.tensors:
        if not name.endswith(_HALVES):
            raise GgufError(f"tensor {name}: not one half of a low-rank pair (X.lora_a, X.lora_b)")
        targets.append(name[:-7])
    if not targets:
        raise GgufError("the adapter changes nothing: it has no tensors")
    return tuple(_pair(adapter, base, target, float(alpha)) for target in dict.fromkeys(targets))


def _check_kind(adapter: Gguf, base: Gguf) -> None:
    if adapter.metadata.get("general.type") != "adapter":
        raise GgufError("general.type: the file is a GGUF, but not an adapter")
    kind = adapter.metadata.get("adapter.type")
    if kind != "lora":
        raise GgufError(f"adapter.type: found {kind!r:.40}, only 'lora' is supported")
    if adapter.architecture != base.architecture:
        raise GgufError(
            f"the adapter is for the architecture {adapter.architecture}, the model is a {base.architecture}",
            hint="an adapter works with the base it was trained on",
        )


def _pair(adapter: Gguf, base: Gguf, target: str, alpha: float) -> Pair:
    down, up = (adapter.tensors.get(target + half) for half in _HALVES)
    if down is None or up is None:
        raise GgufError(f"tensor {target}: the adapter has one half of a pair alone")
    matrix = base.tensors.get(target)
    if matrix is None or len(matrix.shape) != 2:
        raise GgufError(
            f"tensor {target}: the adapter changes it, and the model has no such matrix",
            hint="an adapter works with the base it was trained on",
        )
    if target in _EMBEDDINGS:
        raise GgufError(f"tensor {target}: adapters of embeddings are not supported")
    rank = down.shape[-1]
    cols, rows = matrix.shape
    if down.shape != (cols, rank) or up.shape != (rank, rows) or rank > MAX_RANK:
        raise GgufError(
            f"tensor {target}: halves of {list(down.shape)} and {list(up.shape)}, "
            f"expected [{cols}, rank] and [rank, {rows}], rank at most {MAX_RANK}",
            hint="an adapter works with the base it was trained on",
        )
    return Pair(target=target, down=down, up=up, scale=alpha / rank if alpha else 1.0)
