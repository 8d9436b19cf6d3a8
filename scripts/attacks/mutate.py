"""Mutated bundles: none may be accepted with another meaning, crash, or take over a second or 200 MB.

Each case is a number: it seeds the generator and chooses the kind, so one number repeats it, up to the bytes of keys,
signatures and times, which differ in every run. What is accepted must mean what it meant: the same content for the same
models, and the same bytes in the volumes. Fields that a signer may fill as he likes (names, dates, numbers in a
channel, sources, what evidence is called) may differ in a statement that was signed again.
Cases run in a forked child with an address space of 200 MB above what the child begins with; a child that dies is a
finding. `verify_sealift.py` must accept what we accept, and refuse what we refuse wherever it checks the rule at all.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bundler import approve, carried, layout, parts, slip, verify_sealift
from bundler.draft import Options
from bundler.errors import BundlerError
from bundler.repair import repair
from bundler.slip import Slip, Want
from bundler.verify import Verification, verify
from manifests.errors import ManifestsError
from scripts.attacks import mutations
from signing.envelope import encode, sign
from signing.errors import SigningError
from signing.hosttrust import HostTrust
from signing.succession import root_fingerprint
from signing.trust import TrustStore
from signing.trustdocument import TRUST_TYPE, encode_document
from tests.peers.bundles import LEAF, Gap, signer, trusting, volumes
from tests.peers.forgery import flip, statement_of
from tests.peers.signers import fixed_signer

SECONDS = 1.0  # processor time of one case
MEMORY = 200 << 20  # bytes
SLICE = 500  # cases of one child
REFUSALS = (BundlerError, SigningError, ManifestsError)
FREE = ("id", "label", "channel", "sequence", "predecessor", "previous", "created", "expires", "tool", "not_after")
Tell = Callable[[str], Any]


class Bench:
    """Sound bundles to mutate, in `folder`: one with all that may lie beside volumes, one with damage and a part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        gap = Gap(folder / "made")
        gap.model(rows=160)
        gap.export(options=Options(volume_size=80 << 10, leaf_size=LEAF, parity="1"))
        self.seen, self.sound = gap.seen, gap.medium
        self.statement = statement_of(self.sound)
        self.trust = trusting(signer()).add(signer("bob").public, ["approver"])
        self.plain = trusting(signer())
        approve.approve(approve.examine(self.sound, self.trust, seen=self.seen), [signer("bob")])
        self.host, root = HostTrust(folder / "host"), fixed_signer("root")
        base = TrustStore.empty().add(root.public, ["root"]).add(signer().public, ["publisher"])
        first, second = (_signed(store, number, root) for number, store in
                         enumerate((base, base.add(signer("bob").public, ["approver"])), 1))  # fmt: skip
        self.host.adopt(first, root_fingerprint(base), "hybrid")
        carried.write(self.sound, layout.stem(self.statement), second)
        self.renewed = carried.renew(self.sound, self.host, "hybrid", keep=False).trust
        self.slip = Slip(id=self.statement.id, wants=(Want(volume=0, ranges=((1, 3), (7, 9))), Want(volume=1)))
        self.keys = {name: folder / f"{name}.pub" for name in ("alice", "bob")}
        for name, path in self.keys.items():
            path.write_bytes(signer(name).public.encode())
        self.hurt = self._hurt()

    def _hurt(self) -> Path:
        """A copy with one damaged leaf, the part that mends it, and no parity."""
        hurt = self.folder / "hurt"
        shutil.copytree(self.sound, hurt, ignore=shutil.ignore_patterns("*.p*.tar"))
        last = volumes(hurt)[-1]
        size = last.stat().st_size
        name = parts.file_name(last.name, "r", 1)
        envelope = verify_sealift.open_bundle(str(self.sound))[1]
        parts.cut(self.sound / last.name, [(0, size)], hurt / name, self.statement.id, envelope)
        flip(last, size - 6000)
        return hurt


def _signed(store: TrustStore, version: int, by: Any) -> bytes:
    return encode(sign(TRUST_TYPE, encode_document(replace(store, version=version)), [by])) + b"\n"


def meaning(report: Verification) -> Any:
    """What a bundle says about content: the statement without the fields that its signer fills as he likes."""
    document = json.loads(report.bundle.statement.encode())
    predicate = {key: value for key, value in document["predicate"].items() if key != "bundle"}
    predicate["bundle"] = {key: value for key, value in document["predicate"]["bundle"].items() if key not in FREE}
    for model in predicate["models"]:
        model.pop("name"), model.pop("source")
    predicate["evidence"] = sorted({item["digest"] for item in predicate["evidence"]})
    for blob in predicate["blobs"]:
        if blob["digest"] in predicate["evidence"]:
            blob.pop("media_type")  # where a manifest names it too, that was compared
    return {key: value for key, value in predicate.items() if key not in FREE}


class Case:
    """One number: a kind, a mutated copy, and what must hold afterwards."""

    def __init__(self, bench: Bench, number: int) -> None:
        self.bench, self.number = bench, number
        self.numbers = random.Random(f"sealift {number}")
        self.kind = KINDS[number % len(KINDS)]
        self.folder = bench.folder / "case"

    def run(self) -> str:
        """`accepted` or `refused`. Raises AssertionError for what is accepted and must not."""
        outcome: str = getattr(self, "_" + self.kind)()
        return outcome

    def copy(self, source: Path, mutate: Callable[[Path, random.Random], None], *, bare: bool = False) -> None:
        """`bare`: without what belongs to the old statement and would be refused first."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(source, self.folder)
        for path in self.folder.iterdir():
            if bare and path not in volumes(self.folder):
                path.unlink()
        mutate(self.folder, self.numbers)

    def _judge(self, trust: TrustStore, *, approver: bool = False) -> str:
        """`verify` and the one-file verifier, against the meaning of the sound bundle."""
        bench = self.bench
        try:
            report = verify(self.folder, trust, seen=bench.seen, sums=True)
        except REFUSALS as error:
            found = error.exit_code
        else:
            found = 0
            if report.bundle.statement != bench.statement:
                expected = verify(bench.sound, bench.plain, seen=bench.seen)
                assert meaning(report) == meaning(expected), "accepted with another meaning"
        assert found != 70, "an internal error"
        other = self._one_file(approver)
        assert not (found == 0) ^ (other == 0) or found in (1, 4), f"we say {found}, verify_sealift.py {other}"
        assert other != 0 or found == 0 or self.kind in LOOSER, f"verify_sealift.py accepts what we refuse ({found})"
        return "refused" if found else "accepted"

    def _one_file(self, approver: bool) -> int:
        words = ["verify_sealift.py", str(self.folder), "--pub", str(self.bench.keys["alice"])]
        words += ["--approver", str(self.bench.keys["bob"])] if approver else []
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            before, sys.argv = sys.argv, words
            try:
                return verify_sealift.main()
            finally:
                sys.argv = before

    def _statement(self) -> str:
        self.copy(self.bench.sound, mutations.statement, bare=True)
        return self._judge(self.bench.plain)

    def _volume(self) -> str:
        self.copy(self.bench.sound, mutations.volume)
        return self._judge(self.bench.plain)

    def _header(self) -> str:
        self.copy(self.bench.sound, mutations.header)
        return self._judge(self.bench.plain)

    def _lengths(self) -> str:
        self.copy(self.bench.sound, mutations.lengths)
        return self._judge(self.bench.plain)

    def _envelope(self) -> str:
        self.copy(self.bench.sound, mutations.envelope, bare=True)
        return self._judge(self.bench.plain)

    def _approval(self) -> str:
        self.copy(self.bench.sound, mutations.beside("*.approval-*.dsse.json"))
        return self._judge(self.bench.trust, approver=True)

    def _beside(self) -> str:
        self.copy(self.bench.sound, mutations.beside(self.numbers.choice(("*.txt", "*.py"))))
        return self._judge(self.bench.plain)

    def _trust(self) -> str:
        self.copy(self.bench.sound, mutations.beside("*.trust.jsonl"))
        try:
            found = carried.renew(self.folder, self.bench.host, "hybrid", keep=False).trust
        except REFUSALS:
            return "refused"
        assert found in (self.bench.renewed, self.bench.host.load()), "another trust was taken"
        return "accepted"

    def _slip(self) -> str:
        text = mutations.mangle(self.bench.slip.text("x").encode(), self.numbers).decode("latin-1")
        try:
            found = slip.parse(text)
        except REFUSALS:
            return "refused"
        assert found == self.bench.slip, "a slip that asks for something else"
        return "accepted"

    def _part(self) -> str:
        self.copy(self.bench.hurt, mutations.beside("*.[cr][vp]*.tar"))
        return self._mended()

    def _parity(self) -> str:
        self.copy(self.bench.sound, mutations.beside("*.p*.tar"))
        self.numbers.choice(volumes(self.folder)).unlink()
        return self._mended()

    def _mended(self) -> str:
        try:
            repair(self.folder, self.folder)
        except REFUSALS:
            return "refused"
        for path in volumes(self.bench.sound):
            assert (self.folder / path.name).read_bytes() == path.read_bytes(), "repaired into something else"
        return "accepted"


KINDS = (
    "statement", "statement", "statement", "statement", "volume", "header", "lengths", "envelope", "approval",
    "beside", "trust", "slip", "part", "parity",
)  # fmt: skip
LOOSER = ("statement", "beside", "lengths")  # rules that the one-file verifier says it does not check


def run(folder: Path, cases: Sequence[int], *, tell: Tell) -> list[str]:
    """The findings, each with the number that repeats it."""
    bench, found = Bench(folder), []
    counts: dict[str, int] = {}
    slowest, largest = 0.0, 0
    fork = multiprocessing.get_context("fork")
    for start in range(0, len(cases), SLICE):
        here, there = fork.Pipe(duplex=False)
        child = fork.Process(target=_child, args=(bench, cases[start : start + SLICE], there))
        child.start()
        there.close()
        last = None
        with contextlib.suppress(EOFError):
            while True:
                last = here.recv()
                if last[0] == "end":
                    largest = max(largest, last[1])
                    continue
                number, outcome, seconds = last
                counts[outcome.split(":")[0]] = counts.get(outcome.split(":")[0], 0) + 1
                slowest = max(slowest, seconds)
                if not outcome.endswith(("accepted", "refused")):
                    found.append(f"case {number}: {outcome}")
        child.join()
        if child.exitcode:
            found.append(f"a child died with {child.exitcode} after {last}")
        tell(f"{start + SLICE} cases: {counts}, slowest {slowest:.2f} s, {largest / 1e6:.0f} MB, {len(found)} found")
    return found


def _child(bench: Bench, cases: Iterable[int], out: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + MEMORY,) * 2)
    bench.folder /= f"child-{os.getpid()}"
    for number in cases:
        case, started = Case(bench, number), time.process_time()
        try:
            outcome = f"{case.kind} {case.run()}"
        except Exception as error:
            outcome = f"{case.kind}: {type(error).__name__}: {error}"
        seconds = time.process_time() - started
        if seconds > SECONDS:
            outcome = f"{case.kind}: took {seconds:.2f} s"
        out.send((number, outcome, seconds))
    out.send(("end", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10))
    shutil.rmtree(bench.folder, ignore_errors=True)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
