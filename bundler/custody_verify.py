"""Verify a custody log: any edit, cut or reorder, and at which entry; proofs that travel without the log.

The checks, in order: 1 each line parses, has its number, and names the hash of the line before · 2 nothing is torn ·
3 each head is of this log, no longer than it, has the root of so many entries, and a good signature · 4 the same for
the heads that somebody kept elsewhere.

What 1 to 3 cannot see: a history that was rewritten together with its heads, by who has their key or where they are
unsigned; or cut together with them. That is what 4 is for, and without a kept head the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bundler.custody import MAX_LINE, Entry, Log
from bundler.custody_head import Head, Kept, Keys, read_head
from bundler.errors import CustodyRefused, PaperRefused
from manifests import canonical
from manifests.errors import ManifestsError
from manifests.fields import Fields, text_item
from signing import custody_tree

MAX_PROOF = 128 << 10  # bytes
_MAX_PATH = 64  # hashes


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """`problems` name the entry or the head; `not_checked` is never to be read as passed."""

    entries: int
    heads: int
    signed_by: tuple[str, ...]
    problems: tuple[str, ...]
    not_checked: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "ok": not self.problems,
            "entries": self.entries,
            "heads": self.heads,
            "signed_by": list(self.signed_by),
            "problems": list(self.problems),
            "not_checked": list(self.not_checked),
        }


def verify(log: Log, keys: Keys, kept: Sequence[Kept] = ()) -> Checked:
    state = log.read()
    problems = [state.problem] if state.problem else []
    if state.torn:
        text = f"entry {len(state.entries)}: the last line is torn, {len(state.torn)} bytes"
        problems.append(f"{text}: a crash, which the next append repairs and records, or a cut")
    lines, torn = log.head_lines()
    if torn:
        problems.append(f"head {len(lines)}: the last line is torn, {len(torn)} bytes")
    roots = [found.hex() for found in state.roots()]
    names, unsigned, last = set[str](), 0, 0
    found = [(f"head {i}", line) for i, line in enumerate(lines)]
    for where, line in found:
        try:
            head = read_head(line)
            _against(head.head, state.log, roots, broken=state.problem is not None)
            if head.head.size <= last:
                raise CustodyRefused(f"of {head.head.size} entries, after one of {last}: heads were reordered")
            last = head.head.size
            if head.signed:
                names.add(head.signer(keys))
            unsigned += not head.signed
        except (CustodyRefused, PaperRefused) as error:
            problems.append(f"{where}: {error}")
    for head in kept:
        try:
            _against(head.head, state.log, roots, broken=state.problem is not None)
            if head.signed:
                names.add(head.signer(keys))
        except CustodyRefused as error:
            problems.append(f"the head that was kept, of {head.head.size} entries: {error}")
    not_checked = []
    if unsigned:
        not_checked.append(f"{unsigned} of {len(lines)} heads are not signed: who can write the files can remake them")
    if last < len(state.entries):
        not_checked.append(f"entries {last} to {len(state.entries) - 1}: no head is of them yet")
    if not kept:
        not_checked.append("a log rewritten or cut together with its heads: give one that was kept elsewhere, --head")
    return Checked(
        entries=len(state.entries),
        heads=len(lines),
        signed_by=tuple(sorted(names)),
        problems=tuple(problems),
        not_checked=tuple(not_checked),
    )


def _against(head: Head, log: str, roots: Sequence[str], *, broken: bool) -> None:
    if log and head.log != log:
        raise CustodyRefused(f"it is of the log {head.log}, this is {log}")
    if head.size >= len(roots):
        if broken:
            return  # told already, at the entry where the chain breaks
        gone = f"entries {len(roots) - 1} to {head.size - 1}"
        raise CustodyRefused(f"{gone} are gone: the log was cut, or its end removed")
    if roots[head.size] != head.root:
        raise CustodyRefused(f"one of the entries 0 to {head.size - 1} is not what it was")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """That `entry` is in the log of `head` (RFC 6962, 2.1.1); `kept` carries the head's signatures."""

    entry: Entry
    kept: Kept
    line: bytes
    path: tuple[str, ...]


def prove(log: Log, index: int) -> bytes:
    """An inclusion proof, under the newest head there is. Raises CustodyRefused."""
    state = log.read()
    lines, _ = log.head_lines()
    if state.problem or not lines:
        raise CustodyRefused(f"the custody log is not sound: {state.problem or 'it has no head'}")
    kept = read_head(lines[-1])
    _against(kept.head, state.log, [found.hex() for found in state.roots()], broken=False)
    if not 0 <= index < kept.head.size:
        raise CustodyRefused(
            f"entry {index}: the newest head is of {kept.head.size} entries, 0 to {kept.head.size - 1}"
        )
    leaves = [entry.hash for entry in state.entries[: kept.head.size]]
    return canonical.encode(
        {
            "entry": state.entries[index].encode().decode(),
            "head": lines[-1].decode(),
            "kind": "sealift-custody-inclusion/1",
            "path": [found.hex() for found in custody_tree.inclusion(leaves, index)],
        }
    )


def check_proof(raw: bytes) -> Proof:
    """The entry, if the path leads from it to the root of the head. Whose the head is: `Kept.signer`, or a comparison
    with one that was kept. Raises CustodyRefused."""
    try:
        fields = Fields.of(canonical.decode(raw, limit=MAX_PROOF))
        if fields.text("kind", maximum=40) != "sealift-custody-inclusion/1":
            raise CustodyRefused("not an inclusion proof of version 1")
        line = fields.text("head", maximum=MAX_PROOF).encode()
        entry = Entry.decode(fields.text("entry", maximum=MAX_LINE).encode())
        path = fields.array("path", text_item, maximum=_MAX_PATH)
        hashes = [bytes.fromhex(item) for item in path]
        fields.done()
    except (ManifestsError, ValueError) as error:
        raise CustodyRefused(f"not an inclusion proof: {error}") from None
    kept = read_head(line)
    sound = [item.hex() for item in hashes] == list(path) and all(len(item) == 32 for item in hashes)
    if not sound or not custody_tree.included(
        entry.hash, entry.index, kept.head.size, hashes, bytes.fromhex(kept.head.root)
    ):
        raise CustodyRefused(f"the proof does not lead from entry {entry.index} to its head: altered or damaged")
    return Proof(entry=entry, kept=kept, line=line, path=path)
