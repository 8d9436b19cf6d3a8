"""Quantizes one GGUF of the store into another: tensor by tensor, never a whole model in memory.

Refuses, by name: sources that hold anything but F32, F16 and BF16 (what was lost once is not found again, and a second
rounding adds to the first), projectors and adapters, values that are not finite.
Metadata is kept but for `general.file_type` and `general.quantization_version`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from manifests.digest import Digest
from manifests.errors import CreateError
from manifests.gguf import Gguf, TensorInfo
from manifests.gguf_types import TensorType, ValueType
from manifests.gguf_write import Key, Tensor, put_gguf
from manifests.quantize.recipe import PLAIN, file_type, recipe
from manifests.store import Store

QUANTIZATION_VERSION = 2  # ggml's: of the blocks' layouts


def plain_name(gguf: Gguf) -> str:
    """F32, F16 or BF16: what most of the file's values are. Raises CreateError where they are quantized already."""
    sizes = dict.fromkeys(PLAIN, 0)
    for info in gguf.tensors.values():
        if info.type not in sizes:
            raise CreateError(
                "quantization is only supported for F16, BF16 and F32 models",
                hint=f"tensor {info.name} is {info.type.name}: begin with the unquantized model",
            )
        sizes[info.type] += info.values
    return max(sizes, key=sizes.__getitem__).name


def quantize(store: Store, gguf: Gguf, name: str, done: Callable[[int], None] = lambda step: None) -> Digest:
    """A new blob with the model in format `name` (of recipe.TARGETS); `done` gets the bytes written so far, by step."""
    plain_name(gguf)
    chosen = recipe(name, gguf.tensors)
    keys = {key: Key(value=value, kind=gguf.kinds[key]) for key, value in gguf.metadata.items()}
    keys["general.file_type"] = Key(value=file_type(name), kind=ValueType.U32)
    keys["general.quantization_version"] = Key(value=QUANTIZATION_VERSION, kind=ValueType.U32)
    tensors = []
    for info in gguf.tensors.values():
        kind = chosen.choose(info)
        tensors.append(Tensor(name=info.name, shape=info.shape, type=kind, data=partial(_data, gguf, info, kind)))
    return put_gguf(store, keys, tensors, done)


def _data(gguf: Gguf, info: TensorInfo, kind: TensorType) -> Iterable[bytes | memoryview]:
    from manifests.quantize.blocks import recode

    raw = gguf.data(info.name)
    if kind is info.type:
        for first in range(0, len(raw), 1 << 24):
            yield raw[first : first + (1 << 24)]
    else:
        yield from recode(raw, info.type, kind, info.shape[0], info.name)
    gguf.release()
