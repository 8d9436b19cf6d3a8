"""Write the receipt of an import, whatever became of it: step 10 of the law in bundler.importer.

    <home>/receipts/<time>-<outcome>-<id8>.receipt.json   a DSSE envelope, or the bare statement if unsigned
    <home>/receipts/<time>-<outcome>-<id8>.receipt.txt    its short form for paper

* A refused import writes one too, where a volume lay; a dry run, a usage error, a full disk here and a busy store do
  not: they are no answer to the sender.
* Nothing here ever stops an import or replaces its error: what goes wrong becomes a note.
* Channel and number are told only after the signatures were judged again; what the medium claims is its id alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bundler import medium, receipts, receipts_read
from bundler.conceal import SEALED
from bundler.custody import Log
from bundler.errors import (
    BaseWanting,
    BundleRefused,
    BundlerError,
    GateRefused,
    MediumUnavailable,
    PolicyRefused,
    VolumeDamaged,
    VolumeMissing,
    VolumeMixed,
)
from bundler.importer import ImportReport
from bundler.receipts import Arrival, GateResult, Receipt
from bundler.receipts_compact import Short
from bundler.seal import Keys
from bundler.verify import VerifiedBundle
from bundler.writing import write_file
from manifests.digest import Digest
from manifests.errors import DigestMismatch, FieldError, GgufError, ManifestError, ManifestsError, StatementError
from manifests.gate import Finding
from manifests.home import VERSION, home
from manifests.statement import PAYLOAD_TYPE, format_time
from manifests.store import Store, sync_folder
from signing import envelope as dsse
from signing.errors import MalformedEnvelope, NotTrusted, SigningError
from signing.keys import Signer

FULL, SHORT = ".receipt.json", ".receipt.txt"
MAX_LISTED = 10_000  # names of an unreadable medium that its listing digest covers
MAX_SAME = 1000  # receipts of one second

# The first class that fits. What is not here is no refusal of the bundle, and gets no receipt.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (NotTrusted, "not-trusted"),
    (PolicyRefused, "policy"),
    (GateRefused, "gate"),
    (VolumeMissing, "missing"),
    (VolumeMixed, "mixed"),
    (VolumeDamaged, "damaged"),
    (DigestMismatch, "damaged"),
    (MediumUnavailable, "unavailable"),
    (BaseWanting, "missing"),
    (BundleRefused, "malformed"),
    (MalformedEnvelope, "malformed"),
    (StatementError, "malformed"),
    (ManifestError, "malformed"),
    (GgufError, "malformed"),
    (FieldError, "malformed"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A receipt that lies on the disk. `paths`: full and short, then copies."""

    receipt: Receipt
    digest: Digest  # of the full file
    signer: str | None
    paths: tuple[Path, ...]
    custody: dict[str, Any] | None = None  # the log's entry and head, where it was recorded

    def as_dict(self) -> dict[str, Any]:
        return {
            "outcome": self.receipt.outcome,
            "reason": self.receipt.reason,
            "signed_by": self.signer,
            "digest": str(self.digest),
            "files": [str(path) for path in self.paths],
            "custody": self.custody,
        }


@dataclass(slots=True, kw_only=True)
class Keeper:
    """`signer` None writes unsigned receipts and heads. `out`: a folder that gets copies. `log`: the custody log, with
    `hands`: what it is told besides, such as the medium's label. `notes`: what went wrong."""

    signer: Signer | None
    out: Path | None = None
    folder: Path = field(default_factory=lambda: home() / "receipts")
    log: Log | None = None
    hands: dict[str, str | int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)

    def attest(
        self, run: Callable[[], ImportReport], path: Path, store: Store, again: Callable[[], VerifiedBundle] | None,
        keys: Keys | None = None, *, once: bool = False,
    ) -> tuple[ImportReport, Kept | None]:  # fmt: skip
        """`run` imports the bundle at `path`; its errors go on as they are, after their receipt was written. `again`
        authenticates the bundle once more; None for a dry run, which gets no receipt. `keys`: where volumes are
        encrypted. `once`: nobody asked for this import, it is tried again and again; so the same answer is given once,
        and none while only an approver is waited for."""
        try:
            report = run()
        except (BundlerError, SigningError, ManifestsError) as error:
            receipt = refusal(error, path, again, keys) if again else None
            if receipt is not None and not (once and (_waits(error) or self._said(receipt))):
                self.keep(receipt)
            raise
        kept = self.keep(arrival(report, _now())) if report.complete else None
        if kept is not None:
            self._record(store, report, kept)
        return report, kept

    def _said(self, receipt: Receipt) -> bool:
        """Whether the newest receipt here of this bundle says the same."""
        found = sorted(self.folder.glob(f"*-{(receipt.id or 'unknown')[:8]}{FULL}"))
        try:
            said = receipts_read.read_file(found[-1]).content if found else None
            return isinstance(said, Receipt) and replace(said, time=receipt.time, tool=receipt.tool) == receipt
        except BundlerError:
            return False

    def keep(self, receipt: Receipt) -> Kept | None:
        """None, with a note, when the disk or the key refuses: an import is never stopped by its receipt."""
        try:
            raw = receipt.encode()
            if self.signer is not None:
                raw = dsse.encode(dsse.sign(PAYLOAD_TYPE, raw, [self.signer]))
            short = _paper(receipt, Short.of(receipt, self.signer))
            places = [*self._write(self.folder, receipt, raw, short)]
        except (OSError, BundlerError, SigningError, ManifestsError) as error:
            self.notes.append(f"the receipt could not be written: {error}")
            self._log_entry(receipt, None)
            return None
        if self.out is not None:
            try:
                places += self._write(self.out, receipt, raw, short)
            except (OSError, ManifestsError) as error:  # it is here all the same
                self.notes.append(f"no copy of the receipt in {self.out}: {error}; copy {places[0]} yourself")
        signer = self.signer.name if self.signer else None
        digest = Digest.of(raw)
        custody = self._log_entry(receipt, digest)
        kept = Kept(receipt=receipt, digest=digest, signer=signer, paths=tuple(places), custody=custody)
        self.kept.append(kept)
        return kept

    def _log_entry(self, receipt: Receipt, digest: Digest | None) -> dict[str, Any] | None:
        if self.log is None:
            return None
        facts: dict[str, str | int] = {"receipt": str(digest or "could not be written"), **self.hands}
        named = {"bundle": receipt.id, "channel": receipt.channel, "sequence": receipt.sequence}
        facts |= {key: value for key, value in named.items() if value is not None}
        arrived = receipt.reason == receipts.ARRIVED
        facts |= {} if arrived else {"reason": receipt.reason}
        try:
            entry, head = self.log.append("import" if arrived else "refusal", facts, self.signer)
        except (OSError, BundlerError, SigningError, ManifestsError) as error:
            self.notes.append(f"custody: not recorded: {error}")
            return None
        return {"entry": entry.index, "log": head.log, "root": head.root, "size": head.size}

    def _write(self, folder: Path, receipt: Receipt, raw: bytes, short: str) -> tuple[Path, Path]:
        folder.mkdir(parents=True, exist_ok=True)
        stamp = receipt.time.replace("-", "").replace(":", "")
        stem = f"{stamp}-{receipt.outcome}-{(receipt.id or 'unknown')[:8]}"
        names = [stem, *(f"{stem}-{i}" for i in range(2, MAX_SAME))]
        free = next((name for name in names if not (folder / (name + FULL)).exists()), names[-1])
        places = folder / (free + FULL), folder / (free + SHORT)
        write_file(places[0], raw)
        write_file(places[1], short.encode())
        sync_folder(folder)
        return places

    def _record(self, store: Store, report: ImportReport, kept: Kept) -> None:
        """For `sealift audit`: with each model, which receipt was given for it."""
        facts: dict[str, Any] = {
            "time": kept.receipt.time,
            "receipt": str(kept.digest),
            "file": kept.paths[0].name,
            "signed_by": kept.signer or "nobody: this side has no key for receipts",
            "bundle": report.bundle.statement.id,
        }
        if kept.custody is not None:
            facts["custody"] = kept.custody
        try:
            for item in report.models:
                if item.action != "kept":
                    store.add_record(item.manifest, "receipt", facts)
        except ManifestsError as error:
            self.notes.append(f"the receipt could not be recorded with the models: {error}")


def arrival(report: ImportReport, time: str) -> Receipt:
    statement = report.bundle.statement
    return Receipt(
        reason=receipts.ARRIVED,
        time=time,
        subject=report.bundle.statement_digest,
        known=True,
        id=statement.id,
        channel=statement.channel,
        sequence=statement.sequence,
        models=tuple(Arrival(name=m.name, manifest=m.manifest, action=m.action) for m in report.models),
        signers=report.bundle.verdict.signers,
        gate=_gate(report.findings),
        not_checked=_lines(report.not_checked),
        tool=_tool(),
    )


def refusal(
    error: Exception, path: Path, again: Callable[[], VerifiedBundle], keys: Keys | None = None
) -> Receipt | None:
    """None where the error is no answer to the sender, or no volume lies there."""
    reason = next((word for kind, word in _REASONS if isinstance(error, kind)), None)
    listing = _listing(path)
    if reason is None or listing is None:
        return None
    common: dict[str, Any] = {"reason": reason, "time": _now(), "tool": _tool()}
    if isinstance(error, GateRefused):
        common["gate"] = _gate(error.findings)
    try:
        found = medium.open_medium(path, keys)
    except BundlerError:
        return Receipt(subject=listing, known=False, **common)
    if reason != "not-trusted":
        try:
            bundle = again()
        except (BundlerError, SigningError, ManifestsError):
            pass
        else:
            common |= {"channel": bundle.statement.channel, "sequence": bundle.statement.sequence}
            common |= {"signers": bundle.verdict.signers}
    try:
        subject, known = Digest.of(dsse.decode(found.envelope).payload), True
    except SigningError:
        subject, known = listing, False
    return Receipt(subject=subject, known=known, id=found.id, **common)


def _waits(error: Exception) -> bool:
    """Whether an approver's signature is all that is missing."""
    verdict = getattr(error, "verdict", None)
    return verdict is not None and not verdict.problems and {r.role for r in verdict.roles if not r.met} == {"approver"}


def _listing(path: Path) -> Digest | None:
    """Of the names and sizes that lie there, so that even an unreadable medium has an identity."""
    try:
        folder = path.parent if path.is_file() else path
        names = [path.name] if path.is_file() else sorted(medium.file_names(folder))[:MAX_LISTED]
        if not any(medium.VOLUME.fullmatch(name.removesuffix(SEALED)) for name in names):
            return None
        lines = (b"%s\0%d\n" % (os.fsencode(name), os.lstat(folder / name).st_size) for name in names)
        return Digest.of(b"".join(lines))
    except (OSError, BundlerError):
        return None


def _gate(findings: Sequence[Finding]) -> GateResult:
    errors = sum(finding.action == "refuse" for finding in findings)
    rules = tuple(sorted({finding.rule[:80] for finding in findings}))[:200]
    return GateResult(errors=errors, notes=len(findings) - errors, rules=rules)


def _lines(lines: Sequence[str]) -> tuple[str, ...]:
    """Plain and within the limits; what is left out is said."""
    plain = ["".join(c if c.isprintable() else "?" for c in line)[: receipts.MAX_LINE] for line in lines]
    if len(plain) > receipts.MAX_NOT_CHECKED:
        left = len(plain) - receipts.MAX_NOT_CHECKED
        plain = [*plain[: receipts.MAX_NOT_CHECKED], f"and {left} more"]
    return tuple(plain)


def _paper(receipt: Receipt, short: Short) -> str:
    """The short form with lines for people above it."""
    where = f"{receipt.channel}, number {receipt.sequence}" if receipt.trusted else "a bundle that was not trusted"
    signed = "signed" if short.signature else "NOT SIGNED"
    said = f"# {receipt.outcome}: {where}, at {receipt.time}, {signed}\n"
    return said + short.text()


def _now() -> str:
    return format_time(datetime.now(timezone.utc))


def _tool() -> str:
    return f"sealift {VERSION}"
