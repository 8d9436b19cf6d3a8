"""The values of GGUF's head: numbers, strings and arrays, read by a cursor that never passes its end.

Every count and length is checked against what is left and against `gguf_limits` before memory is taken. Errors name the
thing read and its place.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from manifests import gguf_limits as limits
from manifests.errors import GgufError
from manifests.gguf_types import ValueType

if TYPE_CHECKING:
    from io import FileIO

Buffer = bytes | bytearray | mmap.mmap
_SCALARS = {
    ValueType.U8: "B",
    ValueType.I8: "b",
    ValueType.U16: "H",
    ValueType.I16: "h",
    ValueType.U32: "I",
    ValueType.I32: "i",
    ValueType.F32: "f",
    ValueType.U64: "Q",
    ValueType.I64: "q",
    ValueType.F64: "d",
}
_LAYOUTS = {code: struct.Struct("<" + code) for code in _SCALARS.values()}


# Given bytes and a count: how many of so many strings, each a u64 length and its UTF-8, are whole at the start of these
# bytes, and where the last one ends.
PassStrings = Callable[[memoryview, int], tuple[int, int]]


class RawArray:
    """An array that passed every check and was not decoded: `count` elements, as `data` has them in the file."""

    __slots__ = ("count", "data", "kind")

    def __init__(self, kind: ValueType, count: int, data: memoryview) -> None:
        self.kind = kind
        self.count = count
        self.data = data

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tolist())

    def tolist(self) -> list[Any]:
        if self.kind is ValueType.STRING:
            return _read_strings(Reader(bytes(self.data)), "", self.count)
        if self.kind is ValueType.BOOL:
            return [byte == 1 for byte in self.data]
        return list(struct.unpack(f"<{self.count}{_SCALARS[self.kind]}", self.data))


class HeadFile:
    """The beginning of an open file, copied as far as it is wanted. `buffer` has room for all metadata that is allowed;
    what is not filled takes no memory."""

    def __init__(self, file: FileIO) -> None:
        """Raises GgufError for an empty file."""
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        if not self.size:
            raise GgufError("the file is empty, expected a GGUF file")
        most = min(self.size, limits.MAX_METADATA_BYTES)
        self.buffer = mmap.mmap(-1, most, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.filled = 0
        self.fill()

    def fill(self) -> bool:
        """Twice as many bytes; False where there are no more. Raises GgufError where the file has lost some."""
        wanted = min(len(self.buffer), max(limits.FIRST_READ_BYTES, 2 * self.filled))
        if wanted == self.filled:
            return False
        with memoryview(self.buffer) as whole:
            while self.filled < wanted:
                with whole[self.filled : wanted] as rest:
                    count = os.preadv(self._file.fileno(), [rest], self.filled)
                if not count:
                    raise GgufError(f"the file ended at byte {self.filled} of {self.size} while it was read")
                self.filled += count
        return True


class Reader:
    """A cursor that never passes `end`: the file's end, or the most metadata allowed, whichever comes first; of a
    HeadFile, as far as that is filled."""

    __slots__ = ("_head", "array_values", "arrays", "buffer", "end", "kinds", "pass_strings", "position", "size")

    def __init__(
        self, source: Buffer | HeadFile, *, arrays: bool = True, pass_strings: PassStrings | None = None
    ) -> None:
        self._head = source if isinstance(source, HeadFile) else None
        self.buffer: Buffer = source.buffer if isinstance(source, HeadFile) else source
        self.arrays = arrays  # whether their elements are wanted
        self.pass_strings = pass_strings  # how to go past those that are not
        self.size = self._head.size if self._head else len(self.buffer)
        self.end = self._head.filled if self._head else min(self.size, limits.MAX_METADATA_BYTES)
        self.position = 0
        self.array_values = 0
        self.kinds: dict[str, ValueType] = {}  # of each key's value, or of its elements

    def more(self) -> bool:
        """Moves `end` on, where a HeadFile has not been read to the end."""
        if self._head is None or not self._head.fill():
            return False
        self.end = self._head.filled
        return True

    def skip(self, length: int, what: str) -> int:
        """Moves past `length` bytes and returns where they begin."""
        start = self.position
        while length > self.end - start:
            if self.more():
                continue
            if self.end < self.size:
                raise GgufError(f"{what}: goes beyond the {limits.MAX_METADATA_BYTES} bytes allowed for metadata")
            raise GgufError(f"{what}: needs {length} bytes at offset {start}, the file has {self.end - start} left")
        self.position = start + length
        return start

    def take(self, length: int, what: str) -> bytes:
        start = self.skip(length, what)
        return bytes(self.buffer[start : start + length])

    def number(self, code: str, what: str) -> Any:
        layout = _LAYOUTS[code]
        return layout.unpack_from(self.buffer, self.skip(layout.size, what))[0]

    def count(self, what: str, most: int, least_bytes: int) -> int:
        """A u64 count of things that take at least `least_bytes` each."""
        value: int = self.number("Q", what)
        if value > most:
            raise GgufError(f"{what}: found {value}, at most {most} allowed")
        while value * least_bytes > self.end - self.position:
            if self.more():
                continue
            raise GgufError(f"{what}: found {value}, the {self.end - self.position} bytes left cannot hold so many")
        return value

    def string(self, what: str, most: int = limits.MAX_METADATA_BYTES) -> str:
        length: int = self.number("Q", what)
        if length > most:
            raise GgufError(f"{what}: found a length of {length} bytes, at most {most} allowed")
        start = self.position
        try:
            return self.take(length, what).decode()
        except UnicodeDecodeError as error:
            raise GgufError(f"{what}: bytes at offset {start + error.start} are not UTF-8") from error


def _value_type(reader: Reader, what: str) -> ValueType:
    number: int = reader.number("I", what)
    try:
        return ValueType(number)
    except ValueError:
        raise GgufError(f"{what}: found value type {number}, expected 0 to {max(ValueType)}") from None


def read_value(reader: Reader, key: str) -> Any:
    kind = reader.kinds[key] = _value_type(reader, key)
    if kind is ValueType.ARRAY:
        return _read_array(reader, key)
    if kind is ValueType.STRING:
        return reader.string(key)
    if kind is ValueType.BOOL:
        value: int = reader.number("B", key)
        if value > 1:
            raise GgufError(f"{key}: found {value} for a boolean, expected 0 or 1")
        return bool(value)
    return reader.number(_SCALARS[kind], key)


def _read_array(reader: Reader, key: str) -> list[Any] | RawArray:
    kind = reader.kinds[key] = _value_type(reader, f"{key}[]")
    if kind is ValueType.ARRAY:
        raise GgufError(f"{key}: an array of arrays is not allowed")
    width = {ValueType.STRING: 8, ValueType.BOOL: 1}.get(kind) or struct.calcsize(_SCALARS[kind])
    count = reader.count(f"{key}: array length", limits.MAX_ARRAY_VALUES, width)
    reader.array_values += count
    if reader.array_values > limits.MAX_ARRAY_VALUES:
        raise GgufError(f"{key}: all arrays together hold more than {limits.MAX_ARRAY_VALUES} values")
    start = reader.position
    if kind is ValueType.STRING:
        if reader.arrays or not _passed(reader, count):
            reader.position = start
            strings = _read_strings(reader, key, count)
            if reader.arrays:
                return strings
    else:
        reader.skip(count * width, key)
    raw = RawArray(kind, count, memoryview(reader.buffer)[start : reader.position])
    if kind is ValueType.BOOL and bytes(raw.data).strip(b"\0\1"):
        raise GgufError(f"{key}: found a boolean other than 0 and 1")
    return raw.tolist() if reader.arrays or not count else raw


def _passed(reader: Reader, count: int) -> bool:
    """Goes past strings that nobody wants, if they are sound."""
    if reader.pass_strings is None:
        return _pass_strings(reader, count) or (reader.more() and _passed(reader, count))
    while True:
        with memoryview(reader.buffer) as whole, whole[reader.position : reader.end] as rest:
            passed, size = reader.pass_strings(rest, count)
        reader.position += size
        count -= passed
        if not count or not reader.more():
            return not count


def _pass_strings(reader: Reader, count: int) -> bool:
    """As `_passed`, in Python, as far as the head is filled. A length below 128 is ASCII, so that no character of the
    string before it can go on in it: what lies between two longer strings is decoded at once."""
    buffer, end, position = reader.buffer, reader.end, reader.position
    length_at = struct.Struct("<Q").unpack_from
    undecoded = position
    try:
        for _ in range(count):
            (length,) = length_at(buffer, position)
            position += 8 + length
            if length >= 128:
                if position > end:
                    return False
                bytes(buffer[undecoded : position - length - 8]).decode()
                bytes(buffer[position - length : position]).decode()
                undecoded = position
        if position > end:
            return False
        bytes(buffer[undecoded:position]).decode()
    except (struct.error, UnicodeDecodeError):
        return False
    reader.position = position
    return True


def _read_strings(reader: Reader, key: str, count: int) -> list[str]:
    """The hot loop: vocabularies are most of a head's work, so bounds are checked here and not through the reader."""
    buffer, end, position = reader.buffer, reader.end, reader.position
    length_at = struct.Struct("<Q").unpack_from
    strings: list[str] = []
    append = strings.append
    try:
        for _ in range(count):
            start = position + 8
            (length,) = length_at(buffer, position)
            position = start + length
            if position > end:
                break
            append(buffer[start:position].decode())
    except UnicodeDecodeError as error:
        raise GgufError(f"{key}[{len(strings)}]: bytes at offset {start + error.start} are not UTF-8") from error
    except struct.error:
        pass  # the buffer ended inside a length
    if len(strings) < count:
        if reader.more():
            return _read_strings(reader, key, count)
        raise GgufError(f"{key}[{len(strings)}]: the string at offset {start} goes beyond the metadata's end at {end}")
    reader.position = position
    return strings
