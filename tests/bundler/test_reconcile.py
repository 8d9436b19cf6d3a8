"""Reconcile: each state of a bundle, by which receipts; and that receipts which do not count change nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

import sealift
from bundler.channels import Channels, Seen
from bundler.receipts import Receipt
from bundler.receipts_compact import Short
from bundler.receipts_keep import FULL, SHORT
from bundler.receipts_read import Found, read
from bundler.reconcile import Reconciled, gather, reconcile
from manifests.digest import Digest
from manifests.statement import PAYLOAD_TYPE, Earlier
from signing import envelope as dsse
from signing.keys import Signer
from signing.trust import TrustStore
from tests.bundler.test_receipts import SAMPLE
from tests.peers.bundles import signer

TODAY = date(2026, 11, 1)
TRUST = TrustStore.empty().add(signer("rita").public, ["receiver"])


def id_of(number: int) -> str:
    return f"{number:032x}"


def exported(*numbers: int) -> dict[str, Seen]:
    last = numbers[-1]
    ids = tuple(Earlier(sequence=number, id=id_of(number)) for number in numbers)
    return {
        "acme/llm": Seen(sequence=last, id=id_of(last), statement=Digest.of(b"x"), time="2026-01-01T00:00:00Z", ids=ids)
    }


def arrived(number: int, *, named: int | None = None) -> Receipt:
    return replace(SAMPLE, sequence=number, id=id_of(named or number))


def refused(number: int, reason: str = "damaged") -> Receipt:
    return replace(SAMPLE, sequence=number, id=id_of(number), reason=reason, models=(), gate=None)


def full(receipt: Receipt, by: Signer | None = None) -> Found:
    return read(dsse.encode(dsse.sign(PAYLOAD_TYPE, receipt.encode(), [by or signer("rita")])), "full")


def short(receipt: Receipt, by: Signer | None = None) -> Found:
    return read(Short.of(receipt, by or signer("rita")).text().encode(), "short")


def states(result: Reconciled) -> list[tuple[int, str]]:
    return [(row.sequence, row.state) for row in result.rows]


@pytest.mark.parametrize("form", [full, short])
def test_every_state(form: object) -> None:
    make = full if form is full else short
    found = [make(arrived(1)), make(refused(2)), make(refused(4)), make(arrived(4)), make(arrived(5, named=9))]
    result = reconcile(found, exported(1, 2, 3, 4, 5, 6), TRUST, "hybrid", TODAY)
    assert states(result) == [
        (1, "arrived"),
        (2, "refused"),
        (3, "missing"),
        (4, "arrived"),
        (5, "conflicting"),
        (6, "unknown"),
    ]
    assert not result.ok
    assert reconcile([make(arrived(1))], exported(1, 2), TRUST, "hybrid", TODAY).ok, "under way is no fault"


def test_numbers_that_were_skipped_at_export_are_not_missing() -> None:
    result = reconcile([full(arrived(9))], exported(3, 9), TRUST, "hybrid", TODAY)
    assert states(result) == [(3, "missing"), (9, "arrived")]


def test_a_number_that_was_never_exported_conflicts() -> None:
    result = reconcile([full(arrived(3))], exported(1, 2), TRUST, "hybrid", TODAY)
    assert states(result)[-1] == (3, "conflicting")


def test_another_channel_is_judged_by_its_receipts_alone() -> None:
    result = reconcile([full(arrived(1)), full(arrived(4)), full(arrived(9000))], {}, TRUST, "hybrid", TODAY)
    assert states(result)[:4] == [(1, "arrived"), (2, "missing"), (3, "missing"), (4, "arrived")]
    assert states(result)[4:] == [(5, "missing"), (8999, "missing"), (9000, "arrived")]
    assert not reconcile([full(arrived(1))], exported(1), TRUST, "hybrid", TODAY, channel="other").rows


def test_what_does_not_count_changes_no_line() -> None:
    bare = read(arrived(1).encode(), "bare")
    unsigned = read(Short.of(arrived(1)).text().encode(), "unsigned")
    stranger = [full(arrived(1), signer("bob")), short(arrived(1), signer("bob"))]
    result = reconcile([bare, unsigned, *stranger], exported(1), TRUST, "hybrid", TODAY)
    assert states(result) == [(1, "unknown")] and len(result.ignored) == 4


def test_the_paper_beside_a_receipt_that_counts_is_no_news() -> None:
    """A key without Ed25519 signs the full form alone, and the folder has both."""
    text = read(Short.of(arrived(1)).text().encode(), "text")
    result = reconcile([full(arrived(1)), text], exported(1), TRUST, "hybrid", TODAY)
    assert result.ok and not result.ignored
    assert reconcile([full(arrived(2)), text], exported(1, 2), TRUST, "hybrid", TODAY).ignored


def test_a_refusal_without_a_channel_is_found_by_its_id() -> None:
    lost = Receipt(reason="not-trusted", time=SAMPLE.time, subject=SAMPLE.subject, known=True, id=id_of(2), tool="x")
    for form in (full, short):
        assert states(reconcile([form(lost)], exported(1, 2), TRUST, "hybrid", TODAY))[1] == (2, "refused")
    nowhere = replace(lost, id=id_of(77))
    result = reconcile([full(nowhere)], exported(1), TRUST, "hybrid", TODAY)
    assert len(result.unplaced) == 1 and not result.ok


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    TRUST.save(tmp_path / "home/trust.toml")
    back = tmp_path / "back"
    back.mkdir()
    (back / f"a{FULL}").write_bytes(dsse.encode(dsse.sign(PAYLOAD_TYPE, arrived(1).encode(), [signer("rita")])))
    (back / f"b{SHORT}").write_text(Short.of(arrived(2), signer("rita")).text())
    (back / f"c{FULL}").write_text("{}")
    (back / "other.txt").write_text("not looked at")
    assert sealift.run(["reconcile", str(back)]) == 0
    out, err = capsys.readouterr()
    assert out.count("arrived") == 2 and f"c{FULL} counts for nothing" in err
    (back / f"d{FULL}").write_bytes(dsse.encode(dsse.sign(PAYLOAD_TYPE, refused(4).encode(), [signer("rita")])))
    assert sealift.run(["reconcile", str(back), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in told["bundles"]] == ["arrived", "arrived", "missing", "refused"]
    assert told["unread"][0]["file"] == f"c{FULL}"
    assert sealift.run(["reconcile", str(tmp_path / "absent")]) == 4, "a misspelt folder is not an empty one"
    assert gather([back])[0] and Channels.exported().load() == {}


def test_what_is_no_file_in_a_folder_that_came_back_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{FULL}")
    (tmp_path / f"folder{SHORT}").mkdir()
    (tmp_path / f"text{SHORT}").write_bytes(b"nothing")
    found, bad = gather([tmp_path])
    assert not found and [name for name, _ in bad] == [f"text{SHORT}"]
