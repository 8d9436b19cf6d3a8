"""A bounded reader of GGUF, versions 2 and 3, little endian.

    magic, version, counts -> keys and values -> tensor table -> padding -> tensor data -> padding

It reads and checks the whole head of a file and the extent of every tensor; tensor data is only pointed at. Refused,
each by name and place: any count or length that the rest of the file (or `gguf_limits`) cannot hold, before memory is
taken; duplicate or odd keys; arrays of arrays; bad UTF-8; booleans other than 0 and 1; an alignment that is not a power
of two; unknown number formats; tensors that overlap, leave gaps, end outside the file or leave bytes behind them;
big-endian files.

Invariant: of a `Gguf` that exists, every tensor's bytes lie inside the file, apart from all others.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from manifests import gguf_limits as limits
from manifests.errors import GgufError
from manifests.gguf_types import FILE_TYPES, TensorType, ValueType
from manifests.gguf_values import Buffer, HeadFile, PassStrings, RawArray, Reader, read_value

if TYPE_CHECKING:
    from pathlib import Path

MAGIC = b"GGUF"
VERSIONS = (2, 3)

_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class TensorInfo(NamedTuple):
    """`shape` as GGUF writes it, fastest dimension first; `offset` (from the file's start) and `size` in bytes."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    offset: int
    size: int

    @property
    def values(self) -> int:
        count = 1
        for extent in self.shape:
            count *= extent
        return count


class Gguf(NamedTuple):
    """A file that passed every check above. `metadata` and `tensors` keep the file's order; arrays are lists, or
    where they were not wanted RawArrays, unless they are empty; `kinds` has the type of each key's value, or of its
    elements."""

    version: int
    alignment: int
    data_offset: int
    file_size: int
    metadata: dict[str, Any]
    kinds: dict[str, ValueType]
    tensors: dict[str, TensorInfo]
    buffer: Buffer

    @classmethod
    def open(cls, path: Path | str, *, arrays: bool = True, pass_strings: PassStrings | None = None) -> Gguf:
        """Maps the file read-only and parses it. Raises GgufError, also when the file cannot be read. `arrays` False:
        those of the metadata are checked and left where they lie, which takes a third of the time; a tenth, with a
        `pass_strings` that is faster than Python."""
        try:
            with open(path, "rb") as file:
                if not file.seek(0, 2):
                    raise GgufError("the file is empty, expected a GGUF file")
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise GgufError(f"the file cannot be read: {error.strerror or error}", path=path) from error
        return cls.parse(mapped, arrays=arrays, pass_strings=pass_strings)

    @classmethod
    def head(cls, path: Path | str, *, arrays: bool = True, pass_strings: PassStrings | None = None) -> Gguf:
        """As `open`, for those who want no tensor's bytes: the head is copied into memory, so that a disk that fails or
        a file that is cut meanwhile is a GgufError. In a map it would be SIGBUS, which ends the process."""
        try:
            with open(path, "rb", buffering=0) as file:
                return cls._of(Reader(HeadFile(file), arrays=arrays, pass_strings=pass_strings))
        except OSError as error:
            raise GgufError(f"the file cannot be read: {error.strerror or error}", path=path) from error

    @classmethod
    def parse(cls, buffer: Buffer, *, arrays: bool = True, pass_strings: PassStrings | None = None) -> Gguf:
        """Parses a whole file held in `buffer`, which must not change while the result is in use."""
        return cls._of(Reader(buffer, arrays=arrays, pass_strings=pass_strings))

    @classmethod
    def _of(cls, reader: Reader) -> Gguf:
        version = _read_version(reader)
        n_tensors = reader.count("tensor count", limits.MAX_TENSORS, limits.MIN_TENSOR_ENTRY_BYTES)
        n_keys = reader.count("key count", limits.MAX_KEYS, limits.MIN_KEY_ENTRY_BYTES)
        metadata = _read_metadata(reader, n_keys)
        alignment = _alignment(metadata)
        entries = [_read_tensor(reader, index) for index in range(n_tensors)]
        data_offset = _align(reader.position, alignment)
        tensors = _place(entries, data_offset, alignment, reader.position, reader.size)
        return cls(
            version=version,
            alignment=alignment,
            data_offset=data_offset,
            file_size=reader.size,
            metadata=metadata,
            kinds=reader.kinds,
            tensors=tensors,
            buffer=reader.buffer,
        )

    def data(self, name: str) -> memoryview:
        """The bytes of one tensor, not copied; not of a `head`."""
        info = self.tensors[name]
        assert len(self.buffer) == self.file_size, "only the head was read"
        return memoryview(self.buffer)[info.offset : info.offset + info.size]

    def release(self) -> None:
        """Lets go of the memory that reading the mapped file took: what is read again comes from the file again."""
        if isinstance(self.buffer, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self.buffer.madvise(mmap.MADV_DONTNEED)

    @property
    def architecture(self) -> str:
        """`general.architecture`. Raises GgufError where it is absent or not a plain name."""
        value = self.metadata.get("general.architecture")
        if not isinstance(value, str) or not _KEY.fullmatch(value):
            raise GgufError(f"general.architecture: found {value!r:.60}, expected a name")
        return value

    @property
    def parameter_count(self) -> int:
        return sum(info.values for info in self.tensors.values())

    @property
    def file_type(self) -> str:
        """The name of the whole-file quantization; `unknown` where the file does not say (0 is also "not said")."""
        number = self.metadata.get("general.file_type")
        return FILE_TYPES.get(number, "unknown") if isinstance(number, int) and number else "unknown"

    def describe(self, *, verbose: bool = False) -> dict[str, Any]:
        """The metadata as /api/show's `model_info` gives it: no name, no template, a parameter count added.

        Arrays that are not empty become None unless `verbose`.
        """
        facts: dict[str, Any] = {}
        for key, value in self.metadata.items():
            if key in ("general.name", "tokenizer.chat_template"):
                continue
            if isinstance(value, (list, RawArray)) and value:
                value = list(value) if verbose else None
            facts[key] = value
        facts["general.parameter_count"] = self.parameter_count
        return facts


def _align(position: int, alignment: int) -> int:
    return (position + alignment - 1) // alignment * alignment


def _read_version(reader: Reader) -> int:
    magic = reader.take(4, "magic")
    if magic != MAGIC:
        raise GgufError(f"magic: found {magic!r}, expected {MAGIC!r}: not a GGUF file")
    version: int = reader.number("I", "version")
    if version in VERSIONS:
        return version
    if int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS:
        raise GgufError(
            "version: the file is big endian, only little endian is read",
            hint="convert it with gguf_convert_endian.py of the gguf package",
        )
    raise GgufError(f"version: found {version}, expected 2 or 3")


def _read_metadata(reader: Reader, n_keys: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(n_keys):
        key = reader.string(f"key {index}", limits.MAX_KEY_BYTES)
        if not _KEY.fullmatch(key):
            raise GgufError(f"key {index}: found {key!r:.80}, expected letters, digits, '_' and '-', joined by dots")
        if key in metadata:
            raise GgufError(f"key {index}: {key} appears twice")
        metadata[key] = read_value(reader, key)
    return metadata


def _alignment(metadata: dict[str, Any]) -> int:
    value = metadata.get("general.alignment", limits.DEFAULT_ALIGNMENT)
    valid = isinstance(value, int) and limits.MIN_ALIGNMENT <= value <= limits.MAX_ALIGNMENT and not value & (value - 1)
    if not valid:
        low, high = limits.MIN_ALIGNMENT, limits.MAX_ALIGNMENT
        raise GgufError(f"general.alignment: found {value!r:.40}, expected a power of two from {low} to {high}")
    return int(value)


def _read_tensor(reader: Reader, index: int) -> TensorInfo:
    """One entry of the tensor table; its offset still counts from the start of the data."""
    name = reader.string(f"tensor {index}: name", limits.MAX_TENSOR_NAME_BYTES)
    if not name.isprintable() or not name:
        raise GgufError(f"tensor {index}: found {name!r} for a name, expected printable text")
    dimensions: int = reader.number("I", f"tensor {name}: dimensions")
    if not 1 <= dimensions <= limits.MAX_DIMENSIONS:
        raise GgufError(f"tensor {name}: found {dimensions} dimensions, expected 1 to {limits.MAX_DIMENSIONS}")
    what = f"tensor {name}: shape"
    shape = tuple([reader.number("Q", what) for _ in range(dimensions)])
    values = _checked_product(name, shape)
    number: int = reader.number("I", f"tensor {name}: type")
    try:
        kind = TensorType(number)
    except ValueError:
        raise GgufError(f"tensor {name}: number format {number} is not known") from None
    if shape[0] % kind.block_values:
        raise GgufError(
            f"tensor {name}: rows of {shape[0]} values do not divide into {kind.name} blocks of {kind.block_values}"
        )
    offset: int = reader.number("Q", f"tensor {name}: offset")
    return TensorInfo(name=name, shape=shape, type=kind, offset=offset, size=kind.row_bytes(values))


def _checked_product(name: str, shape: Iterable[int]) -> int:
    values = 1
    for extent in shape:
        if extent < 1:
            raise GgufError(f"tensor {name}: a dimension is 0")
        values *= extent
        if values > limits.MAX_TENSOR_VALUES:
            raise GgufError(f"tensor {name}: holds more than {limits.MAX_TENSOR_VALUES} values")
    return values


def _place(
    entries: list[TensorInfo], data_offset: int, alignment: int, head_end: int, file_size: int
) -> dict[str, TensorInfo]:
    """Gives every tensor its place in the file: each begins exactly where the one before it, padded, ends."""
    tensors: dict[str, TensorInfo] = {}
    for info in entries:
        if info.name in tensors:
            raise GgufError(f"tensor {info.name}: the name appears twice")
        if info.offset % alignment:
            raise GgufError(f"tensor {info.name}: offset {info.offset} is not a multiple of the alignment {alignment}")
        start = data_offset + info.offset
        if start + info.size > file_size:
            raise GgufError(f"tensor {info.name}: ends at byte {start + info.size}, the file at {file_size}")
        tensors[info.name] = TensorInfo(name=info.name, shape=info.shape, type=info.type, offset=start, size=info.size)
    end = head_end
    for info in sorted(tensors.values(), key=lambda tensor: tensor.offset):
        expected = _align(end, alignment)
        if info.offset < expected:
            raise GgufError(f"tensor {info.name}: begins at byte {info.offset}, inside what ends at {expected}")
        if info.offset > expected:
            raise GgufError(f"tensor {info.name}: begins at byte {info.offset}, leaving a gap from {expected}")
        end = info.offset + info.size
    if file_size not in (end, _align(end, alignment)):
        raise GgufError(f"{file_size - end} bytes follow the data's end at {end}, more than padding")
    return tensors


def count_text(count: int) -> str:
    """A number of parameters as lists show it: 134.52M, 1.2B (contract, 3.4)."""
    if count >= 10**9:
        return f"{count / 1e9:.1f}B".replace(".0B", "B")
    if count >= 10**6:
        return f"{count / 1e6:.2f}M"
    return f"{count // 1000}K" if count >= 1000 else str(count)
