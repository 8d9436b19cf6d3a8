"""Deltas: only what changed travels, what is supposed to be there is demanded, what is built is right or refused."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundler import delta_since, layout, seal
from bundler.approve import approve, examine
from bundler.delta import OtherSide
from bundler.draft import Options
from bundler.errors import BaseWanting, BundleRefused
from bundler.export import ExportReport, export
from bundler.importer import import_bundle
from bundler.inspect import inspect
from bundler.journal import exported
from bundler.patch import Ranges, literals, match, with_head
from bundler.repair import repair
from bundler.seal import Sealing
from bundler.verify import verify
from manifests.digest import Digest
from manifests.errors import StatementError
from manifests.leaves import LEAF_SIZE, LeafList, leaf_hash, leaf_lengths
from manifests.statement import Piece, Since
from signing.errors import NotTrusted
from tests.peers.bundles import Gap, put_model, signer, tree, trusting, volumes
from tests.peers.forgery import flip, forge

ROOT = Path(__file__).parents[2]
BIG = Options(volume_size=4 << 20, leaf_size=1 << 20)


def make(path: Path, template: str = "{{ old }}", changed: int = -1, n: int = 6, renamed: bool = False) -> bytes:
    """A GGUF of `n` tensors of 1.5 MB and a vocabulary; tensor `changed` has other values."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", n)
    writer.add_string("tokenizer.chat_template", template)
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(20_000)])
    for i in range(n):
        numbers = np.random.default_rng(1000 + i if i == changed else i)
        name = f"{'other' if renamed else 'blk'}.{i}.weight"
        writer.add_tensor(name, numbers.standard_normal((1500, 256), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("weights") / "made.gguf"
    return {
        "old": make(path),
        "template": make(path, template="{{ new }} " * 40),
        "tensor": make(path, changed=2),
        "renamed": make(path, renamed=True),
    }


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict[str, bytes]) -> Gap:
    """The first bundle has arrived."""
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap = Gap(tmp_path)
    put_model(gap.near, "mine", weights["old"])
    gap.export("mine", options=BIG)
    gap.bring_in()
    return gap


def next_one(
    gap: Gap, weights: bytes, since: str | OtherSide | None = None, options: Options = BIG
) -> tuple[Path, ExportReport]:
    """The model under the same name with other weights, as a delta since the first bundle."""
    name = put_model(gap.near, "mine", weights)
    out = gap.root / "delta"
    other = since or str(gap.medium)
    if isinstance(other, str):
        other = delta_since.other_side(other, trusting(signer()), [signer()])
    return out, export(gap.near, [name], out, [signer()], options, seen=gap.exported, since=other)


def weights_of(gap: Gap) -> bytes:
    manifest = gap.far.manifest(gap.far.names()[0])
    return gap.far.blob_path(next(iter(manifest.of_kind("model"))).digest).read_bytes()


@pytest.mark.parametrize(
    "change, most", [("template", 1500), ("tensor", 1_700_000), ("renamed", 1500)], ids=lambda value: str(value)
)
def test_a_patch_is_as_large_as_the_change(gap: Gap, weights: dict[str, bytes], change: str, most: int) -> None:
    """ "98 % saved on the usual re-upload, a 10 kB patch in the best case"; names do not matter."""
    out, report = next_one(gap, weights[change])
    (built,) = report.statement.built
    assert built.built and built.size == len(weights[change])
    assert sum(piece.size for piece in built.built.pieces if piece.base is None) <= most
    assert report.bytes < most + 120_000  # statements, manifests and signatures
    found = gap.bring_in(path=out)
    assert found.models[0].action == "replaced"
    assert weights_of(gap) == weights[change]
    assert not list((gap.far.private / "staging").glob("*/sha256-*"))


def test_what_did_not_change_does_not_travel(gap: Gap, weights: dict[str, bytes]) -> None:
    """Whole blobs: the same weights under another template layer."""
    name = put_model(gap.near, "mine", weights["old"], layers=(("template", b"{{ .Prompt }} again"),))
    other = delta_since.other_side(str(gap.medium), trusting(signer()), [signer()])
    out = gap.root / "delta"
    report = export(gap.near, [name], out, [signer()], BIG, seen=gap.exported, since=other)
    assert {blob.size for blob in report.statement.held} >= {len(weights["old"])} and not report.statement.built
    assert report.bytes < 120_000
    gap.bring_in(path=out)
    assert weights_of(gap) == weights["old"]


def test_the_bundle_can_be_named_by_id_folder_or_volume(gap: Gap) -> None:
    first = inspect(gap.medium).statement.id
    for text in (first, first[:8], str(gap.medium), str(volumes(gap.medium)[0])):
        found = delta_since.other_side(text, trusting(signer()), [signer()])
        assert found.since == Since(kind="bundle", id=first)
        assert any(known.size > LEAF_SIZE for known in found.blobs.values())


def test_verify_says_what_it_cannot_check(gap: Gap, weights: dict[str, bytes]) -> None:
    out, report = next_one(gap, weights["template"])
    found = verify(out, trusting(signer()), seen=gap.seen)
    assert found.complete
    assert f"{len(report.statement.held)} blobs that the other side has" in found.not_checked
    assert "1 blobs that it builds from them and the patches that travel" in found.not_checked
    sheet = (out / (layout.stem(report.statement) + ".txt")).read_text()
    assert "ONLY WHAT CHANGED since bundle" in sheet and report.statement.held[0].digest.hex in sheet
    public = gap.root / "alice.pub"
    public.write_text(signer().public.encode().decode())
    done = subprocess.run(
        [sys.executable, layout.__file__.replace("layout.py", "verify_sealift.py"), str(out), "--pub", str(public)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert f"not checked: {len(report.statement.held)} blobs that the other side has" in done.stdout


def test_verify_with_the_store_checks_all(gap: Gap, weights: dict[str, bytes]) -> None:
    out, report = next_one(gap, weights["tensor"])
    before = tree(gap.far.root)
    found = verify(out, trusting(signer()), seen=gap.seen, store=gap.far)
    assert not [text for text in found.not_checked if "other side" in text or "builds" in text]
    assert tree(gap.far.root) == before
    forge(out, lie(lambda predicate, built: built["pieces"][-1].update(base=built["pieces"][-1]["base"] - 32)))
    with pytest.raises(BundleRefused, match="does not make it"):
        verify(out, trusting(signer()), seen=gap.seen, store=gap.far)
    base = report.statement.built[0].built
    assert base
    gap.far.blob_path(base.base).unlink()
    with pytest.raises(BaseWanting):
        verify(out, trusting(signer()), seen=gap.seen, store=gap.far)


def test_a_base_that_is_missing_is_named(gap: Gap, weights: dict[str, bytes]) -> None:
    out, report = next_one(gap, weights["template"])
    base = report.statement.built[0].built
    assert base
    gap.far.blob_path(base.base).unlink()
    before = tree(gap.far.root)
    for dry_run in (True, False):
        with pytest.raises(BaseWanting, match=f"{base.base} is missing") as refused:
            gap_import(gap, out, dry_run=dry_run)
        assert base.base in refused.value.wanting
        assert inspect(gap.medium).statement.id in str(refused.value)
        assert "full export" in (refused.value.hint or "")
    after = {name: entry for name, entry in tree(gap.far.root).items() if "staging" not in name}
    assert after == before


def gap_import(gap: Gap, out: Path, *, dry_run: bool) -> None:
    from bundler.importer import import_bundle

    import_bundle(out, gap.far, trusting(signer()), seen=gap.seen, dry_run=dry_run)


def test_a_base_that_is_damaged_is_named(gap: Gap, weights: dict[str, bytes]) -> None:
    out, report = next_one(gap, weights["template"])
    base = report.statement.built[0].built
    assert base
    flip(gap.far.blob_path(base.base), 5_000_000)
    with pytest.raises(BaseWanting, match=f"{base.base} is damaged"):
        gap.bring_in(path=out)


def test_a_bundle_that_is_here_needs_no_base(gap: Gap, weights: dict[str, bytes]) -> None:
    out, report = next_one(gap, weights["template"])
    gap.bring_in(path=out)
    built = report.statement.built[0].built
    assert built
    gap.far.blob_path(built.base).unlink()
    assert gap.bring_in(path=out).models[0].action == "same"


def test_a_delta_upon_a_delta(gap: Gap, weights: dict[str, bytes]) -> None:
    """Its base is the blob that was built, as a whole; nothing is built upon a base that may have gone."""
    out, first = next_one(gap, weights["template"])
    gap.bring_in(path=out)
    name = put_model(gap.near, "mine", weights["tensor"])
    other = delta_since.other_side(str(out), trusting(signer()), [signer()])
    report = export(gap.near, [name], gap.root / "third", [signer()], BIG, seen=gap.exported, since=other)
    built = report.statement.built[0].built
    assert built and built.base == first.statement.built[0].digest
    gap.bring_in(path=gap.root / "third")
    assert weights_of(gap) == weights["tensor"]


def test_parity_repairs_a_delta(gap: Gap, weights: dict[str, bytes]) -> None:
    options = Options(volume_size=1 << 20, leaf_size=1 << 18, parity="1")
    out, report = next_one(gap, weights["tensor"], options=options)
    assert len(report.statement.volumes) > 2  # the patch has segments
    volumes(out)[1].unlink()
    repair(out, out)
    gap.bring_in(path=out)
    assert weights_of(gap) == weights["tensor"]


def test_what_was_kept_writes_a_patch_again(gap: Gap, weights: dict[str, bytes]) -> None:
    _, report = next_one(gap, weights["tensor"])
    again = exported(gap.near, report.statement.id)
    assert again is not None
    built = report.statement.built[0].built
    assert built
    with again[0].open(built.patch) as stream:
        assert Digest.of(stream.read()) == built.patch


# -- hostile statements, signed by somebody who is trusted


def lie(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def apply(document: dict[str, Any]) -> None:
        blobs = document["predicate"]["blobs"]
        change(document["predicate"], next(blob for blob in blobs if "built" in blob)["built"])

    return apply


def _piece(**fields: int) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(predicate: dict[str, Any], built: dict[str, Any]) -> None:
        built["pieces"][0] = fields

    return change


def _chain(predicate: dict[str, Any], built: dict[str, Any]) -> None:
    built["base"] = next(blob["digest"] for blob in predicate["blobs"] if "built" in blob)


def _travelling_base(predicate: dict[str, Any], built: dict[str, Any]) -> None:
    built["base"] = predicate["models"][0]["manifest"]


def _other_patch(predicate: dict[str, Any], built: dict[str, Any]) -> None:
    built["patch"] = predicate["models"][0]["manifest"]


def _no_such_base(predicate: dict[str, Any], built: dict[str, Any]) -> None:
    built["base"] = f"sha256:{'a' * 64}"


def _many(predicate: dict[str, Any], built: dict[str, Any]) -> None:
    built["pieces"] = [{"size": 1, "base": 0}] * 8193


def _not_a_delta(predicate: dict[str, Any], built: dict[str, Any]) -> None:
    del predicate["bundle"]["since"]


@pytest.mark.parametrize(
    "change",
    [
        _piece(size=1 << 40, base=0),
        _piece(size=1, base=(1 << 53) - 1),
        _piece(size=0, base=0),
        _piece(size=(1 << 53) - 1),
        _piece(size=17, base=0),
        _chain,
        _travelling_base,
        _other_patch,
        _no_such_base,
        _many,
        _not_a_delta,
    ],
)
def test_hostile_statements_are_refused_before_anything_is_read(
    gap: Gap, weights: dict[str, bytes], change: Callable[[dict[str, Any], dict[str, Any]], None]
) -> None:
    out, _ = next_one(gap, weights["template"])
    forge(out, lie(change))
    before = tree(gap.far.root)
    with pytest.raises(StatementError):
        gap.bring_in(path=out)
    assert tree(gap.far.root) == before


def test_pieces_that_make_something_else_are_refused(gap: Gap, weights: dict[str, bytes]) -> None:
    """The sizes are right and the place is not: the whole digest says so, before anything is visible."""
    out, _ = next_one(gap, weights["tensor"])

    def change(predicate: dict[str, Any], built: dict[str, Any]) -> None:
        built["pieces"][-1]["base"] -= 32

    forge(out, lie(change))
    (out / "x.txt").unlink(missing_ok=True)
    with pytest.raises(BundleRefused, match="does not make it"):
        gap.bring_in(path=out)
    assert weights_of(gap) == weights["old"]


KILLED = """
import sys
from pathlib import Path
from bundler.channels import Channels
from bundler.importer import import_bundle
from manifests.store import Store
from signing.trust import TrustStore
medium, models, trust, seen = map(Path, sys.argv[1:])
import_bundle(medium, Store(models), TrustStore.load(trust), seen=Channels(seen))
"""


def test_killed_anywhere_it_goes_on(gap: Gap, weights: dict[str, bytes]) -> None:
    """Until the end the old model is what the store shows."""
    out, _ = next_one(gap, weights["tensor"])
    trust = gap.root / "trust.toml"
    trusting(signer()).save(trust)
    words = [sys.executable, "-c", KILLED, str(out), str(gap.far.root), str(trust), str(gap.seen.path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for delay in (0.3, 0.6, 0.8, 1.0):
        child = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert weights_of(gap) in (weights["old"], weights["tensor"])
    gap.bring_in(path=out)
    assert weights_of(gap) == weights["tensor"]


# -- pieces


def leaves_of(data: bytes, cuts: list[int]) -> LeafList:
    lengths = leaf_lengths(len(data), cuts, 4096)
    hashes, at = [], 0
    for length in lengths:
        hashes.append(leaf_hash(data[at : at + length]))
        at += length
    return LeafList(lengths=tuple(lengths), hashes=tuple(hashes))


def apply(pieces: list[Piece], base: bytes, patch: BinaryIO) -> bytes:
    return b"".join(
        patch.read(piece.size) if piece.base is None else base[piece.base : piece.base + piece.size] for piece in pieces
    )


parts = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9000)), min_size=1, max_size=12)
heads = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 700)), min_size=1, max_size=8)


def drawn(spec: list[tuple[int, int]], salt: int) -> list[bytes]:
    return [np.random.default_rng((salt, seed)).bytes(size) for seed, size in spec]


@given(heads, heads, parts, parts)
@settings(max_examples=200, deadline=None)
def test_any_edit_rebuilds_to_the_same_bytes(
    old_head: list[tuple[int, int]],
    new_head: list[tuple[int, int]],
    old_parts: list[tuple[int, int]],
    new_parts: list[tuple[int, int]],
) -> None:
    files, cuts = [], []
    for head, tensors in ((old_head, old_parts), (new_head, new_parts)):
        pieces = [b"".join(drawn(head, 1)), *drawn(tensors, 2)]
        ends = np.cumsum([len(piece) for piece in pieces]).tolist()
        files.append(b"".join(pieces))
        cuts.append(ends[:-1])
    old, new = files
    found = match(leaves_of(new, cuts[1]), leaves_of(old, cuts[0]))
    for said in (found, with_head(found, new[: cuts[1][0]], old[: cuts[0][0]])):
        assert sum(piece.size for piece in said) == len(new)
        patch: BinaryIO = io.BufferedReader(Ranges(io.BytesIO(new), literals(said)))
        assert apply(said, old, patch) == new


# -- the real model


MODEL = os.environ.get("SEALIFT_TEST_MODEL", "")
needs_model = pytest.mark.skipif(not MODEL, reason="SEALIFT_TEST_MODEL names no real model (scripts/model fetches one)")


def rewritten(path: Path, template: str | None = None, requantized: int = -1) -> bytes:
    """The real model, written again with another chat template, or with one tensor in Q8_0."""
    reader, writer = gguf.GGUFReader(MODEL), gguf.GGUFWriter(path, "llama")
    for item in reader.fields.values():
        if item.name.startswith("GGUF.") or item.name == "general.architecture":
            continue
        kind, inner = item.types[0], item.types[-1]
        value = item.contents() if template is None or item.name != "tokenizer.chat_template" else template
        writer.add_key_value(item.name, value, kind, sub_type=inner if kind == gguf.GGUFValueType.ARRAY else None)
    for i, tensor in enumerate(reader.tensors):
        if i == requantized:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            data = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(tensor.name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


@needs_model
@pytest.mark.parametrize("change", ["template", "tensor"])
def test_a_re_upload_of_the_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap, options = Gap(tmp_path), Options(volume_size=64 << 20)
    put_model(gap.near, "mine", Path(MODEL).read_bytes())
    gap.export("mine", options=options)
    gap.bring_in()
    tensors = gguf.GGUFReader(MODEL).tensors
    place = next(i for i, tensor in enumerate(tensors) if tensor.name == "blk.3.ffn_down.weight")
    new = tmp_path / "new.gguf"
    weights = rewritten(new, template="{{ messages }}") if change == "template" else rewritten(new, requantized=place)
    out, report = next_one(gap, weights, options=options)
    most = 10_000 if change == "template" else 2 * int(tensors[place].n_bytes) + 30_000  # Q8_0, and the tensor table
    built = report.statement.built[0].built
    assert built and sum(piece.size for piece in built.pieces if piece.base is None) < most
    assert report.bytes < len(weights) * (0.001 if change == "template" else 0.02)
    gap.bring_in(path=out)
    assert weights_of(gap) == weights


@pytest.mark.parametrize("sealed", [False, True], ids=["clear", "encrypted"])
def test_a_delta_is_approved_like_any_bundle(gap: Gap, weights: dict[str, bytes], sealed: bool) -> None:
    """Encrypted too: then the approval lies elsewhere."""
    officer = signer("olga")
    trust = trusting(signer()).add(officer.public, ["approver"]).with_threshold("approver", 1)
    keys, options = None, BIG
    if sealed:
        pytest.importorskip("pyrage", reason="needs the extra `encrypt`")
        recipient = seal.generate(gap.root / "identity")
        keys = seal.load_keys(gap.root / "identity")
        options = replace(BIG, sealing=Sealing(recipients=(recipient,)))
    out, report = next_one(gap, weights["template"], options=options)
    with pytest.raises(NotTrusted, match="approver"):
        import_bundle(out, gap.far, trust, seen=gap.seen, keys=keys)
    candidate = examine(out, trust, seen=gap.seen, keys=keys)
    assert any("builds" in line for line in candidate.found.not_checked)
    file = approve(candidate, [officer], gap.root / "olga.dsse.json" if sealed else None).file
    extra = [file] if sealed and file else []
    assert verify(out, trust, seen=gap.seen, store=gap.far, extra=extra, keys=keys).complete
    assert import_bundle(out, gap.far, trust, seen=gap.seen, extra=extra, keys=keys).complete
    assert weights_of(gap) == weights["template"] and report.statement.built
