"""Inventories: what a store holds, signed, read strictly, and enough for an export to send only what changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from bundler import delta_since
from bundler.errors import BadRequest, InventoryRefused
from bundler.export import export
from bundler.inventory import PAYLOAD_TYPE, Inventory, Taken, take
from manifests import canonical
from manifests.leaves import LEAF_SIZE
from signing import envelope as dsse
from signing.errors import NotTrusted, SigningError
from signing.trust import TrustStore
from tests.bundler.test_delta import BIG, make, weights_of
from tests.peers.bundles import Gap, put_model, signer, trusting
from tests.peers.forgery import flip

NOW = datetime(2026, 11, 26, tzinfo=timezone.utc)


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap = Gap(tmp_path)
    put_model(gap.far, "mine", make(tmp_path / "old.gguf"))
    return gap


def taken(gap: Gap) -> Taken:
    return take(gap.far, gap.seen, NOW)


def write(gap: Gap, *by: str, raw: bytes | None = None) -> Path:
    path = gap.root / "enclave.inventory"
    raw = raw if raw is not None else taken(gap).inventory.encode()
    path.write_bytes(
        dsse.encode(dsse.sign(PAYLOAD_TYPE, raw, [signer(name) for name in by])) if by else raw,
    )
    return path


def receiving() -> TrustStore:
    return TrustStore.empty().add(signer("receiver").public, ["receiver"])


def test_it_lists_what_the_store_holds(gap: Gap) -> None:
    found = taken(gap)
    assert not found.notes
    manifest = gap.far.manifest(gap.far.names()[0])
    assert set(found.inventory.blobs) == {blob.digest for blob in manifest.blobs()}
    large = [known for known in found.inventory.blobs.values() if known.size > LEAF_SIZE]
    assert large and all(known.leaves and sum(known.leaves.lengths) == known.size for known in large)
    assert Inventory.decode(found.inventory.encode()) == found.inventory


def test_a_damaged_blob_is_not_listed(gap: Gap) -> None:
    manifest = gap.far.manifest(gap.far.names()[0])
    digest = next(iter(manifest.of_kind("model"))).digest
    flip(gap.far.blob_path(digest), 100)
    found = taken(gap)
    assert digest not in found.inventory.blobs
    assert str(digest) in " ".join(found.notes)


@pytest.mark.parametrize("old_one_is_here", [True, False], ids=["old blob at hand", "old blob gone"])
def test_an_export_since_an_inventory(gap: Gap, old_one_is_here: bool) -> None:
    """Tensors are matched by the leaf lists in it; without the old blob the head travels whole."""
    weights = make(gap.root / "new.gguf", template="{{ new }}")
    if old_one_is_here:
        put_model(gap.near, "before", make(gap.root / "old.gguf"))
    name = put_model(gap.near, "mine", weights)
    path = write(gap, "receiver")
    other = delta_since.other_side(str(path), receiving(), [signer()])
    out = gap.root / "delta"
    report = export(gap.near, [name], out, [signer()], BIG, seen=gap.exported, since=other)
    assert report.statement.since and report.statement.since.kind == "inventory"
    assert report.bytes < (120_000 if old_one_is_here else 600_000) < len(weights) // 10
    gap.bring_in(path=out)
    assert weights_of(gap) == weights


def test_who_may_sign_it(gap: Gap) -> None:
    path = write(gap, "receiver")
    for trust in (trusting(signer("receiver")), TrustStore.empty(), trusting(signer())):
        with pytest.raises(NotTrusted):
            delta_since.other_side(str(path), trust, [signer()])
    path = write(gap)
    with pytest.raises(InventoryRefused, match="nobody signed"):
        delta_since.other_side(str(path), receiving(), [signer()])
    assert delta_since.other_side(str(path), receiving(), [signer()], unsigned=True).blobs


def test_a_flipped_byte_is_refused(gap: Gap) -> None:
    path = write(gap, "receiver")
    raw = path.read_bytes()
    for place in range(0, len(raw), max(1, len(raw) // 150)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises((InventoryRefused, SigningError)):
            delta_since.other_side(str(path), receiving(), [signer()])


def test_another_signed_document_is_no_inventory(gap: Gap) -> None:
    path = gap.root / "x"
    path.write_bytes(dsse.encode(dsse.sign("application/x.other", taken(gap).inventory.encode(), [signer("receiver")])))
    with pytest.raises(InventoryRefused, match="not an inventory"):
        delta_since.other_side(str(path), receiving(), [signer()])


Change = Callable[[dict[str, Any]], object]
HOSTILE: list[Change] = [
    lambda d: d.update(more=1),
    lambda d: d.pop("time"),
    lambda d: d.update(time="2026-13-01T00:00:00Z"),
    lambda d: d.update(_type="https://sealift.dev/inventory/v2"),
    lambda d: d.update(tool="\x1b[2J"),
    lambda d: d["blobs"].reverse(),
    lambda d: d["blobs"].append(d["blobs"][-1]),
    lambda d: d["blobs"][0].update(size=-1),
    lambda d: d["blobs"][0].update(size=1 << 52),
    lambda d: d["blobs"][0].update(digest="sha256:../../etc/passwd"),
    lambda d: d["blobs"][0].update(sha512="0"),
    lambda d: d["blobs"][0].update(leaves="!"),
    lambda d: d["blobs"][0].update(leaves="AAAA"),
    lambda d: d["models"][0].update(name="../x"),
    lambda d: d.update(models=d["models"] * 20_000),
    lambda d: d.update(channels=[{"channel": "../x", "sequence": 1, "id": "0" * 32}]),
]


@pytest.mark.parametrize("change", HOSTILE)
def test_hostile_documents_are_refused(gap: Gap, change: Change) -> None:
    document = json.loads(taken(gap).inventory.encode())
    change(document)
    with pytest.raises(InventoryRefused):
        Inventory.decode(canonical.encode(document))


def test_since_nothing_that_is_here(gap: Gap) -> None:
    for text in ("nothing", "deadbeef", "0" * 32):
        with pytest.raises(BadRequest):
            delta_since.other_side(text, receiving(), [signer()])
