"""One volume against its statement: every byte of its file, read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from bundler import layout
from bundler.errors import VolumeDamaged
from bundler.medium import HEAD, VolumeReader
from bundler.seal import Keys
from manifests.statement import Statement

READ = 4 << 20  # bytes


def check_volume(
    path: Path, statement: Statement, envelope: bytes, index: int, progress: Callable[[int], None] | None = None,
    keys: Keys | None = None,
) -> None:  # fmt: skip
    """Raises VolumeDamaged, MediumUnavailable. `envelope`: the one that its head carries. `keys`: see VolumeReader."""
    volume, hasher = statement.volumes[index], hashlib.sha256()
    head = layout.head(statement, envelope, index)
    with VolumeReader(path, keys) as file:
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
