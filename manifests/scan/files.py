"""Files that do not belong into a model: pickles, programs, scripts, archives; and the header of a safetensors file.

A file is judged by its first bytes and by its name, whichever says more. Nothing is unpacked or loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from manifests.errors import FieldError
from manifests.safetensors import MAX_HEADER, Safetensors
from manifests.scan.rules import Hit

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
    """The format's own rules, as `manifests.safetensors` holds them."""
    try:
        Safetensors.check(path)
    except FieldError as error:
        yield "safetensors.header", str(error)
