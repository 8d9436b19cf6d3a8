"""Profile cnsa2: ML-DSA-87 must sign, and nothing rests on SHA-256 alone (docs/formats/trust.md, section 4)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bundler import delta_since, importer, layout
from bundler.errors import BaseWanting
from bundler.export import export
from bundler.importer import import_bundle
from bundler.policy import Policy
from bundler.verify import verify
from manifests.digest import Digest
from signing.errors import NotTrusted
from signing.keys import generate
from signing.schemes import CNSA2
from tests.peers.bundles import Gap, put_model, signer, small_gguf, trusting
from tests.peers.forgery import forge

ALICE = generate("alice", CNSA2)
STRICT = Policy.parse(b'profile = "cnsa2"')


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    made = Gap(tmp_path)
    made.model()
    return made


def test_its_keys_count_under_both_profiles_and_others_do_not(gap: Gap) -> None:
    gap.export(by=[ALICE])
    for policy in (STRICT, Policy()):
        assert verify(gap.medium, trusting(ALICE), policy=policy, seen=gap.seen).complete
    hybrid = gap.root / "hybrid"
    gap.export(out=hybrid)
    with pytest.raises(NotTrusted, match="profile cnsa2 needs a key of ml-dsa-87"):
        verify(hybrid, trusting(signer()), policy=STRICT, seen=gap.seen)


def test_the_one_file_verifier_checks_these_keys_too(gap: Gap) -> None:
    gap.export(by=[ALICE])
    (gap.root / "alice.pub").write_bytes(ALICE.public.encode())
    words = [sys.executable, str(gap.medium / layout.VERIFIER), str(gap.medium), "--pub", str(gap.root / "alice.pub")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "publisher: 1 of 1 needed: alice" in done.stdout


def test_a_blob_that_the_store_has_is_hashed_by_sha512_before_it_is_used(
    gap: Gap, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second preimage of SHA-256 in the store cannot be made here, so the other hash of it is pretended."""
    gap.export(by=[ALICE])
    weights = small_gguf(gap.root / "weights.gguf", seed=1, rows=640).read_bytes()
    put_model(gap.far, "there", weights)
    asked: list[Path] = []

    def another(path: Path) -> str:
        asked.append(path)
        return "0" * 128

    monkeypatch.setattr(importer, "_sha512", another)
    report = import_bundle(gap.medium, gap.far, trusting(ALICE), seen=gap.seen, dry_run=False)
    assert report.reused == len(weights) and not asked, "the default rests on SHA-256 there"
    report = import_bundle(gap.medium, gap.far, trusting(ALICE), policy=STRICT, seen=gap.seen)
    assert report.reused == 0 and asked
    monkeypatch.undo()
    monkeypatch.setenv("SEALIFT_HOME", str(gap.root / "home"))
    report = import_bundle(gap.medium, gap.far, trusting(ALICE), policy=STRICT, seen=gap.seen)
    assert report.reused == len(weights), "its real hash is right"


def test_what_a_delta_leaves_to_the_store_is_hashed_by_sha512_too(gap: Gap) -> None:
    gap.export(by=[ALICE])
    import_bundle(gap.medium, gap.far, trusting(ALICE), seen=gap.seen)
    since = delta_since.other_side(str(gap.medium), trusting(ALICE), [ALICE])
    name = put_model(gap.near, "second", small_gguf(gap.root / "weights.gguf", seed=2).read_bytes())
    out = gap.root / "delta"
    export(gap.near, [*gap.near.names(), name], out, [ALICE], seen=gap.exported, since=since)

    def lie(document: dict[str, Any]) -> None:
        held = next(one for one in document["predicate"]["blobs"] if not one["layout"] and "built" not in one)
        held["sha512"] = "0" * 128

    assert verify(out, trusting(ALICE), policy=STRICT, seen=gap.seen, store=gap.far).complete
    forge(out, lie, by=[ALICE])
    assert verify(out, trusting(ALICE), seen=gap.seen, store=gap.far).complete, "the default rests on SHA-256 there"
    with pytest.raises(BaseWanting, match="is damaged"):
        verify(out, trusting(ALICE), policy=STRICT, seen=gap.seen, store=gap.far)


def test_another_verifier_than_ours_is_not_checked(gap: Gap) -> None:
    program = b"print('verified')\n"
    gap.export(by=[ALICE])
    forge(gap.medium, lambda d: d["predicate"]["verifier"].update(sha256=Digest.of(program).hex), by=[ALICE])
    (gap.medium / layout.VERIFIER).write_bytes(program)
    for policy, told in ((STRICT, True), (Policy(), False)):
        found = verify(gap.medium, trusting(ALICE), policy=policy, seen=gap.seen)
        assert any("by SHA-256 alone" in item for item in found.not_checked) == told
