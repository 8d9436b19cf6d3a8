"""A bounded, strict reader of safetensors: an 8-byte length, a JSON header, then the data.

The format's own rules: a header of at most 100 MB, no duplicate names, known number formats, shapes that match their
bytes, and offsets that tile the file without gap or overlap. Every limit is checked before memory is taken.

Invariant: of a `Safetensors` that exists, every tensor's bytes lie inside the file, apart from all others.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.errors import FieldError
from manifests.fields import Fields, parse_json

MAX_HEADER = 100 << 20  # bytes; the reference implementation's own bound
MAX_OPENED = 32 << 20  # bytes of a header whose tensors are asked for; more than MAX_TENSORS names take
MAX_TENSORS = 262_144
# bits of one value
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeTensor:
    """`shape` slowest dimension first; `start` and `stop` in bytes, counted from the data's begin."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Safetensors:
    """`tensors` in the order of the file. Make one with `open` or, where only the header matters, `check`."""

    tensors: dict[str, SafeTensor]
    data_offset: int
    buffer: mmap.mmap | None = None

    @classmethod
    def check(cls, path: Path, limit: int = MAX_HEADER) -> Safetensors:
        """Reads and checks the header alone. Raises FieldError and OSError."""
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(limit, size - 8):
                raise FieldError("", f"a header of {length} bytes in a file of {size}")
            raw = stream.read(length)
        return cls(tensors=_tiles(parse_json(raw, limit=MAX_HEADER), size - 8 - length), data_offset=8 + length)

    @classmethod
    def open(cls, path: Path) -> Safetensors:
        """Checks the header and maps the file read-only. Raises FieldError and OSError."""
        checked = cls.check(path, MAX_OPENED)
        with path.open("rb") as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        end = checked.data_offset + max((one.stop for one in checked.tensors.values()), default=0)
        if len(mapped) != end:
            raise FieldError("", f"the file changed while it was read: {len(mapped)} bytes, expected {end}")
        return cls(tensors=checked.tensors, data_offset=checked.data_offset, buffer=mapped)

    def data(self, name: str) -> memoryview:
        """The bytes of one tensor, not copied."""
        assert self.buffer is not None
        found = self.tensors[name]
        return memoryview(self.buffer)[self.data_offset + found.start : self.data_offset + found.stop]

    def release(self) -> None:
        """Lets go of the memory that reading took."""
        if self.buffer is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.buffer.madvise(mmap.MADV_DONTNEED)


def _tiles(header: Any, data: int) -> dict[str, SafeTensor]:
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise FieldError("", f"expected an object of at most {MAX_TENSORS} tensors")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise FieldError("", "__metadata__: expected an object of texts")
    found = {name: _tensor(value, name) for name, value in header.items()}
    end = 0
    ordered = sorted(found.items(), key=lambda item: (item[1].start, item[1].stop))
    for name, tensor in ordered:
        if tensor.start != end:
            words = "overlaps the one before" if tensor.start < end else "leaves a gap"
            raise FieldError("", f"tensor {name[:80]}: begins at {tensor.start}, expected {end}: it {words}")
        end = tensor.stop
    if end != data:
        raise FieldError("", f"the tensors end at {end}, the data at {data}")
    return dict(ordered)


def _tensor(value: Any, name: str) -> SafeTensor:
    fields = Fields.of(value, name[:80])
    dtype = fields.text("dtype", maximum=20)
    start, stop = _pair(fields)
    shape = fields.array("shape", _extent, maximum=16)
    fields.done()
    if dtype not in _BITS:
        raise FieldError(fields.at("dtype"), f"unknown number format {dtype!r}")
    bits = _BITS[dtype]
    for extent in shape:
        bits *= extent
        if bits > 1 << 62:
            raise FieldError(fields.at("shape"), "too large")
    if bits != (stop - start) * 8:
        raise FieldError(name[:80], f"{stop - start} bytes for a shape that needs {bits / 8:g}")
    return SafeTensor(dtype=dtype, shape=shape, start=start, stop=stop)


def _pair(fields: Fields) -> tuple[int, int]:
    pair = fields.array("data_offsets", _extent, maximum=2)
    if len(pair) != 2 or pair[0] > pair[1]:
        raise FieldError(fields.at("data_offsets"), "expected a begin and an end")
    return pair[0], pair[1]


def _extent(value: Any, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise FieldError(path, "expected a number")
    return value
