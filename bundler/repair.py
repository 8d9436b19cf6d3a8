"""Repair a bundle from its parity volumes: lost volumes, bad sectors, flipped bits. No network, and no trust needed.

    open    parity volumes whose head is sound; the set that most of them belong to; the statement they carry   shards
    scan    every block of every volume and parity volume against the table; what is missing counts as lost     shards
    judge   a row with more lost blocks than sound parity blocks cannot be restored: then nothing is written, and
            everything that would have to be sent again is listed
    write   each volume with damage, whole, as `*.tmp`: head from the statement, sound blocks, restored blocks
    check   its payload has the SHA-256 that the statement says; only then are all of them renamed

Who signed the statement is not judged here: `verify` and `import` do that afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bundler import gf256, parity
from bundler.errors import BundleRefused, MediumUnavailable, RepairImpossible, VolumeDamaged, medium_errors
from bundler.gf256 import Bytes
from bundler.shards import Damage, Lost, Progress, Shards
from bundler.writing import create, sync_medium


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """`damaged`: volumes; `parity`: parity volumes that are missing or damaged; `written`: files, checked."""

    id: str
    folder: Path
    damaged: tuple[Damage, ...]
    parity: tuple[str, ...]
    written: tuple[Path, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "damaged": [damage.as_dict() for damage in self.damaged],
            "parity_damaged": list(self.parity),
            "written": [str(path) for path in self.written],
            "not_checked": ["signatures: sealift bundle verify judges them"],
        }


def repair(folder: Path, out: Path | None = None, *, progress: Progress | None = None) -> RepairReport:
    """`out` gets each volume that is lost or damaged, restored; the folder itself means in place. None: only look.
    Raises RepairImpossible with a list where the parity is not enough, BundleRefused where there is none."""
    bundle = Shards(folder)
    with bundle:
        bad = bundle.scan(progress or (lambda count: None))
        damaged = bundle.damage(bad)
        _require_enough(bundle, bad)
        written: list[Path] = []
        if out is not None and damaged:
            written = _write(bundle, bad, out, progress or (lambda count: None))
    lost_parity = [bundle.names[i] for i in range(bundle.header.data, bundle.header.shards) if bad[i].any()]
    return RepairReport(
        id=bundle.statement.id,
        folder=folder,
        damaged=damaged,
        parity=tuple(lost_parity),
        written=tuple(written),
    )


def _require_enough(bundle: Shards, bad: Lost) -> None:
    header = bundle.header
    lost = bad[: header.data].sum(axis=0)
    left = (~bad[header.data :]).sum(axis=0)
    beyond = lost > left
    if not beyond.any():
        return
    wanting = bundle.damage(bad & beyond, heads=False)
    parities = [bundle.names[i] for i in range(header.data, header.shards) if (bad[i] & beyond).any()]
    more = f"; or as many of these parity volumes: {', '.join(parities)}" if parities else ""
    raise RepairImpossible(
        f"in {int(beyond.sum())} of {header.rows} rows more is lost than the parity that is left can restore",
        wanting,
        hint=f"get {int((lost - left).max())} of these again: {'; '.join(item.sentence() for item in wanting)}{more}",
    )


# -- writing


def _write(bundle: Shards, bad: Lost, out: Path, progress: Progress) -> list[Path]:
    indexes = [bundle.names.index(damage.name) for damage in bundle.damage(bad)]
    paths = [out / bundle.names[index] for index in indexes]
    temps = [path.with_name(path.name + ".tmp") for path in paths]
    with medium_errors(out), contextlib.ExitStack() as stack:
        out.mkdir(parents=True, exist_ok=True)
        _require_space(out, sum(len(bundle.heads[index]) + bundle.sizes[index] for index in indexes))
        for temp in temps:
            stack.callback(temp.unlink, missing_ok=True)
        files: dict[int, BinaryIO] = {
            index: stack.enter_context(create(temp)) for index, temp in zip(indexes, temps, strict=True)
        }
        _write_payloads(bundle, bad, files, progress)
        for file in files.values():
            os.fsync(file.fileno())
        for temp, path in zip(temps, paths, strict=True):
            temp.replace(path)
    sync_medium(out)
    return paths


def _require_space(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if free < needed:
        raise MediumUnavailable(f"{out}: {needed:,} bytes are needed, only {free:,} are free")


def _write_payloads(bundle: Shards, bad: Lost, files: dict[int, BinaryIO], progress: Progress) -> None:
    hashers = {index: hashlib.sha256() for index in files}
    for index, file in files.items():
        _write_all(file, bundle.heads[index])
    for row in range(bundle.header.rows):
        lost = [int(index) for index in np.flatnonzero(bad[: bundle.header.data, row])]
        restored = _restore(bundle, bad, row, lost) if lost else {}
        for index, file in files.items():
            length = max(0, min(bundle.header.block, bundle.sizes[index] - row * bundle.header.block))
            data = restored[index][:length].tobytes() if index in restored else bundle.read(index, row)
            if data is None:
                raise VolumeDamaged(bundle.names[index], 0, "it changed while it was read", hint="run it again")
            hashers[index].update(data)
            _write_all(file, data)
            progress(length)
    for index, hasher in hashers.items():
        if hasher.hexdigest() != bundle.statement.volumes[index].sha256.hex:
            raise BundleRefused(
                f"{bundle.names[index]}: what the parity restores is not what the statement says",
                hint="the parity volumes do not belong to these volumes, or were altered",
            )


def _restore(bundle: Shards, bad: Lost, row: int, lost: list[int]) -> dict[int, Bytes]:
    header = bundle.header
    parities = [int(j) for j in np.flatnonzero(~bad[header.data :, row])][: len(lost)]
    shards: list[Bytes | None] = []
    for index in [*range(header.data), *(header.data + j for j in parities)]:
        data = None if index in lost else bundle.read(index, row)
        if data is None and index not in lost:
            raise VolumeDamaged(bundle.names[index], 0, "it changed while it was read", hint="run it again")
        shards.append(None if data is None else parity.padded(data, header.block))
    rows = gf256.restoration(lost, parities, header.data)
    return dict(zip(lost, gf256.combine(rows, shards), strict=True))


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
