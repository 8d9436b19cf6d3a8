"""What an attacker, or a careless publisher, could put on a medium: volumes rewritten around any statement and payload.

`forge` signs what it is told to, with a key the reader trusts: the statement itself lies. Everything else works on
bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bundler import layout, tar
from bundler.medium import open_medium
from manifests import canonical
from manifests.statement import PAYLOAD_TYPE, Statement
from signing import envelope as dsse
from signing.keys import Signer
from tests.peers.bundles import signer, volumes


def statement_of(folder: Path) -> Statement:
    return Statement.decode(dsse.decode(open_medium(folder).envelope).payload)


def split(folder: Path) -> tuple[dict[str, Any], list[bytes]]:
    """The statement as JSON values, and the payload of every volume."""
    medium = open_medium(folder)
    statement = Statement.decode(dsse.decode(medium.envelope).payload)
    payloads = [
        path.read_bytes()[-volume.size :] for path, volume in zip(volumes(folder), statement.volumes, strict=True)
    ]
    return json.loads(statement.encode()), payloads


def member(name: str, data: bytes) -> bytes:
    return tar.header(name, len(data)) + data + tar.padding(len(data))


def write(folder: Path, payload: bytes, payloads: Sequence[bytes], signers: Sequence[Signer]) -> None:
    """Replaces the volumes in `folder` by ones around this statement, whatever it says."""
    for path in folder.iterdir():
        path.unlink()
    envelope = dsse.encode(dsse.sign(PAYLOAD_TYPE, payload, signers))
    bundle = json.loads(payload)["predicate"]["bundle"]
    stem, n = f"{bundle['label']}-{bundle['id'][:8]}".replace("/", "_"), len(payloads)
    for index, data in enumerate(payloads):
        line = f"{layout.FORMAT} {bundle['id']} v{index:03d}/{n:03d}\n".encode()
        head = member(layout.MARK, line) + member(layout.ENVELOPE, envelope)
        (folder / f"{stem}.v{index:03d}.tar").write_bytes(head + data)


def identify(document: dict[str, Any]) -> None:
    """Gives a statement the id that follows from it."""
    predicate = document["predicate"]
    predicate["bundle"]["id"] = ""
    predicate["bundle"]["id"] = hashlib.sha256(canonical.encode(predicate)).hexdigest()[:32]


def forge(
    folder: Path,
    change: Callable[[dict[str, Any]], None] = lambda document: None,
    *,
    payloads: Callable[[list[bytes]], list[bytes]] = lambda found: found,
    by: Sequence[Signer] = (),
    id_follows: bool = True,
) -> None:
    """Applies `change` to the statement's JSON and `payloads` to the payloads, and signs the result."""
    document, found = split(folder)
    change(document)
    if id_follows:
        identify(document)
    write(folder, canonical.encode(document), payloads(found), by or [signer()])


def flip(path: Path, offset: int, mask: int = 1) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ mask]))
