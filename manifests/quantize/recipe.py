"""Which tensor gets which format: llama.cpp's mixtures, so that a name means what people know by it.

    matrices          the format the name says
    the last matrix   Q6_K (`output.weight`, or the embedding where that serves as output), also of Q4_0 .. Q5_1
    _M                Q6_K for the values and the down projection of some layers, _S: Q5_K of the first layers
    vectors, norms    as they are

Rows that do not divide into blocks of 256 take the nearest format of blocks of 32; into none of them, F16.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from manifests.errors import CreateError
from manifests.gguf import TensorInfo
from manifests.gguf_types import FILE_TYPES, TensorType

PLAIN = (TensorType.F32, TensorType.F16, TensorType.BF16)  # what may be quantized

# name -> the format of most matrices
TARGETS: dict[str, TensorType] = {
    "F32": TensorType.F32,
    "F16": TensorType.F16,
    "BF16": TensorType.BF16,
    "Q8_0": TensorType.Q8_0,
    "Q4_0": TensorType.Q4_0,
    "Q4_1": TensorType.Q4_1,
    "Q5_0": TensorType.Q5_0,
    "Q5_1": TensorType.Q5_1,
    "Q4_K_S": TensorType.Q4_K,
    "Q4_K_M": TensorType.Q4_K,
    "Q5_K_S": TensorType.Q5_K,
    "Q5_K_M": TensorType.Q5_K,
    "Q6_K": TensorType.Q6_K,
}
_ALIASES = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
_NARROW = {TensorType.Q4_K: TensorType.Q5_0, TensorType.Q5_K: TensorType.Q5_1, TensorType.Q6_K: TensorType.Q8_0}
_KEPT = re.compile(r".*(_norm|ffn_gate_inp|position_embd|pos_embd|token_types)\.weight|rope_\w+\.weight")
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def target(text: str) -> str:
    """The name as TARGETS has it, from what a user typed. Raises CreateError."""
    name = _ALIASES.get(text.upper(), text.upper())
    if name not in TARGETS:
        raise CreateError(
            f"unsupported quantization type {text[:40]} - supported types are {', '.join(TARGETS)}",
        )
    return name


def file_type(name: str) -> int:
    """`general.file_type`."""
    return next(number for number, known in FILE_TYPES.items() if known == name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The formats of one model's tensors. `layers`: how many there are; `tied`: there is no `output.weight`."""

    name: str
    layers: int
    tied: bool

    def choose(self, info: TensorInfo) -> TensorType:
        base = TARGETS[self.name]
        if not info.name.endswith("weight") or len(info.shape) < 2 or _KEPT.fullmatch(info.name):
            return info.type
        return _fitting(self._wanted(info.name, base), info.shape[0])

    def size(self, info: TensorInfo) -> int:
        """Bytes of the tensor in its format."""
        return self.choose(info).row_bytes(info.values)

    def _wanted(self, name: str, base: TensorType) -> TensorType:
        if base in (*PLAIN, TensorType.Q8_0):
            return base
        if name == ("token_embd.weight" if self.tied else "output.weight"):
            return TensorType.Q6_K
        match = _LAYER.fullmatch(name)
        if match is None:
            return base
        layer, part = int(match[1]), match[2]
        if self.name.endswith("_M"):
            if part in ("attn_v", "ffn_down") and self._sensitive(layer):
                return TensorType.Q6_K
            if part == "attn_qkv":
                return TensorType.Q5_K if base is TensorType.Q4_K else TensorType.Q6_K
        early = {"attn_v": 4, "ffn_down": self.layers // 8}
        if self.name == "Q4_K_S" and layer < early.get(part, 0):
            return TensorType.Q5_K
        return base

    def _sensitive(self, layer: int) -> bool:
        """The first eighth, the last, and every third between them."""
        eighth = self.layers // 8
        return layer < eighth or layer >= 7 * self.layers // 8 or (layer - eighth) % 3 == 2


def recipe(name: str, tensors: Mapping[str, TensorInfo]) -> Recipe:
    layers = {int(match[1]) for match in map(_LAYER.fullmatch, tensors) if match}
    return Recipe(name=name, layers=len(layers), tied="output.weight" not in tensors)


def _fitting(kind: TensorType, cols: int) -> TensorType:
    if cols % kind.block_values == 0:
        return kind
    narrow = _NARROW.get(kind, TensorType.F16)
    return narrow if cols % narrow.block_values == 0 else TensorType.F16
