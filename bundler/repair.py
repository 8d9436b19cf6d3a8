"""Repair a bundle from its parity volumes, and from parts that were sent again. No network, and no trust needed.

    open    parity volumes whose head is sound; the set that most of them belong to; the statement they carry   shards
            without any, the statement of a volume                                                              mend
    scan    every block of every volume and parity volume against the table, or every leaf against the leaf lists;
            what is missing or cannot be read is lost, unless a part has it
    judge   where more is lost than can be restored nothing is written, and a slip asks for what is needed
    write   each volume with damage, whole, as `*.tmp`: head from the statement, sound blocks, restored blocks
    check   its payload has the SHA-256 that the statement says; only then are all of them renamed

Who signed the statement is not judged here: `verify` and `import` do that afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from bundler import gf256, parity, slip
from bundler.errors import BundleRefused, MediumUnavailable, NoParity, RepairImpossible, VolumeDamaged, medium_errors
from bundler.gf256 import Bytes
from bundler.mend import Volumes
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
    Raises RepairImpossible with a list and a slip where what is here is not enough."""
    try:
        bundle = Shards(folder)
    except NoParity as error:
        return _without_parity(folder, out, str(error), progress or (lambda count: None))
    with bundle:
        bad = bundle.scan(progress or (lambda count: None))
        damaged = bundle.damage(bad)
        _require_enough(bundle, bad)
        written: list[Path] = []
        if out is not None and damaged:
            indexes = [bundle.names.index(damage.name) for damage in damaged]
            advance = progress or (lambda count: None)
            written = _write(bundle, indexes, out, lambda files: _write_payloads(bundle, bad, files, advance))
    lost_parity = [bundle.names[i] for i in range(bundle.header.data, bundle.header.shards) if bad[i].any()]
    return RepairReport(
        id=bundle.statement.id,
        folder=folder,
        damaged=damaged,
        parity=tuple(lost_parity),
        written=tuple(written),
    )


def survey(folder: Path, *, progress: Progress | None = None) -> RepairReport:
    """Only looks, and takes no parity: what is damaged in the volumes. Raises RepairImpossible where parts do not mend
    it, with a slip."""
    return _without_parity(folder, None, "parity volumes were not looked at", progress or (lambda count: None))


def _without_parity(folder: Path, out: Path | None, why: str, progress: Progress) -> RepairReport:
    with Volumes(folder) as bundle:
        missing = bundle.scan(progress)
        if missing:
            asked = [(bundle.names.index(item.name), item.size, item.ranges) for item in missing]
            raise RepairImpossible(
                f"{len(missing)} volume(s) lost or damaged; {why}",
                missing,
                slip.gather(bundle.statement.id, asked),
                bundle.stem,
                hint=f"get these again: {'; '.join(item.sentence() for item in missing)}",
            )
        damaged = bundle.damaged(missing)
        indexes = [bundle.names.index(item.name) for item in damaged]

        def fill(files: dict[int, BinaryIO]) -> None:
            for index, file in files.items():
                bundle.write(index, file, progress)

        written = _write(bundle, indexes, out, fill) if out is not None else []
    return RepairReport(id=bundle.statement.id, folder=folder, damaged=damaged, parity=(), written=tuple(written))


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
        _slip(bundle, bad, lost - left),
        bundle.stem,
        hint=f"get {int((lost - left).max())} of these again: {'; '.join(item.sentence() for item in wanting)}{more}",
    )


def _slip(bundle: Shards, bad: Lost, needed: npt.NDArray[np.int_]) -> slip.Slip:
    """Asks for the least: in each row `needed` (rows,) of its lost blocks, those of the first volumes."""
    asked = bad[: bundle.header.data] & (np.cumsum(bad[: bundle.header.data], axis=0) <= needed)
    wanted = bundle.damage(asked, heads=False)
    return slip.gather(bundle.statement.id, [(bundle.names.index(x.name), x.size, x.ranges) for x in wanted])


# -- writing


def _write(
    bundle: Shards | Volumes, indexes: Sequence[int], out: Path, fill: Callable[[dict[int, BinaryIO]], None]
) -> list[Path]:
    """The volumes `indexes`, filled all at once and named only when all are right."""
    paths = [out / bundle.names[index] for index in indexes]
    temps = [path.with_name(path.name + ".tmp") for path in paths]
    if not paths:
        return []
    with medium_errors(out), contextlib.ExitStack() as stack:
        out.mkdir(parents=True, exist_ok=True)
        _require_space(out, sum(len(bundle.heads[index]) + bundle.sizes[index] for index in indexes))
        for temp in temps:
            stack.callback(temp.unlink, missing_ok=True)
        files: dict[int, BinaryIO] = {
            index: stack.enter_context(create(temp)) for index, temp in zip(indexes, temps, strict=True)
        }
        fill(files)
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
