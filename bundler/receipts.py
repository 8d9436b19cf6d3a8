"""A receipt: what became of a bundle on the side that imported it, as one in-toto Statement v1 in canonical JSON.

The predicate is a Simple Verification Result (svr/v0.2): who verified, when, which properties hold. What it has no
place for stands in one field of ours, `sealift_receipt`. Signed, the statement travels in one DSSE envelope; a side
without a key writes the bare statement, and everybody who shows it says that it is unsigned.

Law: `Receipt.decode(raw).encode() == raw`, or `decode` refuses: unknown fields, other spellings, a property that does
not follow from the outcome, a subject that is not the statement's digest, a refusal without its reason.
A refusal names a class of reasons and no message: messages quote files, paths and people.
`channel` and `sequence` are there only if the bundle's signatures counted; `id` alone is what the medium claimed.
Normative text: docs/formats/receipt.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bundler.errors import ReceiptRefused
from manifests import canonical
from manifests.digest import Digest
from manifests.errors import FieldError, ManifestsError
from manifests.fields import Fields, text_item
from manifests.name import ModelName
from manifests.statement import CHANNEL, ID, PLAIN, STATEMENT_TYPE, parse_time

PREDICATE_TYPE = "https://in-toto.io/attestation/svr/v0.2"
VERIFIER = "https://sealift.dev/import/v1"
OURS = "sealift_receipt"  # in-toto: names of extension fields begin with their owner's

ARRIVED = "arrived"
# what `reason` says, with the exit code of the import; in the order of their numbers in the short form
REASONS = {
    ARRIVED: 0,
    "not-trusted": 3,
    "malformed": 1,
    "policy": 1,
    "missing": 1,
    "mixed": 1,
    "damaged": 1,
    "gate": 1,
    "unavailable": 4,
}
EXIT_WORDS = {0: "done", 1: "refused", 3: "not trusted", 4: "unavailable"}
TRUSTED, ADMITTED = "sealift:signatures-count", "sealift:policy-and-sequence"
BYTES, GATE, VISIBLE = "sealift:every-byte", "sealift:content-gate", "sealift:models-visible"

MAX_RECEIPT = 1 << 20  # bytes of the statement
MAX_MODELS = 1024
MAX_NOT_CHECKED = 100  # a writer that has more says how many it left out
MAX_LINE = 400  # characters
MAX_SEQUENCE = (1 << 53) - 1
_ACTIONS = ("new", "same", "replaced", "kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One model of the bundle: `action` as in the import's report."""

    name: ModelName
    manifest: Digest
    action: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """Findings of the content gate: how many refuse (`errors`) and how many do not (`notes`), and by which rules."""

    errors: int
    notes: int
    rules: tuple[str, ...]  # ascending, each once


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """`subject` is the digest of the bundle's statement if `known`; else of the list of files that lay there."""

    reason: str  # a key of REASONS; `arrived` is the one that is no refusal
    time: str  # when the import ended, by the importing side's clock
    subject: Digest
    known: bool
    id: str | None = None
    channel: str | None = None  # with `sequence`: the bundle's signatures counted
    sequence: int | None = None
    models: tuple[Arrival, ...] = ()
    signers: tuple[str, ...] = ()  # who counted for the bundle
    gate: GateResult | None = None  # None: it did not run to its end
    not_checked: tuple[str, ...] = ()
    tool: str

    @property
    def outcome(self) -> str:
        return ARRIVED if self.reason == ARRIVED else "refused"

    @property
    def trusted(self) -> bool:
        return self.channel is not None

    @property
    def properties(self) -> tuple[str, ...]:
        """What was verified, as far as the import came. Not listed means not asserted."""
        if self.reason == ARRIVED:
            return (TRUSTED, ADMITTED, BYTES, GATE, VISIBLE)
        if self.reason == "gate" and self.trusted:
            return (TRUSTED, ADMITTED, BYTES)
        return (TRUSTED,) if self.trusted else ()

    def encode(self) -> bytes:
        name = "statement" if self.known else "listing"
        raw = canonical.encode(
            {
                "_type": STATEMENT_TYPE,
                "subject": [{"name": name, "digest": {"sha256": self.subject.hex}}],
                "predicateType": PREDICATE_TYPE,
                "predicate": {
                    "verifier": {"id": VERIFIER, "policies": []},
                    "timeCreated": self.time,
                    "properties": list(self.properties),
                    OURS: self._ours(),
                },
            }
        )
        if len(raw) > MAX_RECEIPT:
            raise ReceiptRefused(f"a receipt of {len(raw):,} bytes; at most {MAX_RECEIPT:,} are written")
        return raw

    def _ours(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "outcome": self.outcome,
            "exit": EXIT_WORDS[REASONS[self.reason]],
            "models": [
                {"name": item.name.full, "manifest": str(item.manifest), "action": item.action} for item in self.models
            ],
            "signers": list(self.signers),
            "notChecked": list(self.not_checked),
            "tool": self.tool,
        }
        if self.reason != ARRIVED:
            out["reason"] = self.reason
        for key, value in (("id", self.id), ("channel", self.channel), ("sequence", self.sequence)):
            if value is not None:
                out[key] = value
        if self.gate is not None:
            out["gate"] = {"errors": self.gate.errors, "notes": self.gate.notes, "rules": list(self.gate.rules)}
        return out

    @classmethod
    def decode(cls, raw: bytes) -> Receipt:
        """Raises ReceiptRefused, naming the field."""
        try:
            receipt = _read(Fields.of(canonical.decode(raw, limit=MAX_RECEIPT)))
            if receipt.encode() != raw:
                raise FieldError("predicate", "its parts contradict each other")
        except ManifestsError as error:
            raise ReceiptRefused(f"not a receipt: {error}") from None
        return receipt


def _read(document: Fields) -> Receipt:
    if document.text("_type") != STATEMENT_TYPE or document.text("predicateType") != PREDICATE_TYPE:
        raise FieldError("predicateType", f"expected {PREDICATE_TYPE}")
    subject = document.array("subject", Fields.of, maximum=1)
    predicate = document.object("predicate")
    ours = predicate.object(OURS)
    if not subject:
        raise FieldError("subject", "expected one")
    receipt = Receipt(
        reason=_reason(ours),
        time=_time(predicate, "timeCreated"),
        subject=Digest(subject[0].object("digest").text("sha256", maximum=64)),
        known=subject[0].text("name", maximum=20) == "statement",
        id=ours.optional("id", ours.text, pattern=ID),
        channel=ours.optional("channel", ours.text, pattern=CHANNEL, maximum=128),
        sequence=ours.optional("sequence", ours.integer, minimum=1, maximum=MAX_SEQUENCE),
        models=ours.array("models", _arrival, maximum=MAX_MODELS),
        signers=ours.array("signers", text_item, maximum=64),
        gate=_gate(ours.object("gate")) if ours.has("gate") else None,
        not_checked=ours.array("notChecked", text_item, maximum=MAX_NOT_CHECKED + 1),
        tool=ours.text("tool", pattern=PLAIN, maximum=80),
    )
    _check(receipt)
    return receipt  # fields that nobody asked for are missing when it is encoded again


def _check(receipt: Receipt) -> None:
    ours = f"predicate.{OURS}"
    if (receipt.channel is None) != (receipt.sequence is None):
        raise FieldError(ours, "a channel and a sequence number come together")
    if receipt.trusted and (receipt.id is None or not receipt.known):
        raise FieldError(ours, "a channel without the bundle's id and statement")
    if receipt.reason == ARRIVED and not (receipt.trusted and receipt.models and receipt.gate):
        raise FieldError(ours, "an arrival names its bundle, models and gate")
    if receipt.reason == "not-trusted" and receipt.trusted:
        raise FieldError(ours, "refused as not trusted, and yet with a channel")
    for line in (*receipt.signers, *receipt.not_checked):
        if len(line) > MAX_LINE or not PLAIN.fullmatch(line):
            raise FieldError(ours, f"not one plain line of at most {MAX_LINE} characters")


def _reason(ours: Fields) -> str:
    """Of the pair of outcome and reason; `exit` is compared when the receipt is encoded again."""
    ours.text("exit", maximum=20)
    if ours.text("outcome", maximum=20) == ARRIVED:
        return ARRIVED
    reason = ours.text("reason", maximum=20)
    if reason not in REASONS or reason == ARRIVED:
        raise FieldError(ours.at("reason"), f"unknown reason {reason!r}")
    return reason


def _arrival(value: Any, path: str) -> Arrival:
    fields = Fields.of(value, path)
    action = fields.text("action", maximum=20)
    if action not in _ACTIONS:
        raise FieldError(fields.at("action"), f"unknown action {action!r}")
    return Arrival(
        name=ModelName.parse(fields.text("name", maximum=700)), manifest=fields.digest("manifest"), action=action
    )


def _gate(fields: Fields) -> GateResult:
    rules = fields.array("rules", text_item, maximum=200)
    if list(rules) != sorted(set(rules)) or not all(len(rule) <= 80 and PLAIN.fullmatch(rule) for rule in rules):
        raise FieldError(fields.at("rules"), "expected rule ids, ascending, each once")
    return GateResult(errors=fields.integer("errors"), notes=fields.integer("notes"), rules=rules)


def _time(fields: Fields, key: str) -> str:
    text = fields.text(key, maximum=40)
    try:
        parse_time(text)
    except ValueError:
        raise FieldError(fields.at(key), f"expected a time such as 2027-01-31T12:00:00Z, found {text!r}") from None
    return text
