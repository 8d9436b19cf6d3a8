"""What goes in comes out: the same manifests and blobs, by every road the format promises."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sealift
from bundler import layout, oci
from bundler.draft import Options
from bundler.errors import BadRequest, ExportRefused, VolumeMixed
from bundler.inspect import inspect
from bundler.sizes import PRESETS, parse_size
from manifests.digest import Digest
from manifests.errors import NotFound
from manifests.manifest import Manifest
from manifests.name import ModelName
from manifests.store import Store
from signing.errors import NotTrusted
from tests.peers.bundles import (
    LEAF,
    VOLUME,
    Gap,
    noise,
    put_model,
    signer,
    small_gguf,
    tree,
    trusting,
    volumes,
)
from tests.peers.forgery import statement_of


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    return Gap(tmp_path)


def shown(store: Store) -> dict[str, tuple[int, str]]:
    """What a store shows: blobs and manifests, without our own folder."""
    return {name: value for name, value in tree(store.root).items() if not name.startswith(".sealift")}


def test_a_model_crosses_and_is_the_same(gap: Gap) -> None:
    gap.model()
    report = gap.export()
    assert len(report.statement.volumes) > 3, "the test wants segments in several volumes"
    assert all(path.stat().st_size <= VOLUME for path in volumes(gap.medium))
    assert gap.verify().complete
    before = tree(gap.medium)
    result = gap.bring_in()
    assert [item.action for item in result.models] == ["new"]
    assert shown(gap.far) == shown(gap.near)
    assert tree(gap.medium) == before, "an import must not change the medium"
    assert not list((gap.far.private / "staging").iterdir()), "staging is empty after an import"


def test_several_models_share_blobs_and_each_travels_once(gap: Gap) -> None:
    weights = small_gguf(gap.root / "w.gguf", rows=300).read_bytes()
    put_model(gap.near, "one", weights)
    put_model(gap.near, "me/two:v2", weights, layers=[("system", b"Be brief."), ("license", b"MIT License\n")])
    put_model(gap.near, "hub.example/a/three:x", small_gguf(gap.root / "v.gguf", seed=5).read_bytes())
    statement = gap.export("one", "me/two:v2", "hub.example/a/three:x").statement
    assert len({blob.digest for blob in statement.blobs}) == len(statement.blobs)
    assert sum(path.stat().st_size for path in volumes(gap.medium)) < 2 * len(weights) + 6 * (64 << 10)
    gap.bring_in()
    assert shown(gap.far) == shown(gap.near)


def test_the_record_says_who_what_and_what_not(gap: Gap) -> None:
    name = gap.model()
    statement = gap.export().statement
    gap.bring_in()
    (record,) = gap.far.records(gap.far.manifest(name).digest)
    assert record["kind"] == "import" and record["signers"] == ["alice"]
    assert record["bundle"]["id"] == statement.id and record["not_checked"]
    kept = gap.far.private / "statements" / f"{Digest.of(statement.encode()).hex}.dsse.json"
    assert (
        trusting(signer())
        .verify(kept.read_bytes(), payload_type="application/vnd.in-toto+json", channel="mine")
        .payload
        == statement.encode()
    )


def test_the_same_input_makes_the_same_volumes(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1763700000")
    gap.model()
    first = gap.export(options=Options(volume_size=VOLUME, leaf_size=LEAF, sequence=1)).statement
    again = gap.export(options=Options(volume_size=VOLUME, leaf_size=LEAF, sequence=1), out=gap.root / "b").statement
    assert first == again and first.created == "2025-11-21T04:40:00Z"
    later = gap.export(out=gap.root / "c").statement  # another number, so another statement, but the same payload
    assert later.id != first.id and later.volumes == first.volumes
    for a, b in zip(volumes(gap.medium), volumes(gap.root / "c"), strict=True):
        size = first.volumes[0].size
        assert a.read_bytes()[-size:] == b.read_bytes()[-size:]


def test_a_number_goes_to_one_bundle_and_never_back(gap: Gap) -> None:
    """Who has the newer one would refuse it, so it is not made; nor is anything written."""
    gap.model()
    gap.export(options=Options(leaf_size=LEAF, sequence=7))
    for number in (7, 5):
        with pytest.raises(ExportRefused, match=f"number {number} in channel mine") as caught:
            gap.export(options=Options(leaf_size=LEAF, sequence=number, label="other"), out=gap.root / "again")
        assert caught.value.hint and "8" in caught.value.hint
        assert not list((gap.root / "again").iterdir())
    assert gap.export(out=gap.root / "again").statement.sequence == 8


@pytest.mark.parametrize("volume_size", [None, 1 << 20, VOLUME, 80 << 10])
def test_every_volume_size_keeps_its_promise(gap: Gap, volume_size: int | None) -> None:
    gap.model(rows=200)
    put_model(gap.near, "many", gap.root.joinpath("weights.gguf").read_bytes(),
              layers=[("license", noise(LEAF - i, i).hex()[: LEAF - i].encode()) for i in range(9)])  # fmt: skip
    statement = gap.export("mine", "many", options=Options(volume_size=volume_size, leaf_size=LEAF)).statement
    if volume_size is not None:
        assert max(path.stat().st_size for path in volumes(gap.medium)) <= volume_size
    assert gap.verify().complete
    gap.bring_in()
    assert shown(gap.far) == shown(gap.near)
    assert layout.volume_names(statement) == [path.name for path in volumes(gap.medium)]


def test_plain_tar_and_cat_recover_everything(gap: Gap) -> None:
    """The sheet's own commands, run by a shell."""
    gap.model()
    statement = gap.export().statement
    sheet = (gap.medium / f"{layout.stem(statement)}.txt").read_text()
    block = sheet[sheet.index("RECOVER WITHOUT SEALIFT") :].splitlines()[1:4]
    done = subprocess.run(
        ["bash", "-euc", "\n".join(block)], cwd=gap.medium, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "tar must not warn"
    assert done.stdout.count(": OK") == len([b for b in statement.blobs])
    raw = (gap.medium / "layout" / "index.json").read_bytes()
    assert raw == dict(oci.layout_files(statement))["index.json"]


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed here")
def test_skopeo_takes_the_layout(gap: Gap) -> None:
    gap.model()
    gap.export()
    where = gap.root / "layout"
    where.mkdir()
    for path in volumes(gap.medium):
        subprocess.run(["tar", "-xf", str(path), "-C", str(where)], check=True)
    for folder in (where / "seg").iterdir():
        data = b"".join(part.read_bytes() for part in sorted(folder.iterdir()))
        (where / "blobs" / "sha256" / folder.name).write_bytes(data)
    source = f"oci:{where}:registry.ollama.ai/library/mine:latest"
    command = ["skopeo", "--insecure-policy", "copy", source, f"oci:{gap.root / 'copy'}:x"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    copied = {path.name for path in (gap.root / "copy" / "blobs" / "sha256").iterdir()}
    assert {blob.digest.hex for blob in gap.near.manifest(ModelName.parse("mine")).blobs()} <= copied


def test_the_oci_manifest_has_the_same_blobs(gap: Gap) -> None:
    name = gap.model()
    ollama = gap.near.manifest(name)
    other = Manifest.parse(oci.oci_manifest(ollama))
    assert other.config == ollama.config and other.layers == ollama.layers and other.digest != ollama.digest
    assert oci.oci_manifest(other) == other.raw


def test_leaves_are_cut_at_tensors(gap: Gap) -> None:
    """Two files that differ in their metadata only share every leaf of tensor data (DESIGN 5: cut at tensor
    borders)."""
    from manifests.gguf import Gguf
    from manifests.leaves import content_cuts, leaf_lengths

    path = small_gguf(gap.root / "w.gguf", tensors=3, rows=65)
    cuts = content_cuts(path)
    opened = Gguf.open(path)
    assert set(cuts) == {opened.data_offset, *(tensor.offset for tensor in opened.tensors.values())}
    lengths = leaf_lengths(opened.file_size, cuts, LEAF)
    ends, at = set(), 0
    for length in lengths:
        at += length
        ends.add(at)
    assert set(cuts) <= ends | {0} and at == opened.file_size and max(lengths) <= LEAF


def test_inspect_is_no_verdict_and_reads_no_payload(gap: Gap) -> None:
    gap.model()
    gap.export()
    volumes(gap.medium)[2].unlink()
    found = inspect(gap.medium)
    assert not found.trusted and found.verdict is None
    assert [volume.state for volume in found.volumes].count("missing") == 1
    assert inspect(gap.medium, trusting(signer())).trusted
    assert not inspect(gap.medium, trusting(signer("mallory"))).trusted
    json.dumps(found.as_dict())


def test_two_bundles_in_one_folder_need_to_be_told_apart(gap: Gap) -> None:
    gap.model()
    gap.model("other", seed=7)
    gap.export("mine")
    with pytest.raises(ExportRefused, match="another bundle"):
        gap.export("other")
    gap.export("other", out=gap.root / "b")
    for path in (gap.root / "b").iterdir():
        shutil.copy(path, gap.medium)
    with pytest.raises(VolumeMixed, match="2 bundles"):
        gap.verify()
    assert gap.verify(path=next(gap.medium.glob("other-*.v000.tar"))).complete


def test_export_refuses_what_it_cannot_stand_for(gap: Gap) -> None:
    name = gap.model()
    with pytest.raises(NotFound, match="nothere"):
        gap.export("nothere")
    with pytest.raises(BadRequest, match="volume"):
        gap.export(options=Options(volume_size=20_000, leaf_size=LEAF))
    put_model(gap.near, "stub", b"", config={"remote_host": "https://ollama.example"}, layers=[])
    with pytest.raises(ExportRefused, match=r"config\.remote"):
        gap.export("stub")
    put_model(gap.near, "nogguf", b"GGUF" + noise(20_000))
    with pytest.raises(ExportRefused):
        gap.export("nogguf")
    assert not volumes(gap.medium)
    weights = next(layer for layer in gap.near.manifest(name).layers if layer.kind == "model")
    path = gap.near.blob_path(weights.digest)
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    with pytest.raises(ExportRefused, match="damaged"):
        gap.export()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ExportRefused, match="bytes"):
        gap.export()
    assert not volumes(gap.medium)


def test_expired_bundles_and_numbers_in_a_channel(gap: Gap) -> None:
    from bundler.errors import PolicyRefused

    gap.model()
    gap.export(options=Options(leaf_size=LEAF, expires="2020-01-01T00:00:00Z"))
    with pytest.raises(PolicyRefused, match="expired"):
        gap.verify()
    second = gap.export(out=gap.root / "2").statement
    third = gap.export(out=gap.root / "3").statement
    assert (second.sequence, third.sequence) == (2, 3)
    assert third.predecessor == Digest.of(second.encode())


def test_trust_is_asked_before_anything_is_parsed(gap: Gap) -> None:
    gap.model()
    gap.export()
    with pytest.raises(NotTrusted) as caught:
        gap.bring_in(trust=trusting(signer("mallory")))
    assert caught.value.exit_code == 3 and not gap.far.root.exists(), "an untrusted bundle leaves no trace"


def test_sizes_as_people_write_them() -> None:
    assert [parse_size(text) for text in ("32M", "4GB", "1500000", "1KiB", "fat32", "NONE")] == [
        32 << 20, 4 * 10**9, 1_500_000, 1024, PRESETS["fat32"], None,
    ]  # fmt: skip
    for text in ("", "-1", "0", "1.5G", "4X", "fat16", "M"):
        with pytest.raises(BadRequest):
            parse_size(text)


def test_names_on_the_medium_suit_every_guard(gap: Gap) -> None:
    """airgap 4: characters [a-z0-9._-], at most 64, sorting in sending order."""
    put_model(
        gap.near,
        "Con:A.very-long.tag_With_Capitals-and-more-than-forty-characters",
        small_gguf(gap.root / "w").read_bytes(),
    )
    gap.export("con:A.very-long.tag_With_Capitals-and-more-than-forty-characters")
    names = [path.name for path in gap.medium.iterdir()]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,63}", name) for name in names), names
    assert [path.name for path in volumes(gap.medium)] == layout.volume_names(statement_of(gap.medium))


def test_nothing_in_this_room_unpacks_or_evaluates() -> None:
    """airgap 2.8: never call extractall; no pickle, no shell."""
    root = Path(layout.__file__).parent
    for path in root.glob("*.py"):
        text = path.read_text()
        for word in ("import tarfile", "import zipfile", "extractall", "import pickle", "shell=True", "eval(", "exec("):
            assert word not in text, f"{path.name}: {word}"
    assert sys.version_info >= (3, 10)


def test_the_model_named_first_gives_its_name(gap: Gap) -> None:
    gap.model("zeta")
    gap.model("alpha:v2", seed=2)
    assert gap.export("zeta", "alpha:v2").statement.label == "zeta"
    assert gap.export("alpha:v2", "zeta", out=gap.root / "other").statement.channel == "alpha-v2"


def test_no_file_is_named_like_a_device_of_windows(gap: Gap) -> None:
    """What Windows takes for a device is the name up to its first dot."""
    gap.model("nul.tar")
    made = gap.export("nul.tar").statement
    assert made.label == "nul-tar" and made.channel == "nul.tar"
    with pytest.raises(BadRequest, match="device"):
        gap.export("nul.tar", options=Options(leaf_size=LEAF, label="com1.x"), out=gap.root / "other")
    gap.model("con")
    assert gap.export("con", out=gap.root / "other").statement.label == "con", "its files are named con-<id>"


def test_a_bundle_that_nobody_could_import_is_not_made(gap: Gap, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bundle", "export", "mine", "-o", str(gap.medium), "--sign", "alice", "--expires", "2020-01-01"]
    assert sealift.run(words) == 2
    assert "that time has passed" in capsys.readouterr().err
    assert not list(gap.medium.iterdir())
