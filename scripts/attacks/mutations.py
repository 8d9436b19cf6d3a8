"""What is mutated, and how: one function for each kind, from a fresh copy of a sound bundle and a seeded generator.

`statement` signs what it changed with a key the reader trusts, so the parser must refuse it, not the signature. All
others change bytes that nobody signed again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bundler import tar
from bundler.medium import read_start
from manifests import canonical
from manifests.statement import PAYLOAD_TYPE
from signing import envelope as dsse
from tests.peers.bundles import signer, volumes
from tests.peers.forgery import identify, member, split, write

HOSTILE: tuple[Any, ...] = (
    0, 1, -1, 511, 513, 4095, 4097, 1 << 31, 1 << 32, 1 << 38, (1 << 53) - 1, True, None, "", "0", "../../x", "\u202e",
    "A" * 5000, "sha256:" + "0" * 64, "0" * 64, "0" * 128, [], {}, [[[[[]]]]], {"a": {"b": {"c": 1}}},
)  # fmt: skip


def mangle(data: bytes, numbers: random.Random, most: int = 3) -> bytes:
    """Flips, cuts, doubles, swaps and inserts, at one to `most` places."""
    out = bytearray(data)
    for _ in range(numbers.randint(1, most)):
        at, length = numbers.randrange(len(out) + 1), numbers.choice((1, 1, 2, 8, 512, 4096))
        kind = numbers.randrange(6)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << numbers.randrange(8)
        elif kind == 1:
            del out[at : at + length]
        elif kind == 2:
            out[at:at] = out[at : at + length]
        elif kind == 3:
            out[at:at] = numbers.randbytes(length)
        elif kind == 4:
            out[at : at + length] = bytes(len(out[at : at + length]))
        else:
            other = numbers.randrange(len(out) + 1)
            out[at : at + length], out[other : other + length] = out[other : other + length], out[at : at + length]
    return bytes(out)


# -- statements, signed again


def change(document: Any, numbers: random.Random) -> None:
    """One change somewhere in a tree of JSON values."""
    places = list(_places(document))
    parent, key = numbers.choice(places)
    value = parent[key]
    kind = numbers.randrange(7)
    if kind == 0:
        parent[key] = numbers.choice(HOSTILE)
    elif kind == 1:
        del parent[key]
    elif kind == 2:
        other, place = numbers.choice(places)
        parent[key] = json.loads(json.dumps(other[place])) if place in _keys(other) else 0
    elif kind == 3 and isinstance(value, int):
        parent[key] = value + numbers.choice((-1, 1, 512, 4096, -4096, 1 << 32))
    elif kind == 4 and isinstance(value, str):
        parent[key] = mangle(value.encode("utf-8", "surrogatepass"), numbers, 1).decode("latin-1")
    elif kind == 5 and isinstance(parent, list):
        parent.insert(numbers.randrange(len(parent) + 1), value)
    elif isinstance(parent, dict):
        parent[numbers.choice(("x", "patch", "run", "size", "digest", "models", ""))] = value
    else:
        numbers.shuffle(parent)


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else list(range(len(value)))


def _places(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        for key in _keys(value):
            yield value, key
            yield from _places(value[key])


def statement(folder: Path, numbers: random.Random) -> None:
    document, payloads = split(folder)
    for _ in range(numbers.choice((1, 1, 1, 2, 4))):
        change(document, numbers)
    try:
        if numbers.random() < 0.9:
            identify(document)
        raw = canonical.encode(document)
    except Exception:  # a tree that the canonical form does not know; then it is plain JSON
        raw = json.dumps(document, sort_keys=numbers.random() < 0.5).encode()
    if numbers.random() < 0.1:
        raw = mangle(raw, numbers)
    _rewrite(folder, raw, payloads)


def _rewrite(folder: Path, raw: bytes, payloads: list[bytes]) -> None:
    """Volumes around a payload that may be no statement at all; names and marks as it says where it says any."""
    marks = {path.name: path.read_bytes()[: 2 * tar.BLOCK] for path in volumes(folder)}
    try:
        write(folder, raw, payloads, [signer()])
    except Exception:  # it has no label or id
        envelope = dsse.encode(dsse.sign(PAYLOAD_TYPE, raw, [signer()]))
        for (name, mark), payload in zip(marks.items(), payloads, strict=True):
            (folder / name).write_bytes(mark + member("statement.dsse.json", envelope) + payload)


# -- bytes


def volume(folder: Path, numbers: random.Random) -> None:
    path = numbers.choice(volumes(folder))
    path.write_bytes(mangle(path.read_bytes(), numbers))


def header(folder: Path, numbers: random.Random) -> None:
    """A member's header, with a right checksum."""
    path = numbers.choice(volumes(folder))
    data = bytearray(path.read_bytes())
    places = [at for at in range(0, len(data), tar.BLOCK) if data[at + 257 : at + 262] == b"ustar"]
    at = numbers.choice(places)
    block = bytearray(mangle(bytes(data[at : at + tar.BLOCK]), numbers, 2)[: tar.BLOCK].ljust(tar.BLOCK, b"\0"))
    if numbers.random() < 0.5:
        block[numbers.choice((124, 100, 136, 156, 157, 257, 345))] = numbers.randrange(256)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    data[at : at + tar.BLOCK] = block
    path.write_bytes(data)


def lengths(folder: Path, numbers: random.Random) -> None:
    """Cut, longer, twice, swapped, renamed, gone."""
    paths = volumes(folder)
    path, other = numbers.choice(paths), numbers.choice(paths)
    kind = numbers.randrange(6)
    data = path.read_bytes()
    if kind == 0:
        path.write_bytes(data[: numbers.randrange(len(data))])
    elif kind == 1:
        path.write_bytes(data + numbers.randbytes(numbers.choice((1, 512, 10_240))))
    elif kind == 2:
        path.with_name(numbers.choice(("copy.tar", "x" + path.name, path.name[:-4] + "1.tar"))).write_bytes(data)
    elif kind == 3:
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
    elif kind == 4:
        path.rename(path.with_name(mangle(path.stem.encode(), numbers, 1).hex()[:60] + ".tar"))
    else:
        path.unlink()


def envelope(folder: Path, numbers: random.Random) -> None:
    """The envelope of all volumes, with members that fit it again."""
    paths = volumes(folder)
    old = read_start(paths[0])[1]
    new = mangle(old, numbers)
    if numbers.random() < 0.4:
        try:
            tree = json.loads(old)
            change(tree, numbers)
            new = canonical.encode(tree)
        except Exception:
            new = mangle(old, numbers)
    for path in paths:
        data = path.read_bytes()
        path.write_bytes(data.replace(member("statement.dsse.json", old), member("statement.dsse.json", new), 1))


def beside(pattern: str) -> Callable[[Path, random.Random], None]:
    """Files beside the volumes: approvals, carried trust, the sheet, the verifier, parity volumes, parts."""

    def mutate(folder: Path, numbers: random.Random) -> None:
        path = numbers.choice(sorted(folder.glob(pattern)))
        path.write_bytes(mangle(path.read_bytes(), numbers))

    return mutate
