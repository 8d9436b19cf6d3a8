"""Repair a bundle from its parity volumes, and from parts that were sent again. No network, and no trust needed.

    open    parity volumes whose head is sound; the set that most of them belong to; the statement they carry   shards
            without any, the statement of a volume                                                              mend
    scan    every block of every volume and parity volume against the table, or every leaf against the leaf lists;
            what is missing or cannot be read is lost, unless a part has it
    judge   where more is lost than can be restored nothing is written, and a slip asks for what is needed
    keep    what would be replaced by something that nobody signed, or that has other signatures, as `*.before`
    write   each volume with damage, whole, as `*.tmp`: head from the statement, sound blocks, restored blocks
    check   its payload has the SHA-256 that the statement says; only then are all of them renamed

Encrypted volumes are restored as they were, from parity over their encrypted bytes: no identity is needed, and nothing
of what is inside is ever on the medium. They have the hashes of the packing list then, which nobody signed: without an
identity no file is replaced that is not kept.

Who signed the statement is not judged here: `verify` and `import` do that afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from bundler import conceal, gf256, layout, locks, packing, parity, replaced, slip
from bundler.errors import (
    BundleRefused,
    CannotDecrypt,
    MediumUnavailable,
    NoParity,
    RepairImpossible,
    VolumeDamaged,
    medium_errors,
)
from bundler.gf256 import Bytes
from bundler.heads import decode_statement
from bundler.medium import VOLUME, file_names, read_start, volume_size
from bundler.mend import Volumes
from bundler.seal import Keys
from bundler.shards import Damage, Lost, Progress, Shards, stem_of
from bundler.volumes import check_inside, check_volume
from bundler.writing import create, sync_medium, write_all, write_file
from manifests.statement import Statement


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """`damaged`: volumes; `parity`: parity volumes that are missing or damaged; `written`: files, checked; `kept`: what
    lay there before. `id`: of the bundle, or, `listed`, of the packing list of its encrypted volumes."""

    id: str
    folder: Path
    damaged: tuple[Damage, ...]
    parity: tuple[str, ...]
    written: tuple[Path, ...]
    kept: tuple[Path, ...] = ()
    sealed: bool = False
    listed: bool = False
    inside: bool = False  # what was written was also compared with the statement, inside

    def as_dict(self) -> dict[str, Any]:
        hidden = ["what is inside of encrypted volumes: sealift bundle verify --identity FILE"]
        return {
            "id": self.id,
            "encrypted": self.sealed,
            "damaged": [damage.as_dict() for damage in self.damaged],
            "parity_damaged": list(self.parity),
            "written": [str(path) for path in self.written],
            "kept": [str(path) for path in self.kept],
            "not_checked": [
                *(hidden if self.sealed and not self.inside else []),
                "signatures: sealift bundle verify judges them",
            ],
        }


def repair(
    folder: Path, out: Path | None = None, *, keys: Keys | None = None, progress: Progress | None = None
) -> RepairReport:
    """`out` gets each volume that is lost or damaged, restored; the folder itself means in place. None: only look.
    `keys`: encrypted volumes are read inside before they take their names. Raises RepairImpossible with a list and a
    slip where what is here is not enough."""
    try:
        bundle = Shards(folder)
    except NoParity as error:
        return _without_parity(folder, out, str(error), keys, progress or (lambda count: None))
    with bundle:
        bad = bundle.scan(progress or (lambda count: None))
        damaged, identity = bundle.damage(bad), bundle.lost_identity()
        _require_enough(bundle, bad)
        written, kept = list[Path](), list[Path]()
        if out is not None and damaged:
            indexes = [bundle.names.index(damage.name) for damage in damaged]
            fill = partial(_write_payloads, bundle, bad, progress or (lambda count: None))
            written, kept = _write(bundle, indexes, out, fill, keys)
        if out is not None and identity:
            kept += _write_identity(out / identity.name, bundle)
            written.append(out / identity.name)
    lost_parity = [bundle.names[i] for i in range(bundle.header.data, bundle.header.shards) if bad[i].any()]
    return RepairReport(
        id=bundle.expected.id,
        folder=folder,
        damaged=(*damaged, identity) if identity else damaged,
        parity=tuple(lost_parity),
        written=tuple(written),
        kept=tuple(kept),
        sealed=bundle.expected.packing is not None,
        listed=bundle.expected.packing is not None,
        inside=keys is not None and bool(written),
    )


def survey(folder: Path, *, keys: Keys | None = None, progress: Progress | None = None) -> RepairReport:
    """Only looks, and takes no parity: what is damaged in the volumes. Raises RepairImpossible where parts do not mend
    it, with a slip. `keys`: of encrypted volumes, which are asked for whole."""
    return _without_parity(folder, None, "parity volumes were not looked at", keys, progress or (lambda count: None))


def _without_parity(folder: Path, out: Path | None, why: str, keys: Keys | None, progress: Progress) -> RepairReport:
    if keys and packing.sealed_stems(folder if folder.is_dir() else folder.parent):
        return _look_inside(folder, why, keys, progress)
    with Volumes(folder) as bundle:
        missing = bundle.scan(progress)
        if missing:
            asked = [(bundle.names.index(item.name), item.size, item.ranges) for item in missing]
            raise RepairImpossible(
                f"{len(missing)} volume(s) lost or damaged; {why}",
                missing,
                slip.gather(bundle.expected.id, asked),
                bundle.stem,
                hint=f"get these again: {'; '.join(item.sentence() for item in missing)}",
            )
        damaged = bundle.damaged(missing)
        indexes = [bundle.names.index(item.name) for item in damaged]

        def fill(files: dict[int, BinaryIO]) -> None:
            for index, file in files.items():
                bundle.write(index, file, progress)

        written, kept = _write(bundle, indexes, out, fill) if out is not None else ([], [])
    return RepairReport(
        id=bundle.expected.id, folder=folder, damaged=damaged, parity=(), written=tuple(written), kept=tuple(kept)
    )


def _look_inside(folder: Path, why: str, keys: Keys, progress: Progress) -> RepairReport:
    """At encrypted volumes, each whole: what is damaged in one cannot be told from its place."""
    place = folder if folder.is_dir() else folder.parent
    stem = stem_of(folder, place)
    statement, envelope = _statement_inside(place, stem, keys)
    missing = []
    for index, name in enumerate(layout.volume_names(statement)):
        path = next((place / one for one in conceal.names_of(name) if (place / one).exists()), place / name)
        try:
            check_volume(path, statement, envelope, index, progress, keys)
        except (BundleRefused, CannotDecrypt, MediumUnavailable):
            size = volume_size(statement, envelope, index)
            missing.append((index, Damage(name=path.name, size=size, missing=not path.exists(), ranges=((0, size),))))
    if missing:
        asked = [(index, item.size, item.ranges) for index, item in missing]
        raise RepairImpossible(
            f"{len(missing)} encrypted volume(s) lost or damaged; {why}",
            tuple(item for _, item in missing),
            slip.gather(statement.id, asked),
            stem,
            hint=f"get these again: {', '.join(item.name for _, item in missing)}",
        )
    return RepairReport(id=statement.id, folder=folder, damaged=(), parity=(), written=(), sealed=True, inside=True)


def _statement_inside(place: Path, stem: str, keys: Keys) -> tuple[Statement, bytes]:
    """Of the first volume that opens. Raises CannotDecrypt."""
    for name in file_names(place):
        match = VOLUME.fullmatch(name.removesuffix(conceal.SEALED))
        if match and match["stem"] == stem:
            with contextlib.suppress(BundleRefused, CannotDecrypt, MediumUnavailable):
                envelope = read_start(place / name, keys)[1]
                return decode_statement(envelope), envelope
    raise CannotDecrypt(f"{stem}: no given identity opens one of its volumes, or all are damaged")


def _require_enough(bundle: Shards, bad: Lost) -> None:
    header = bundle.header
    lost = bad[: header.data].sum(axis=0)
    left = (~bad[header.data :]).sum(axis=0)
    beyond = lost > left
    if not beyond.any():
        return
    wanting = bundle.damage(bad & beyond, heads=False)
    parities = [bundle.names[i] for i in range(header.data, header.shards) if (bad[i] & beyond).any()]
    more = f"; or as many of these parity volumes: {', '.join(parities[:8])}" if parities else ""
    named = "; ".join(item.sentence() for item in wanting[:8]) + ("; …" if len(wanting) > 8 else "")
    count = int((lost - left).max())
    raise RepairImpossible(
        f"in {int(beyond.sum())} of {header.rows} rows more is lost than the parity that is left can restore",
        wanting,
        _slip(bundle, bad, lost - left),
        bundle.stem,
        hint=f"get {count} of these again (with the slip, on the other side: sealift bundle resend): {named}{more}",
    )


def _slip(bundle: Shards, bad: Lost, needed: npt.NDArray[np.int_]) -> slip.Slip:
    """Asks for the least: in each row `needed` (rows,) of its lost blocks, those of the first volumes."""
    asked = bad[: bundle.header.data] & (np.cumsum(bad[: bundle.header.data], axis=0) <= needed)
    wanted = bundle.damage(asked, heads=False)
    return slip.gather(bundle.expected.id, [(bundle.names.index(x.name), x.size, x.ranges) for x in wanted])


# -- writing


def _write(
    bundle: Shards | Volumes, indexes: Sequence[int], out: Path, fill: Callable[[dict[int, BinaryIO]], None],
    keys: Keys | None = None,
) -> tuple[list[Path], list[Path]]:  # fmt: skip
    """The volumes `indexes`, filled all at once and named only when all are right; and what was kept of before."""
    paths = [out / bundle.names[index] for index in indexes]
    temps = [path.with_name(path.name + ".tmp") for path in paths]
    if not paths:
        return [], []
    with locks.alone(out), medium_errors(out), contextlib.ExitStack() as stack:
        _require_space(out, sum(bundle.expected.whole(index) for index in indexes))
        for temp in temps:
            stack.callback(temp.unlink, missing_ok=True)
        undo = stack.enter_context(contextlib.ExitStack())
        kept = [replaced.keep(path, undo) for path in paths if replaced.is_doubtful(path, bundle.expected, keys)]
        files: dict[int, BinaryIO] = {
            index: stack.enter_context(create(temp)) for index, temp in zip(indexes, temps, strict=True)
        }
        fill(files)
        for file in files.values():
            os.fsync(file.fileno())
        if bundle.expected.packing and keys:
            others = [bundle.folder / name for i, name in enumerate(bundle.expected.names) if i not in files]
            check_inside(dict(zip(indexes, temps, strict=True)), others, keys)
        undo.pop_all()
        for temp, path in zip(temps, paths, strict=True):
            temp.replace(path)
    sync_medium(out)
    return paths, kept


def _write_identity(path: Path, bundle: Shards) -> list[Path]:
    """That a passphrase opens; what was kept of before."""
    with medium_errors(path), contextlib.ExitStack() as undo:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [replaced.keep(path, undo)] if replaced.is_doubtful(path, bundle.expected, None) else []
        write_file(path, bundle.identity)
        undo.pop_all()
    return kept


def _require_space(out: Path, needed: int) -> None:
    free = shutil.disk_usage(out).free
    if free < needed:
        raise MediumUnavailable(f"{out}: {needed:,} bytes are needed, only {free:,} are free")


def _write_payloads(bundle: Shards, bad: Lost, progress: Progress, files: dict[int, BinaryIO]) -> None:
    hashers = {index: hashlib.sha256() for index in files}
    for index, file in files.items():
        write_all(file, bundle.expected.heads[index])
    for row in range(bundle.header.rows):
        lost = [int(index) for index in np.flatnonzero(bad[: bundle.header.data, row])]
        restored = _restore(bundle, bad, row, lost) if lost else {}
        for index, file in files.items():
            length = max(0, min(bundle.header.block, bundle.expected.sizes[index] - row * bundle.header.block))
            data = restored[index][:length].tobytes() if index in restored else bundle.read(index, row)
            if data is None:
                raise VolumeDamaged(bundle.names[index], 0, "it changed while it was read", hint="run it again")
            hashers[index].update(data)
            write_all(file, data)
            progress(length)
    for index, hasher in hashers.items():
        if hasher.hexdigest() != bundle.expected.hashes[index]:
            says = "packing list" if bundle.expected.packing else "statement"
            raise BundleRefused(
                f"{bundle.names[index]}: what the parity restores is not what the {says} says",
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
