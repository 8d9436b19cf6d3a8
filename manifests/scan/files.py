"""Files that do not belong into a model: pickles, programs, scripts, archives; and the header of a safetensors file.

A file is judged by its first bytes and by its name, whichever says more. Nothing is unpacked or loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manifests.errors import FieldError
from manifests.fields import Fields, parse_json
from manifests.scan.rules import Hit

MAX_HEADER = 100 << 20  # bytes; the reference implementation's own bound
MAX_TENSORS = 262_144
HEAD = 512  # bytes looked at

_MAGICS = {
    "file.program": rb"\x7fELF|MZ[^\n]{0,58}\0|\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe|\0asm",
    # a protocol opcode and what follows it; protocol 0: a global (`cos\nsystem\n`), or a mark that opens a dict
    "file.pickle": rb"\x80[\x02-\x05][\x95}\](\x8ac\x8c.]|\(dp?\d*\n|c(?:os|posix|nt|sys|builtins|__builtin__|"
    rb"subprocess|torch[\w.]*|collections|numpy[\w.]*|copy_?reg|_codecs|operator|runpy|socket|shutil)\n\w+\n",
    "file.archive": rb"PK(?:\x03\x04|\x05\x06|\x07\x08)|\x1f\x8b\x08|7z\xbc\xaf|Rar!|BZh\d1AY|\xfd7zXZ|"
    rb"\x28\xb5\x2f\xfd",
    "file.script": rb"#![ ]*/|<\?php",
}
_NAMES = {
    "file.pickle": ".bin .pt .pth .pkl .pickle .ckpt .joblib .dill .npy .npz .h5 .keras",
    "file.script": ".py .pyc .pyw .ipynb .sh .bash .bat .cmd .ps1 .js .mjs .rb .pl .lua",
    "file.program": ".so .dll .dylib .exe .pyd .wasm .ko .o .a .node",
    "file.archive": ".zip .tar .gz .tgz .7z .rar .bz2 .xz .zst .whl .egg .jar .nemo .mar",
}
# bits of one value
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


def head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(HEAD)


def magic(raw: bytes) -> Iterator[Hit]:
    for rule, pattern in _MAGICS.items():
        if re.match(pattern, raw):
            yield rule, f"begins with {raw[:8].hex(' ')}"
            return


def named(name: str) -> Iterator[Hit]:
    low = name.lower()
    for rule, ends in _NAMES.items():
        if low.endswith(tuple(ends.split())):
            yield rule, f"the name ends in {low[low.rindex('.') :]}"


def looks_like_safetensors(raw: bytes, size: int) -> bool:
    return len(raw) > 8 and raw[8:9] == b"{" and int.from_bytes(raw[:8], "little") <= max(size, MAX_HEADER)


def safetensors(path: Path) -> Iterator[Hit]:
    """The format's own rules: header of at most 100 MB, JSON without duplicates, and offsets that tile the file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            yield "safetensors.header", f"a header of {length} bytes in a file of {size}"
            return
        raw = stream.read(length)
    try:
        yield from _tiles(parse_json(raw, limit=MAX_HEADER), size - 8 - length)
    except FieldError as error:
        yield "safetensors.header", str(error)


def _tiles(header: Any, data: int) -> Iterator[Hit]:
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        yield "safetensors.header", f"expected an object of at most {MAX_TENSORS} tensors"
        return
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        yield "safetensors.header", "__metadata__: expected an object of texts"
    spans = sorted((*_span(value, name), name) for name, value in header.items())
    end = 0
    for start, stop, name in spans:
        if start != end:
            words = "overlaps the one before" if start < end else "leaves a gap"
            yield "safetensors.header", f"tensor {name[:80]}: begins at {start}, expected {end}: it {words}"
            return
        end = stop
    if end != data:
        yield "safetensors.header", f"the tensors end at {end}, the data at {data}"


def _span(value: Any, name: str) -> tuple[int, int]:
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
    return start, stop


def _pair(fields: Fields) -> tuple[int, int]:
    pair = fields.array("data_offsets", _extent, maximum=2)
    if len(pair) != 2 or pair[0] > pair[1]:
        raise FieldError(fields.at("data_offsets"), "expected a begin and an end")
    return pair[0], pair[1]


def _extent(value: Any, path: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise FieldError(path, "expected a number")
    return value
