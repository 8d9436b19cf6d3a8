"""Send into a drop folder: a bundle, file after file, for a diode or a guard that takes files from there.

    order    carried trust, parts that answer a slip, index volume, data volumes, parity volumes, approvals
    each     volumes are hashed before they go; written as `*.tmp`, synced, renamed; a file that is there is left alone
    large    what is larger than `max_part` goes in parts (parts.py), which the receiver joins
    sealed   encrypted volumes and their parity volumes go as they are; parts of them carry the packing list, and the
             index volume goes whole, since it tells the receiver whose parts these are
    again    `repeat` rounds, for a link that loses files; what was taken away meanwhile is sent once more

<home>/state/sends/<hash>   what was sent already, so that the same command goes on after an interruption even if the
                            guard has taken the files away; removed at the end
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundler import locks, parts
from bundler.conceal import SEALED
from bundler.errors import BadRequest, medium_errors
from bundler.medium import VOLUME
from bundler.outgoing import Encrypted, Outgoing, Progress, encrypted, outgoing
from bundler.pace import Pace
from bundler.writing import copy_file, sync_medium
from manifests import canonical
from manifests.digest import Digest
from manifests.home import home


@dataclass(frozen=True, slots=True, kw_only=True)
class SendReport:
    """`kept`: files that were there already."""

    id: str
    sent: tuple[str, ...]
    kept: tuple[str, ...]
    missing: tuple[str, ...]
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "sent": list(self.sent),
            "kept": list(self.kept),
            "missing": list(self.missing),
            "bytes": self.bytes,
        }


def send(
    path: Path,
    to: Path,
    *,
    max_part: int | None = None,
    pace: Pace | None = None,
    repeat: int = 1,
    progress: Progress | None = None,
) -> SendReport:
    """`pace` in bytes. Raises what `outgoing` raises, BadRequest, VolumeDamaged, MediumUnavailable."""
    bundle = encrypted(path) or outgoing(path)
    if to.resolve() == bundle.folder.resolve():
        raise BadRequest(f"--to {to} is the folder of the volumes themselves")
    large = [name for name in bundle.names if max_part and (bundle.folder / name).stat().st_size > max_part]
    if isinstance(bundle, Encrypted) and not all(map(bundle.is_whole, large)):
        bundle = bundle.listed(progress)
    _require_room(bundle, large, max_part)
    sender = _Sender(bundle, to, max_part, pace or Pace(None), progress or (lambda count: None))
    with sender.alone(), medium_errors(to):
        to.mkdir(parents=True, exist_ok=True)
        for number in range(1, repeat + 1):
            sender.round(number)
        sender.journal.unlink(missing_ok=True)
    return SendReport(
        id=bundle.id,
        sent=tuple(sender.sent),
        kept=tuple(sender.kept),
        missing=bundle.missing,
        bytes=sender.bytes,
    )


def _require_room(bundle: Outgoing | Encrypted, large: Sequence[str], max_part: int | None) -> None:
    """Before anything is sent: what is not cut must fit, and parts must have room for their data. `large`: files."""
    if max_part is None:
        return
    if max_part <= parts.overhead(bundle.told) + 4096:
        raise BadRequest(
            f"parts of {max_part:,} bytes are too small: each carries {len(bundle.told):,} bytes that say whose it is",
            hint="choose a larger --max-part",
        )
    for name in filter(bundle.is_whole, large):
        index = isinstance(bundle, Encrypted) and VOLUME.fullmatch(name.removesuffix(SEALED))
        why = ", which tells the receiver whose the other volumes are, goes first and whole" if index else ""
        size = (bundle.folder / name).stat().st_size
        again = (
            ", or let `bundle resend --whole` write whole volumes, which are cut" if parts.NAME.fullmatch(name) else ""
        )
        raise BadRequest(f"{name}{why}: its {size:,} bytes cannot be cut", hint="choose a larger --max-part" + again)


class _Sender:
    def __init__(
        self, bundle: Outgoing | Encrypted, to: Path, max_part: int | None, pace: Pace, progress: Progress
    ) -> None:
        self._bundle, self._to, self._max, self._pace, self._progress = bundle, to, max_part, pace, progress
        self.sent: list[str] = []
        self.kept: list[str] = []
        self.bytes = 0
        request = [bundle.id, str(to.resolve()), str(max_part)]
        self.journal = home() / "state" / "sends" / Digest.of(canonical.encode(request)).hex[:32]

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Two that send the same would take each other's `*.tmp` for their own."""
        with medium_errors(self.journal):
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            lock = locks.take(self.journal, f"bundle {self._bundle.id} is being sent to {self._to} already")
        try:
            yield
        finally:
            os.close(lock)

    def round(self, number: int) -> None:
        done = self._journal(number)
        if done is None:  # an interrupted run had finished this round
            return
        for name in self._bundle.names:
            pieces = list(self._pieces(name))
            if all(piece in done for piece, _ in pieces):
                continue
            self._bundle.check(name)
            for piece, ranges in pieces:
                if piece not in done:
                    self._one(name, piece, ranges)
                    self._note(piece)

    def _pieces(self, name: str) -> Iterator[tuple[str, parts.Range | None]]:
        """Under which names a file goes, and which range of it each is; None for the whole file."""
        size = (self._bundle.folder / name).stat().st_size
        if self._max is None or size <= self._max:
            yield name, None
            return
        step = (self._max - parts.overhead(self._bundle.told)) // 4096 * 4096
        for number, first in enumerate(range(0, size, step), 1):
            yield parts.file_name(name, "c", number), (first, min(first + step, size))

    def _one(self, name: str, piece: str, ranges: parts.Range | None) -> None:
        source, target = self._bundle.folder / name, self._to / piece
        if os.path.lexists(target):
            self.kept.append(piece)
            return
        if ranges is None:
            copy_file(source, target, self._spend)
        else:
            sealed = isinstance(self._bundle, Encrypted)
            whose, told = self._bundle.whose, self._bundle.told
            parts.cut(source, [ranges], target, whose, told, meter=self._spend, sealed=sealed)
        sync_medium(self._to)
        self.sent.append(piece)

    def _spend(self, count: int) -> None:
        self.bytes += count
        self._progress(count)
        self._pace.spend(count)

    # -- the memory of an interrupted run

    def _journal(self, number: int) -> set[str] | None:
        """What this round has sent; None where a later round was begun."""
        lines = self.journal.read_text().splitlines()
        begun = [line for line in lines if line.startswith("round ")]
        if len(begun) > number:
            return None
        if len(begun) < number:
            self._note(f"round {number}")
            return set()
        return set(lines[lines.index(f"round {number}") + 1 :])

    def _note(self, line: str) -> None:
        with medium_errors(self.journal), self.journal.open("a") as out:
            out.write(line + "\n")
