"""Mutated bundles: none may be accepted with another meaning, crash, or take over a second or 200 MB.

Each case is a number: it seeds the generator and chooses the kind, so one number repeats it, up to the bytes of keys,
signatures and times, which differ in every run. What is accepted must mean what it meant: the same content for the same
models, and the same bytes in the volumes. Fields that a signer may fill as he likes (names, dates, numbers in a
channel, sources, what evidence is called) may differ in a statement that was signed again.
`verify_sealift.py` must accept what we accept, and refuse what we refuse wherever it checks the rule at all.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bundler import carried, delta_since, receipts_read, slip, verify_sealift
from bundler.errors import BundlerError
from bundler.repair import repair
from bundler.verify import Verification, verify
from manifests.digest import Digest
from manifests.errors import ManifestsError
from scripts.attacks import mutations, sound
from scripts.attacks.slices import Tell, sliced
from scripts.attacks.sound import Bench
from signing.errors import SigningError
from signing.trust import TrustStore
from tests.peers.bundles import volumes

REFUSALS = (BundlerError, SigningError, ManifestsError)
FREE = ("id", "label", "channel", "sequence", "predecessor", "previous", "created", "expires", "tool", "not_after")


def same(report: Verification, sound: Verification) -> bool:
    """Whether both say the same about content: their statements without the fields that a signer fills as he likes.
    Evidence is such a claim: it may name any blob of the bundle, and then says what that blob's type is, unless a
    manifest names it too and that was compared. So is the SHA-512 of a blob that a delta leaves to the other side:
    it is known by its SHA-256, but under the profile cnsa2 (docs/formats/bundle.md)."""
    evidence = {item.digest for found in (report, sound) for item in found.bundle.statement.evidence}
    return bool(meaning(report, evidence) == meaning(sound, evidence))


def meaning(report: Verification, evidence: set[Digest]) -> Any:
    document = json.loads(report.bundle.statement.encode())
    predicate = {key: value for key, value in document["predicate"].items() if key not in ("bundle", "evidence")}
    predicate["bundle"] = {key: value for key, value in document["predicate"]["bundle"].items() if key not in FREE}
    for model in predicate["models"]:
        model.pop("name"), model.pop("source")
    for blob in predicate["blobs"]:
        if Digest.parse(blob["digest"]) in evidence:
            blob.pop("media_type")
        if not blob["layout"] and "built" not in blob:
            blob.pop("sha512")
    return {key: value for key, value in predicate.items() if key not in FREE}


class Case:
    """One number: a kind, a mutated copy, and what must hold afterwards."""

    def __init__(self, bench: Bench, number: int) -> None:
        self.bench, self.number = bench, number
        self.numbers = random.Random(f"sealift {number}")
        self.kind = KINDS[number % len(KINDS)]
        self.folder = bench.folder / f"case-{os.getpid()}"

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

    def _judge(self, trust: TrustStore, *, approver: bool = False, delta: bool = False) -> str:
        """`verify` and the one-file verifier, against the meaning of the sound bundle."""
        bench, store = self.bench, self.bench.base.far if delta else None
        source, statement = (bench.delta, bench.delta_statement) if delta else (bench.sound, bench.statement)
        seen = bench.base.seen if delta else bench.seen
        try:
            report = verify(self.folder, trust, seen=seen, sums=True, store=store)
        except REFUSALS as error:
            found = error.exit_code
        else:
            found = 0
            if report.bundle.statement != statement:
                expected = verify(source, bench.plain, seen=seen, store=store)
                assert same(report, expected), "accepted with another meaning"
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

    def _delta(self) -> str:
        self.copy(self.bench.delta, mutations.statement, bare=True)
        return self._judge(self.bench.plain, delta=True)

    def _delta_bytes(self) -> str:
        self.copy(self.bench.delta, self.numbers.choice((mutations.volume, mutations.header, mutations.lengths)))
        return self._judge(self.bench.plain, delta=True)

    def _sealed(self) -> str:
        """age authenticates every byte, so what is accepted is what was written."""
        self.copy(self.bench.sealed, mutations.beside("*.age"))
        try:
            verify(self.folder, self.bench.plain, seen=self.bench.seen, keys=self.bench.opening)
        except REFUSALS:
            return "refused"
        for path in self.bench.sealed.glob("*.age"):
            assert (self.folder / path.name).read_bytes() == path.read_bytes(), "other encrypted bytes were taken"
        return "accepted"

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

    def _trust_file(self) -> str:
        """Nobody signs this file, so it may say something else; it must be understood whole, or refused."""
        try:
            found = TrustStore.parse(mutations.mangle(self.bench.trust_file, self.numbers))
        except REFUSALS:
            return "refused"
        assert TrustStore.parse(found.encode()) == found, "a trust file that is read in two ways"
        return "accepted"

    def _receipt(self) -> str:
        """Full or short: it counts as it was signed, or it does not count."""
        path = self.numbers.choice(sorted(self.bench.back.iterdir()))
        raw = mutations.mangle(path.read_bytes(), self.numbers)
        try:
            found = receipts_read.read(raw, path.name)
        except REFUSALS:
            return "refused"
        judged = receipts_read.judge(found, self.bench.receiving, "hybrid", sound.TODAY)
        if judged.signer is None:
            return "refused"
        assert found.content == receipts_read.read_file(path).content, "a receipt that says something else counts"
        return "accepted"

    def _inventory(self) -> str:
        path = self.folder.with_suffix(".inventory")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(mutations.mangle(self.bench.listed.read_bytes(), self.numbers))
        try:
            found = delta_since.read_inventory(path, self.bench.receiving)
        except REFUSALS:
            return "refused"
        assert found == delta_since.read_inventory(self.bench.listed, self.bench.receiving), "another list counts"
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

    def _sealed_parity(self) -> str:
        """Parity of encrypted volumes is signed by nobody: what it restores is compared inside, or is not taken."""
        self.copy(self.bench.sealed, mutations.beside("*.p*.tar"))
        self.numbers.choice(sorted(self.folder.glob("*.age"))).unlink()
        try:
            repair(self.folder, self.folder, keys=self.bench.opening)
        except REFUSALS:
            return "refused"
        for path in self.bench.sealed.glob("*.age"):
            assert (self.folder / path.name).read_bytes() == path.read_bytes(), "repaired into something else"
        return "accepted"

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
    "beside", "trust", "slip", "part", "parity", "delta", "delta", "delta_bytes", "sealed", "sealed_parity", "receipt",
    "inventory", "trust_file",
)  # fmt: skip
LOOSER = (
    "statement",
    "beside",
    "lengths",
    "delta",
    "delta_bytes",
)  # rules that the one-file verifier says it does not check


def run(folder: Path, cases: Sequence[int], *, tell: Tell) -> list[str]:
    """The findings, each with the number that repeats it."""
    return sliced(Bench(folder), _case, cases, tell=tell)


def _case(bench: Bench, number: int) -> str:
    case = Case(bench, number)
    return f"{case.kind} {case.run()}"
