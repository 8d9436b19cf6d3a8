"""One volume against its statement: every byte of its file, read once. Encrypted volumes are read inside."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bundler import heads, layout
from bundler.conceal import SEALED
from bundler.errors import BundleRefused, CannotDecrypt, MediumUnavailable, VolumeDamaged, VolumeMixed
from bundler.medium import HEAD, VolumeReader, read_start
from bundler.seal import Keys
from manifests.statement import Statement

READ = 4 << 20  # bytes


def check_volume(
    path: Path, statement: Statement, envelope: bytes, index: int, progress: Callable[[int], None] | None = None,
    keys: Keys | None = None, *, sealed: bool | None = None,
) -> None:  # fmt: skip
    """Raises VolumeDamaged, MediumUnavailable. `envelope`: the one that its head carries. `keys`, `sealed`: see
    VolumeReader."""
    volume, hasher = statement.volumes[index], hashlib.sha256()
    head = layout.head(statement, envelope, index)
    with VolumeReader(path, keys, sealed=sealed) as file:
        if file.size != len(head) + volume.size:
            raise VolumeDamaged(path.name, file.size, f"{file.size:,} of {len(head) + volume.size:,} bytes")
        file.expect(head, HEAD)
        left = volume.size
        while left:
            data = file.read(min(READ, left), "the payload")
            hasher.update(data)
            left -= len(data)
            if progress:
                progress(len(data))
    if hasher.hexdigest() != volume.sha256.hex:
        raise VolumeDamaged(path.name, 0, "the payload is not what the statement says")


def check_inside(restored: Mapping[int, Path], others: Sequence[Path], keys: Keys) -> None:
    """Volumes of an encrypted bundle under the names `*.tmp`, before they take their own: each is what a statement
    says, and this is the one that `others`, which lie there, carry. Who signed is not asked. Raises BundleRefused,
    CannotDecrypt."""
    closed = {path: path.name.removesuffix(".tmp").endswith(SEALED) for path in restored.values()}
    said: dict[bytes, str] = {}
    for path in others:
        with contextlib.suppress(BundleRefused, CannotDecrypt, MediumUnavailable):  # they may be damaged
            said.setdefault(read_start(path, keys)[1], path.name)
    for path in restored.values():
        said.setdefault(read_start(path, keys, sealed=closed[path])[1], path.name)
    if len(said) != 1:
        raise VolumeMixed(f"{', '.join(said.values())}: volumes of {len(said)} bundles", hint="nothing was written")
    (envelope,) = said
    statement = heads.decode_statement(envelope)
    for index, path in restored.items():
        check_volume(path, statement, envelope, index, keys=keys, sealed=closed[path])
