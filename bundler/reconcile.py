"""Reconcile: what this side exported, beside the receipts that came back.

    arrived      a receiver says so; earlier refusals of the same bundle are past
    refused      receivers say so, and none that it arrived
    missing      nothing was heard of it, though a later number of its channel was
    unknown      nothing was heard of it, nor of anything later: it may be under way
    conflicting  a receipt names another bundle than was exported with this number, or a number that never was

* A receipt counts if a receiver for its channel signed it (receipts_read.judge). What does not count is listed apart
  and changes no line.
* What was exported is what `<home>/state/exports.json` remembers: the ids of the last 256 bundles of each channel. Of a
  channel that was never exported here the receipts alone are listed, and gaps in their numbers are missing.
* A refusal without a channel is found by the bundle's id; without one it belongs to no line, and is told as such.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from bundler import receipts_read
from bundler.channels import Seen
from bundler.errors import BundlerError, MediumUnavailable, ReceiptRefused
from bundler.medium import file_names
from bundler.receipts import ARRIVED, Receipt
from bundler.receipts_compact import Short
from bundler.receipts_keep import FULL, SHORT
from bundler.receipts_read import Found, Judged
from signing.trust import TrustStore

MAX_FILES = 10_000
MAX_GAP = 1000  # numbers of one gap that are listed one by one
BAD = ("refused", "missing", "conflicting")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One bundle of a channel. `receipts` are the places of those that count for it."""

    channel: str
    sequence: int
    id: str | None
    state: str
    text: str
    receipts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """`unplaced`: receipts that count and belong to no known bundle. `ignored`: what does not count, and why."""

    rows: tuple[Row, ...]
    unplaced: tuple[Judged, ...]
    ignored: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        return not self.unplaced and all(row.state not in BAD for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "bundles": [
                {
                    "channel": row.channel,
                    "sequence": row.sequence,
                    "id": row.id,
                    "state": row.state,
                    "text": row.text,
                    "receipts": list(row.receipts),
                }
                for row in self.rows
            ],
            "unplaced": [{"file": item.found.place, "reason": item.found.content.reason} for item in self.unplaced],
            "ignored": [{"file": place, "problem": problem} for place, problem in self.ignored],
        }


def gather(paths: Iterable[Path]) -> tuple[list[Found], list[tuple[str, str]]]:
    """All receipts in these files and folders; what could not be read, and why. Raises MediumUnavailable."""
    found, bad = list[Found](), list[tuple[str, str]]()
    for path in paths:
        if not path.exists():
            raise MediumUnavailable(f"{path}: there are no receipts", hint="name files or folders that came back")
        if path.is_dir():
            names = [name for name in file_names(path) if name.endswith((FULL, SHORT))]
            files = [path / name for name in names if (path / name).is_file()]  # a pipe would never end
        else:
            files = [path]
        for file in files:
            if len(found) + len(bad) >= MAX_FILES:
                raise ReceiptRefused(f"more than {MAX_FILES:,} receipts", hint="reconcile them folder by folder")
            try:
                found.append(receipts_read.read_file(file))
            except BundlerError as error:
                bad.append((file.name, str(error)))
    return found, bad


def reconcile(
    found: Sequence[Found],
    exported: dict[str, Seen],
    trust: TrustStore,
    profile: str,
    now: date,
    *,
    channel: str | None = None,
) -> Reconciled:
    """`channel`: list this one only."""
    judged = [receipts_read.judge(item, trust, profile, now) for item in found]
    counted = [item for item in judged if item.signer is not None]
    said = {Short.of(item.found.content) for item in counted if isinstance(item.found.content, Receipt)}
    ignored = [
        (item.found.place, item.problem or "") for item in judged if item.signer is None and not _repeats(item, said)
    ]
    known = {name: _known(seen) for name, seen in exported.items()}
    heard, unplaced = _placed(counted, known)
    rows = [
        row
        for name in sorted({*known, *heard})
        if channel in (None, name)
        for row in _channel(name, known.get(name, {}), heard.get(name, {}))
    ]
    return Reconciled(rows=tuple(rows), unplaced=tuple(unplaced), ignored=tuple(ignored))


def _repeats(item: Judged, said: set[Short]) -> bool:
    """Whether it is the short form, which a key without Ed25519 does not sign, of a receipt that counts."""
    return isinstance(item.found.content, Short) and item.found.content in said


_Heard = dict[int, list[Judged]]


def _known(seen: Seen) -> dict[int, str]:
    return {item.sequence: item.id for item in seen.ids} | {seen.sequence: seen.id}


def _placed(counted: Sequence[Judged], known: dict[str, dict[int, str]]) -> tuple[dict[str, _Heard], list[Judged]]:
    by_id = {found: (name, number) for name, numbers in known.items() for number, found in numbers.items()}
    heard: dict[str, _Heard] = {}
    unplaced = []
    for item in counted:
        content = item.found.content
        place = (content.channel, content.sequence) if content.channel is not None else by_id.get(content.id or "")
        if place is None or place[0] is None or place[1] is None:
            unplaced.append(item)
        else:
            heard.setdefault(place[0], {}).setdefault(place[1], []).append(item)
    return heard, unplaced


def _channel(name: str, known: dict[int, str], heard: _Heard) -> list[Row]:
    numbers = sorted({*known, *heard, *([] if known else _gaps(sorted(heard)))})
    newest = max(heard, default=0)
    return [_row(name, number, known, heard.get(number, []), newest) for number in numbers]


def _gaps(numbers: Sequence[int]) -> list[int]:
    """Of a channel that was not exported here: the numbers between those heard, a long gap by its first and last."""
    gaps = list[int]()
    for before, after in itertools.pairwise(numbers):
        gap = range(before + 1, after)
        gaps += gap if len(gap) <= MAX_GAP else (gap[0], gap[-1])
    return gaps


def _row(channel: str, number: int, known: dict[int, str], heard: Sequence[Judged], newest: int) -> Row:
    ids = {item.found.content.id for item in heard}
    mine = known.get(number)
    arrived = [item for item in heard if item.found.content.reason == ARRIVED]
    if known and mine is None:
        state, text = "conflicting", "this side never exported this number, or has forgotten it"
    elif len(ids | ({mine} if mine else set())) > 1:
        others = ", ".join(sorted(str(found) for found in ids - {mine}))
        state, text = "conflicting", f"receipts name another bundle: {others}"
    elif arrived:
        first = min(item.found.content.time for item in arrived)
        state, text = "arrived", f"{first}, by {arrived[0].signer}"
    elif heard:
        last = max(heard, key=lambda item: item.found.content.time)
        state, text = "refused", f"{last.found.content.reason}, {last.found.content.time}, by {last.signer}"
    elif number < newest:
        state, text = "missing", f"nothing was heard of it; number {newest} was heard of"
    else:
        state, text = "unknown", "nothing was heard of it yet"
    shown = mine or (ids.pop() if len(ids) == 1 else None)
    places = tuple(sorted(item.found.place for item in heard))
    return Row(channel=channel, sequence=number, id=shown, state=state, text=text, receipts=places)
