"""Writes a GGUF, a tensor at a time: the head by the `gguf` package, the data as it is made, hashed on the way.

Memory is bounded by what `data` yields at a time. What is written is what was announced: a tensor of another size is
our own mistake. The package cannot write empty arrays; such keys are left out (they say nothing).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.digest import Digest, chunks
from manifests.gguf_types import TensorType, ValueType
from manifests.store import Store, disk_errors, sync_file

ALIGNMENT = 32
Data = Callable[[], Iterable[bytes | memoryview]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One metadata value; `kind` is that of the elements where it is a list."""

    value: Any
    kind: ValueType


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """`shape` in GGUF's order, fastest dimension first; `data` gives its bytes in pieces, when its turn comes."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    data: Data

    @property
    def size(self) -> int:
        """In bytes."""
        values = 1
        for extent in self.shape:
            values *= extent
        return self.type.row_bytes(values)


def put_gguf(store: Store, keys: Mapping[str, Key], tensors: Iterable[Tensor], done: Callable[[int], None]) -> Digest:
    """Writes the file into the store and returns its digest; `done` gets the bytes of each step.

    Nothing is visible before the last byte was written, hashed and synced. Raises NoSpace, and what `data` raises.
    """
    tensors = list(tensors)
    store.require_space(sum(tensor.size for tensor in tensors))
    with store.temporary() as path:
        with disk_errors(store.root):
            _write_head(path, keys, tensors)
        hasher = hashlib.sha256()
        with disk_errors(store.root), path.open("r+b") as out:
            for chunk in chunks(out):
                hasher.update(chunk)

            def write(piece: bytes | memoryview) -> None:
                out.write(piece)
                hasher.update(piece)

            write(bytes(-out.tell() % ALIGNMENT))
            for tensor in tensors:
                written = 0
                for piece in tensor.data():
                    write(piece)
                    written += len(piece)
                    done(len(piece))
                assert written == tensor.size, f"{tensor.name}: wrote {written} bytes, announced {tensor.size}"
                write(bytes(-written % ALIGNMENT))
            sync_file(out)
        digest = Digest(hasher.hexdigest())
        store.adopt(path, digest)
    return digest


def _write_head(path: Path, keys: Mapping[str, Key], tensors: list[Tensor]) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter

    architecture = keys["general.architecture"].value
    writer = GGUFWriter(path, architecture)
    for name, key in keys.items():
        kind = GGUFValueType(int(key.kind))
        if name in ("general.architecture", "general.alignment") or key.value == []:
            continue
        if isinstance(key.value, list):
            writer.add_key_value(name, key.value, GGUFValueType.ARRAY, kind)
        else:
            writer.add_key_value(name, key.value, kind)
    for tensor in tensors:
        number = GGMLQuantizationType(int(tensor.type))
        writer.add_tensor_info(tensor.name, tensor.shape[::-1], np.dtype(np.float32), tensor.size, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
