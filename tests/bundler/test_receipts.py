"""Receipts: what an import says of itself, in both forms, for arrivals and refusals; and what is refused as one."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import segno
from hypothesis import given
from hypothesis import strategies as st

import sealift
from bundler import paper, qr, receipts_compact
from bundler.custody import Log
from bundler.errors import BundlerError, PaperRefused, ReceiptRefused
from bundler.importer import import_bundle
from bundler.policy import Policy
from bundler.receipts import REASONS, Arrival, GateResult, Receipt
from bundler.receipts_compact import TITLE, Short
from bundler.receipts_keep import FULL, SHORT, Keeper
from bundler.receipts_read import judge, read, read_file
from bundler.verify import VerifiedBundle, authenticate
from manifests import canonical
from manifests.digest import Digest
from manifests.errors import ManifestsError
from manifests.name import ModelName
from manifests.statement import PAYLOAD_TYPE, parse_time
from signing import envelope as dsse
from signing.errors import NotTrusted, SigningError
from signing.keys import Signer
from signing.trust import TrustStore
from tests.peers.bundles import Gap, signer, small_gguf, trusting, volumes
from tests.peers.forgery import flip

TODAY = date(2026, 11, 1)


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    fresh = Gap(tmp_path)
    fresh.model(rows=64)
    fresh.export()
    return fresh


def bring_in(
    gap: Gap,
    *,
    key: Signer | None = None,
    trust: TrustStore | None = None,
    out: Path | None = None,
    log: Log | None = None,
) -> Keeper:
    """An import with its receipt; the error of a refused one is swallowed here."""
    believed = trust or trusting(signer())
    keeper = Keeper(signer=key, out=out, folder=gap.root / "receipts", log=log)

    def again() -> VerifiedBundle:
        return authenticate(gap.medium, believed, Policy(), parse_time("2026-11-01T00:00:00Z"))

    with contextlib.suppress(BundlerError, SigningError, ManifestsError):
        keeper.attest(lambda: import_bundle(gap.medium, gap.far, believed, seen=gap.seen), gap.medium, gap.far, again)
    return keeper


def receiving(*signers: Signer, channels: tuple[str, ...] = ("*",)) -> TrustStore:
    store = TrustStore.empty()
    for one in signers:
        store = store.add(one.public, ["receiver"], channels)
    return store


SAMPLE = Receipt(
    reason="arrived",
    time="2026-11-01T12:00:00Z",
    subject=Digest.of(b"statement"),
    known=True,
    id="6ce66eb50c25992dd64c1baef7966056",
    channel="acme/llm",
    sequence=7,
    models=(Arrival(name=ModelName.parse("mine"), manifest=Digest.of(b"manifest"), action="new"),),
    signers=("alice",),
    gate=GateResult(errors=0, notes=1, rules=("layer.unknown",)),
    not_checked=("tensor values",),
    tool="sealift 1",
)


# -- what an import writes


def test_an_arrival_is_signed_and_names_what_arrived(gap: Gap) -> None:
    keeper = bring_in(gap, key=signer("rita"), out=gap.root / "back")
    (kept,) = keeper.kept
    assert not keeper.notes and len(kept.paths) == 4
    assert {path.name for path in (gap.root / "back").iterdir()} == {path.name for path in kept.paths[:2]}
    full, short = read_file(kept.paths[0]), read_file(kept.paths[1])
    assert isinstance(full.content, Receipt) and isinstance(short.content, Short)
    assert full.content.channel == "mine" and full.content.sequence == 1 and full.content.outcome == "arrived"
    assert [item.name.short for item in full.content.models] == ["mine:latest"]
    assert full.content.signers == ("alice",)
    assert short.subject == full.content.subject.hex[:32]
    for found in (full, short):
        assert judge(found, receiving(signer("rita")), "hybrid", TODAY).signer == "rita"


def test_the_audit_of_each_model_tells_its_receipt(gap: Gap) -> None:
    (kept,) = bring_in(gap, key=signer("rita")).kept
    records = gap.far.records(gap.far.manifest(ModelName.parse("mine")).digest)
    assert [record["kind"] for record in records] == ["import", "receipt"]
    assert records[1]["receipt"] == str(kept.digest) and records[1]["signed_by"] == "rita"


def test_without_a_key_the_receipt_is_there_and_says_that_nobody_signed(gap: Gap) -> None:
    (kept,) = bring_in(gap).kept
    for path in kept.paths:
        found = read_file(path)
        assert not found.signed
        assert judge(found, receiving(signer("rita")), "hybrid", TODAY).problem == "nobody signed it"
    assert "NOT SIGNED" in kept.paths[1].read_text()


@pytest.mark.parametrize(
    ("spoil", "reason", "told"),
    [
        (lambda medium: flip(volumes(medium)[1], volumes(medium)[1].stat().st_size - 1600), "damaged", True),
        (lambda medium: volumes(medium)[1].unlink(), "missing", True),
        (lambda medium: flip(volumes(medium)[0], 600), "damaged", False),
        (lambda medium: volumes(medium)[0].write_bytes(b"nonsense"), "damaged", False),
    ],
    ids=["a flip", "a lost volume", "a mangled envelope", "nonsense"],
)
def test_a_refusal_has_a_receipt_with_its_reason(
    gap: Gap, spoil: Callable[[Path], None], reason: str, told: bool
) -> None:
    assert len(volumes(gap.medium)) > 1
    spoil(gap.medium)
    (kept,) = bring_in(gap, key=signer("rita")).kept
    assert (kept.receipt.outcome, kept.receipt.reason) == ("refused", reason)
    assert kept.receipt.trusted == told, "channel and number only after the signatures counted"
    assert "sealift:models-visible" not in kept.receipt.properties
    assert str(gap.root) not in kept.paths[0].read_text() + dsse.decode(kept.paths[0].read_bytes()).payload.decode()


def test_who_is_not_trusted_tells_no_channel(gap: Gap) -> None:
    (kept,) = bring_in(gap, key=signer("rita"), trust=trusting(signer("bob"))).kept
    assert kept.receipt.reason == "not-trusted" and not kept.receipt.trusted and kept.receipt.properties == ()
    assert kept.receipt.known and kept.receipt.id, "the statement's digest is a fact, the id a claim"


def test_an_older_bundle_and_a_folder_without_volumes(gap: Gap) -> None:
    bring_in(gap)
    old = gap.root / "old"
    gap.medium.rename(old)
    gap.medium.mkdir()
    gap.export()
    bring_in(gap)
    gap.medium = old
    (kept,) = bring_in(gap).kept
    assert kept.receipt.reason == "policy" and kept.receipt.sequence == 1
    gap.medium = gap.root / "empty"
    gap.medium.mkdir()
    assert bring_in(gap).kept == [], "where no volume lies there is nothing to answer"


def test_a_receipt_that_cannot_be_written_stops_nothing(gap: Gap) -> None:
    (gap.root / "receipts").write_text("a file where the folder should be")
    keeper = bring_in(gap)
    assert keeper.kept == [] and "could not be written" in keeper.notes[0]
    assert gap.far.manifest(ModelName.parse("mine"))


def test_a_copy_that_cannot_be_written_is_missing_elsewhere_only(gap: Gap) -> None:
    """The receipt is here, and so are the entries of the custody log and of the models."""
    (gap.root / "back").write_text("a medium that is read-only")
    log = Log(gap.root / "custody")
    keeper = bring_in(gap, key=signer("rita"), out=gap.root / "back", log=log)
    (kept,) = keeper.kept
    assert kept.paths[0].exists() and kept.custody and str(kept.paths[0]) in keeper.notes[0]
    (gap.root / "receipts").rename(gap.root / "moved")
    (gap.root / "receipts").write_text("a file where the folder should be")
    assert bring_in(gap, log=log).kept == []
    assert [entry.event for entry in log.read().entries] == ["begin", "import", "import"]


# -- the bytes


def test_the_law_of_the_full_form() -> None:
    for receipt in (
        SAMPLE,
        replace(SAMPLE, reason="gate", models=()),
        replace(SAMPLE, reason="policy", models=(), gate=None),
        Receipt(reason="damaged", time=SAMPLE.time, subject=SAMPLE.subject, known=False, tool="sealift 1"),
    ):
        assert Receipt.decode(receipt.encode()) == receipt
        assert Short.decode(Short.of(receipt).encode()) == Short.of(receipt)


def test_every_mangled_byte_of_the_statement_is_refused_or_says_something_else() -> None:
    raw = SAMPLE.encode()
    for at in range(len(raw)):
        for bit in (1, 2, 0x20):
            mangled = bytearray(raw)
            mangled[at] ^= bit
            with contextlib.suppress(ReceiptRefused):
                assert Receipt.decode(bytes(mangled)).encode() != raw


def test_every_missing_and_every_extra_key_is_refused() -> None:
    document = json.loads(SAMPLE.encode())

    def objects(value: object) -> list[dict[str, object]]:
        inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        return ([value] if isinstance(value, dict) else []) + [found for item in inside for found in objects(item)]

    assert len(objects(document)) >= 7
    for number in range(len(objects(document))):
        for key in [*objects(document)[number], None]:
            changed = json.loads(SAMPLE.encode())
            target = objects(changed)[number]
            if key is None:
                target["more"] = 1
            else:
                del target[key]
            if "receipt" in str(key) or changed != document:
                with pytest.raises(ReceiptRefused):
                    Receipt.decode(canonical.encode(changed))


@pytest.mark.parametrize(
    "lie",
    [
        {"outcome": "refused"},
        {"outcome": "refused", "reason": "arrived"},
        {"exit": "refused"},
        {"reason": "policy"},
        {"sequence": 0},
        {"channel": "../x"},
        {"channel": None},
        {"models": []},
        {"signers": ["alice\x1b[2J"]},
        {"notChecked": ["x" * 500]},
        {"id": "6CE66EB50C25992DD64C1BAEF7966056"},
        {"gate": {"errors": 0, "notes": 0, "rules": ["b", "a"]}},
        {"gate": None},
    ],
    ids=str,
)
def test_a_receipt_that_contradicts_itself(lie: dict[str, object]) -> None:
    document = json.loads(SAMPLE.encode())
    document["predicate"]["sealift_receipt"] |= lie
    with pytest.raises(ReceiptRefused):
        Receipt.decode(canonical.encode(document))


def test_every_mangled_byte_of_an_envelope_counts_for_nothing(gap: Gap) -> None:
    (kept,) = bring_in(gap, key=signer("rita")).kept
    raw = kept.paths[0].read_bytes()
    trust = receiving(signer("rita"))
    for at in range(0, len(raw), 7):
        mangled = bytearray(raw)
        mangled[at] ^= 1
        with contextlib.suppress(ReceiptRefused):
            assert judge(read(bytes(mangled), "x"), trust, "hybrid", TODAY).signer is None


def test_every_mangled_byte_of_a_short_form_counts_for_nothing() -> None:
    rita = signer("rita")
    short = Short.of(SAMPLE, rita)
    trust = receiving(rita)
    for at in range(len(short.encode())):
        mangled = bytearray(short.encode())
        mangled[at] ^= 1
        text = paper.text(TITLE, bytes(mangled))
        with contextlib.suppress(BundlerError):
            assert judge(read(text.encode(), "x"), trust, "hybrid", TODAY).signer is None
    assert judge(read(short.text().encode(), "x"), trust, "hybrid", TODAY).signer == "rita"


# -- who counts


def test_receivers_count_for_their_channels_and_publishers_do_not() -> None:
    rita = signer("rita")
    envelope = dsse.encode(dsse.sign(PAYLOAD_TYPE, SAMPLE.encode(), [rita]))
    short = Short.of(SAMPLE, rita).text().encode()
    lost = Receipt(reason="damaged", time=SAMPLE.time, subject=SAMPLE.subject, known=False, tool="sealift 1")
    nowhere = dsse.encode(dsse.sign(PAYLOAD_TYPE, lost.encode(), [rita]))
    for trust, counts in (
        (receiving(rita, channels=("acme/*",)), True),
        (receiving(rita, channels=("other",)), False),
        (trusting(rita), False),
        (receiving(rita).revoke("rita", "lost", TODAY), False),
        (receiving(signer("bob")), False),
    ):
        for raw in (envelope, short):
            assert (judge(read(raw, "x"), trust, "hybrid", TODAY).signer == "rita") == counts
    assert judge(read(nowhere, "x"), receiving(rita, channels=("acme/*",)), "hybrid", TODAY).signer is None
    assert judge(read(nowhere, "x"), receiving(rita), "hybrid", TODAY).signer == "rita"


def test_a_receipt_is_no_bundle_and_a_receiver_no_publisher() -> None:
    envelope = dsse.encode(dsse.sign(PAYLOAD_TYPE, SAMPLE.encode(), [signer("rita")]))
    with pytest.raises(NotTrusted):
        receiving(signer("rita")).verify(envelope, payload_type=PAYLOAD_TYPE, channel="acme/llm", now=TODAY)
    bundle = dsse.encode(dsse.sign(PAYLOAD_TYPE, b'{"_type":"https://in-toto.io/Statement/v1"}', [signer("rita")]))
    with pytest.raises(ReceiptRefused):
        read(bundle, "x")


# -- paper


@given(st.binary(min_size=1, max_size=200))
def test_what_is_printed_is_read(raw: bytes) -> None:
    text = paper.text(TITLE, raw)
    assert paper.parse(TITLE, text) == raw == paper.parse(TITLE, paper.symbol(TITLE, raw))
    lines = text.splitlines()
    typed = "\n".join([lines[0].lower(), "# said on the telephone", *reversed(lines[1:])]).replace("0", "o")
    assert paper.parse(TITLE, typed.replace("sealift receipt 1", "Sealift  Receipt 1").replace("oo", "00")) is not None


def test_every_wrong_character_is_told_with_its_line() -> None:
    text = Short.of(SAMPLE, signer("rita")).text()
    lines = text.splitlines()
    for number in range(1, len(lines)):
        for at, old in enumerate(lines[number]):
            if old == " ":
                continue
            new = "X" if old != "X" else "Y"
            wrong = lines[number][:at] + new + lines[number][at + 1 :]
            with pytest.raises(PaperRefused, match=f"line {number} |line does not begin|is missing|twice"):
                paper.parse(TITLE, "\n".join([*lines[:number], wrong, *lines[number + 1 :]]))
    for gone in range(1, len(lines)):
        with pytest.raises(PaperRefused):
            paper.parse(TITLE, "\n".join([*lines[:gone], *lines[gone + 1 :]]))
    with pytest.raises(PaperRefused):
        paper.parse("SEALIFT HEAD 1", text)


def test_a_short_form_fits_into_one_symbol_of_version_ten() -> None:
    short = Short.of(SAMPLE, signer("rita"))
    assert int(segno.make_qr(short.symbol(), error="m").version) <= 10
    assert qr.terminal([short.symbol()]).count("\n") < 40
    assert receipts_compact.parse(short.symbol()) == short


def test_the_vector_of_the_page() -> None:
    """docs/formats/receipt.md: its example is this sample, and its text this text."""
    page = (Path(__file__).parents[2] / "docs/formats/receipt.md").read_text()
    assert SAMPLE.encode().decode() in page
    for line in Short.of(SAMPLE).text().splitlines():
        assert line in page
    assert list(REASONS) == [row.split("|")[2].strip(" `") for row in page.splitlines() if row.startswith("| ") and
                             row.split("|")[1].strip().isdigit() and "`" in row]  # fmt: skip


# -- the command line


def test_import_prints_where_the_receipt_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    small_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\n")

    def run(*words: str, status: int = 0) -> str:
        capsys.readouterr()
        assert sealift.run(list(words)) == status
        return "".join(capsys.readouterr())

    for name in ("alice", "receipt"):
        run("key", "generate", name, "--no-passphrase")
    run("trust", "add", "home/keys/alice.pub", "--role", "publisher")
    run("trust", "add", "home/keys/receipt.pub", "--role", "receiver")
    run("create", "mine")
    run("bundle", "export", "mine", "-o", "usb", "--sign", "alice")
    assert "signed by receipt" in run("bundle", "import", "usb", "--receipt-out", "back")
    (full,) = (tmp_path / "back").glob("*" + FULL)
    (short,) = (tmp_path / "back").glob("*" + SHORT)
    assert "signed by the receiver receipt" in run("receipt", "show", str(full), "--qr", "paper.svg")
    assert (tmp_path / "paper.svg").stat().st_size > 1000
    assert "SEALIFT RECEIPT 1" in run("receipt", "show", str(short))
    assert json.loads(run("receipt", "show", str(full), "--json"))["receiver"] == "receipt"
    assert run("bundle", "import", "usb", "--dry-run").count("receipt") == 0
    assert "no key named 'nobody'" in run("bundle", "import", "usb", "--receipt-key", "nobody", status=1)
    first = volumes(tmp_path / "usb")[0]
    flip(first, first.stat().st_size - 1600)
    said = run("bundle", "import", "usb", status=1)
    assert "receipt (refused, signed by receipt)" in said
    run("key", "passwd", "receipt", "--no-passphrase")
    run("key", "generate", "receipt", "--force", "--no-passphrase")
    (tmp_path / "home/keys/receipt.pub").unlink()
    assert "will not be signed" in run("bundle", "import", "usb", status=1)


def test_base64_of_an_envelope_has_one_spelling() -> None:
    raw = dsse.encode(dsse.sign(PAYLOAD_TYPE, SAMPLE.encode(), [signer("rita")]))
    assert base64.b64encode(SAMPLE.encode()) in raw
    with pytest.raises(ReceiptRefused):
        read(raw + b"\n", "x")
