"""The attacks on such formats that are known from other tools, one test each: refused, and nothing of the store
changes.

The bundles here are signed by a trusted key: even a publisher cannot make a reader write outside staging, read past a
limit, or take a blob for another. Attacks without a key are in test_bundle_damage and in the tests of signing.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundler import tar
from bundler.draft import Options
from bundler.errors import BundleRefused, BundlerError, PolicyRefused, VolumeDamaged
from manifests import canonical
from manifests.errors import ManifestsError, StatementError
from manifests.statement import PAYLOAD_TYPE
from signing import envelope as dsse
from signing.errors import NotTrusted, SigningError
from signing.keys import generate
from tests.peers.bundles import LEAF, Gap, noise, put_model, signer, small_gguf, tree, trusting, volumes
from tests.peers.forgery import flip, forge, identify, member, split, write

REFUSALS = (BundlerError, SigningError, ManifestsError)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Gap:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("attacks")
        patch.setenv("SEALIFT_HOME", str(root / "home"))
        gap = Gap(root)
        gap.model(rows=160)
        gap.export(options=Options(volume_size=80 << 10, leaf_size=LEAF))
    return gap


@pytest.fixture
def gap(made: Gap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    fresh = Gap(tmp_path)
    shutil.copytree(made.medium, fresh.medium, dirs_exist_ok=True)
    for extra in ("*.txt", "*.py"):
        for path in fresh.medium.glob(extra):
            path.unlink()  # they would be refused first
    put_model(fresh.far, "older", small_gguf(tmp_path / "older.gguf").read_bytes())
    return fresh


def live(gap: Gap) -> dict[str, tuple[int, str]]:
    return {name: value for name, value in tree(gap.far.root).items() if not name.startswith(".sealift")}


def refused(gap: Gap, error: type[Exception] | tuple[type[Exception], ...] = REFUSALS, match: str = ".") -> None:
    """Both verbs refuse, for the same kind of reason, and nothing changed anywhere."""
    before, medium, around = live(gap), tree(gap.medium), set(gap.root.parent.iterdir())
    with pytest.raises(error, match=match):
        gap.verify()
    with pytest.raises(error, match=match):
        gap.bring_in()
    assert live(gap) == before and tree(gap.medium) == medium and set(gap.root.parent.iterdir()) == around


def test_a_forged_bundle_that_lies_about_nothing_is_accepted(gap: Gap) -> None:
    """The forger itself is sound, so the refusals below are about what was changed."""
    forge(gap.medium)
    assert gap.verify().complete and gap.bring_in().complete


# -- names, digests, the statement's own fields


def set_blob_digest(text: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["predicate"]["blobs"][0]["digest"] = text

    return change


@pytest.mark.parametrize(
    "text",
    ["sha256:../../../etc/passwd", "sha256:" + "A" * 64, "sha512:" + "0" * 128, "md5:" + "0" * 32, "sha256-" + "0" * 64,
     "sha256:" + "0" * 63, "sha256:" + "0" * 64 + "\n", "", "none:"],
)  # fmt: skip
def test_digests_are_parsed_or_refused(gap: Gap, text: str) -> None:
    """CVE-2024-3727 and CVE-2024-37032: a path from an unparsed digest. An unknown algorithm is never "ok"."""
    forge(gap.medium, set_blob_digest(text))
    refused(gap, StatementError, "blobs")


@pytest.mark.parametrize(
    "name", ["../../x:y", "registry.ollama.ai/library/..:latest", "a/b/c/d:e", "mine",
             "registry.ollama.ai/library/x:../y",
             "registry.ollama.ai/library/m\u00efne:latest", "registry.ollama.ai/library/a\\b:latest", "/etc/passwd:x"]
)  # fmt: skip
def test_model_names_are_parsed_or_refused(gap: Gap, name: str) -> None:
    def change(document: dict[str, Any]) -> None:
        document["predicate"]["models"][0]["name"] = document["subject"][0]["name"] = name

    forge(gap.medium, change)
    refused(gap, StatementError, "name")


def test_names_that_a_file_system_could_fold_are_refused(gap: Gap) -> None:
    """Case-fold collisions; NFC cannot arise, since names are ASCII."""

    def change(document: dict[str, Any]) -> None:
        models = document["predicate"]["models"]
        models.append(models[0] | {"name": models[0]["name"].replace("mine", "MINE")})
        document["subject"].append(document["subject"][0] | {"name": models[1]["name"]})

    forge(gap.medium, change)
    refused(gap, StatementError, "letter case")


@pytest.mark.parametrize("label", ["../up", "con/aux", "A", "x" * 40, "", "a b", "a\u0000"])
def test_labels_become_file_names_only_by_pattern(gap: Gap, label: str) -> None:
    def change(document: dict[str, Any]) -> None:
        document["predicate"]["bundle"]["label"] = label

    document, payloads = split(gap.medium)
    change(document)
    identify(document)
    stem = volumes(gap.medium)[0].name.split(".v000")[0]
    envelope = dsse.encode(dsse.sign(PAYLOAD_TYPE, canonical.encode(document), [signer()]))
    for index, path in enumerate(volumes(gap.medium)):
        line = f"sealift-bundle/1 {document['predicate']['bundle']['id']} v{index:03d}/{len(payloads):03d}\n".encode()
        path.write_bytes(member("SEALIFT", line) + member("statement.dsse.json", envelope) + payloads[index])
    assert stem
    refused(gap, StatementError, "label")


@pytest.mark.parametrize("size", [-1, 1 << 62, 1 << 45, True, "12"])
def test_sizes_are_bounded_whole_numbers(gap: Gap, size: Any) -> None:
    """Negative sizes and offsets: CVE-2025-8194."""
    if isinstance(size, int) and size > canonical.MAX_INTEGER:
        with pytest.raises(ManifestsError):
            forge(gap.medium, lambda d: d["predicate"]["blobs"][0].update(size=size))
        return
    forge(gap.medium, lambda document: document["predicate"]["blobs"][0].update(size=size))
    refused(gap, StatementError, "size")


def lie_blob_size(document: dict[str, Any]) -> None:
    for blob in document["predicate"]["blobs"]:
        if "leaves" in blob:
            blob["size"] += 1
            blob["layout"][-1]["size"] += 1


def lie_whole_size(document: dict[str, Any]) -> None:
    blob = next(blob for blob in document["predicate"]["blobs"] if "leaves" not in blob)
    blob["size"] -= 1
    blob["layout"][0]["size"] -= 1


def lie_volume_size(document: dict[str, Any]) -> None:
    document["predicate"]["volumes"][1]["size"] += 512


def lie_volume_hash(document: dict[str, Any]) -> None:
    document["predicate"]["volumes"][1]["sha256"] = "0" * 64


def lie_sha512(document: dict[str, Any]) -> None:
    for blob in document["predicate"]["blobs"]:
        blob["sha512"] = "0" * 128


def lie_large_sha512(document: dict[str, Any]) -> None:
    next(blob for blob in document["predicate"]["blobs"] if "leaves" in blob)["sha512"] = "0" * 128


def lie_root(document: dict[str, Any]) -> None:
    next(blob for blob in document["predicate"]["blobs"] if "leaves" in blob)["leaves"]["root"] = "0" * 64


def lie_leaf_size(document: dict[str, Any]) -> None:
    next(blob for blob in document["predicate"]["blobs"] if "leaves" in blob)["leaves"]["size"] //= 2


def lie_gap(document: dict[str, Any]) -> None:
    blob = next(blob for blob in document["predicate"]["blobs"] if "leaves" in blob)
    blob["layout"].pop(1)


def lie_overlap(document: dict[str, Any]) -> None:
    blob = next(blob for blob in document["predicate"]["blobs"] if "leaves" in blob)
    blob["layout"][1]["offset"] -= LEAF


def lie_volume_number(document: dict[str, Any]) -> None:
    document["predicate"]["blobs"][0]["layout"][0]["volume"] = 77


def lie_extra_field(document: dict[str, Any]) -> None:
    document["predicate"]["bundle"]["run_after_import"] = "true"


def lie_missing_field(document: dict[str, Any]) -> None:
    del document["predicate"]["bundle"]["sequence"]


def lie_blob_twice(document: dict[str, Any]) -> None:
    document["predicate"]["blobs"].insert(0, document["predicate"]["blobs"][0])


def lie_subject(document: dict[str, Any]) -> None:
    document["subject"][0]["digest"]["sha256"] = "0" * 64


def lie_no_models(document: dict[str, Any]) -> None:
    document["predicate"]["models"] = document["subject"] = []


def lie_type(document: dict[str, Any]) -> None:
    document["predicateType"] = "https://sealift.dev/bundle/v2"


def lie_terminal(document: dict[str, Any]) -> None:
    document["predicate"]["models"][0]["source"] = {"kind": "pull", "reference": "\x1b[2Jtrusted"}


def lie_sequence(document: dict[str, Any]) -> None:
    document["predicate"]["bundle"]["sequence"] = 0


LIES = [value for name, value in sorted(globals().items()) if name.startswith("lie_")]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_statement_that_lies(gap: Gap, lie: Callable[[dict[str, Any]], None]) -> None:
    forge(gap.medium, lie)
    if lie is lie_volume_hash:
        # read where it is asked for: headers, leaves and digests cover the same bytes, and the record says so
        with pytest.raises(BundleRefused, match="sha256"):
            gap.verify(sums=True)
        for found in (gap.verify(), gap.bring_in()):
            assert any("payload hashes" in text for text in found.not_checked)
        return
    refused(gap, (StatementError, BundleRefused))


def test_an_id_that_is_not_the_statements(gap: Gap) -> None:
    forge(gap.medium, lambda document: document["predicate"]["bundle"].update(id="0" * 32), id_follows=False)
    refused(gap, StatementError, "id")


def test_bytes_that_are_not_canonical(gap: Gap) -> None:
    """Signed, parseable, and yet not what we would write: white space, another key order, a duplicate key."""
    document, payloads = split(gap.medium)
    good = canonical.encode(document)
    shuffled = json.dumps(dict(reversed(document.items())), separators=(",", ":")).encode()
    doubled = good.replace(b'{"_type":', b'{"_type":"x","_type":', 1)
    for raw in (good + b"\n", good.replace(b":", b": ", 1), shuffled, doubled):
        write(gap.medium, raw, payloads, [signer()])
        refused(gap, StatementError)


# -- members of the archive


def nth_header(payload: bytes, prefix: str) -> int:
    return payload.index(prefix.encode())


def swap_header(kind: bytes, link: bytes = b"") -> Callable[[list[bytes]], list[bytes]]:
    """Replaces the first segment's header in volume 1 by one of another kind, with a right checksum."""

    def change(found: list[bytes]) -> list[bytes]:
        at = nth_header(found[1], "seg/")
        block = bytearray(found[1][at : at + 512])
        block[156:157] = kind
        block[157 : 157 + len(link)] = link
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return [found[0], found[1][:at] + bytes(block) + found[1][at + 512 :], *found[2:]]

    return change


@pytest.mark.parametrize(
    ("kind", "words"),
    [(b"1", "hard link"), (b"2", "symbolic link"), (b"3", "device"), (b"5", "folder"), (b"6", "pipe"), (b"S", "sparse"),
     (b"x", "pax"), (b"g", "pax"), (b"L", "GNU long name"), (b"K", "GNU long link"), (b"\0", "old-style")],
)  # fmt: skip
def test_only_regular_members(gap: Gap, kind: bytes, words: str) -> None:
    """Links in archives, sparse and pax size overrides, tarfile's filter bypasses: all need another kind of member."""
    forge(gap.medium, payloads=swap_header(kind, b"/etc/passwd"))
    refused(gap, VolumeDamaged, words)


@pytest.mark.parametrize(
    "name",
    ["../../../tmp/x", "/etc/passwd", "seg/../../x", "blobs/sha256/..", "C:\\x", "con", "SEG/x", "records/log.json"],
)
def test_member_names_are_the_expected_ones(gap: Gap, name: str) -> None:
    """Path traversal, Windows names, a log forged by the sender: a member has the name that follows, or is refused."""

    def change(found: list[bytes]) -> list[bytes]:
        at = nth_header(found[1], "seg/")
        size = int(found[1][at + 124 : at + 135], 8)
        return [found[0], found[1][:at] + tar.header(name, size) + found[1][at + 512 :], *found[2:]]

    forge(gap.medium, payloads=change)
    refused(gap, VolumeDamaged, "where 'seg/")


@pytest.mark.parametrize(
    "field", [b"\x80" + b"\0" * 7 + b"\x00\x00\x10\x00", b"\xff" * 12, b"-0000001000\0", b"77777777777\0"]
)
def test_sizes_in_headers_cannot_override(gap: Gap, field: bytes) -> None:
    """Base-256, negative and huge sizes."""

    def change(found: list[bytes]) -> list[bytes]:
        at = nth_header(found[1], "seg/")
        block = bytearray(found[1][at : at + 512])
        block[124:136] = field
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
        return [found[0], found[1][:at] + bytes(block) + found[1][at + 512 :], *found[2:]]

    forge(gap.medium, payloads=change)
    refused(gap, VolumeDamaged, "bytes")


def test_duplicate_members(gap: Gap) -> None:
    def change(found: list[bytes]) -> list[bytes]:
        end = len(found[1]) - len(tar.END)
        return [found[0], found[1][:end] + found[1][:end] + tar.END, *found[2:]]

    document, payloads = split(gap.medium)
    grown = change(payloads)
    document["predicate"]["volumes"][1]["size"] = len(grown[1])
    identify(document)
    write(gap.medium, canonical.encode(document), grown, [signer()])
    refused(gap, BundleRefused, "members make")


def test_an_extra_member_that_the_statement_does_not_know(gap: Gap) -> None:
    extra = member("autorun.sh", b"#!/bin/sh\n")

    def change(found: list[bytes]) -> list[bytes]:
        return [found[0], found[1][: -len(tar.END)] + extra + tar.END, *found[2:]]

    forge(gap.medium, payloads=change)
    refused(gap, VolumeDamaged, "after the end")


def test_a_blob_that_no_model_names(gap: Gap) -> None:
    """Contraband: signed, hashed, and not part of any model."""
    data = b"MZ" + noise(100)
    document, payloads = split(gap.medium)
    import hashlib

    blob: dict[str, Any] = {
        "digest": "sha256:" + hashlib.sha256(data).hexdigest(),
        "sha512": hashlib.sha512(data).hexdigest(),
        "size": len(data),
        "media_type": "application/octet-stream",
        "layout": [{"volume": 1, "offset": 0, "size": len(data)}],
    }
    document["predicate"]["blobs"] = sorted(
        [*document["predicate"]["blobs"], blob], key=lambda item: str(item["digest"])
    )
    payloads[1] = member("blobs/sha256/" + blob["digest"][7:], data) + payloads[1]
    document["predicate"]["volumes"][1]["size"] = len(payloads[1])
    document["predicate"]["volumes"][1]["sha256"] = hashlib.sha256(payloads[1]).hexdigest()
    identify(document)
    write(gap.medium, canonical.encode(document), payloads, [signer()])
    refused(gap, BundleRefused, "no model names")


def test_index_json_is_derived_and_never_trusted(gap: Gap) -> None:
    """A mutable tag: index.json pointing somewhere else."""

    def change(found: list[bytes]) -> list[bytes]:
        return [found[0].replace(b"library/mine:latest", b"library/evil:latest", 1), *found[1:]]

    forge(gap.medium, payloads=change)
    refused(gap, VolumeDamaged, "index.json")


def test_compressed_volumes_are_refused_unread(gap: Gap) -> None:
    """Decompression bombs: nothing is ever decompressed."""
    path = volumes(gap.medium)[0]
    path.write_bytes(gzip.compress(bytes(50 << 20)))
    refused(gap, BundleRefused)


def test_a_statement_larger_than_the_cap_is_not_read(gap: Gap) -> None:
    path = volumes(gap.medium)[0]
    line = path.read_bytes()[512:1024].rstrip(b"\0")
    path.write_bytes(member("SEALIFT", line) + tar.header("statement.dsse.json", 8 << 30 >> 1) + b"x" * 100)
    refused(gap, VolumeDamaged, "at most")
    path.write_bytes(tar.header("SEALIFT", 1 << 30) + b"x" * 100)
    refused(gap, VolumeDamaged, "SEALIFT")


# -- signatures


def test_unsigned_is_not_a_warning(gap: Gap) -> None:
    document, payloads = split(gap.medium)
    raw = canonical.encode(document)
    empty = b'{"payload":"%s","payloadType":"%s","signatures":[]}' % (base64.b64encode(raw), PAYLOAD_TYPE.encode())
    for index, path in enumerate(volumes(gap.medium)):
        head = path.read_bytes()[:1024]
        path.write_bytes(head + member("statement.dsse.json", empty) + payloads[index])
    refused(gap, SigningError)


@pytest.mark.parametrize("scheme", ["ed25519", "ml-dsa-65"])
def test_half_of_a_hybrid_signature_does_not_count(gap: Gap, scheme: str) -> None:
    """Algorithm downgrade: one of the two schemes is left out."""
    document, payloads = split(gap.medium)
    signed = dsse.sign(PAYLOAD_TYPE, canonical.encode(document), [signer()])
    keep = next(key.id for key in signer().public.keys if key.scheme == scheme)
    half = dsse.Envelope(
        payload_type=signed.payload_type,
        payload=signed.payload,
        signatures=tuple(signature for signature in signed.signatures if signature.keyid == keep),
    )
    for index, path in enumerate(volumes(gap.medium)):
        head = path.read_bytes()[:1024]
        path.write_bytes(head + member("statement.dsse.json", dsse.encode(half)) + payloads[index])
    refused(gap, NotTrusted)


def test_unknown_revoked_and_too_few_signers(gap: Gap) -> None:
    from datetime import date

    forge(gap.medium, by=[generate("mallory")])
    refused(gap, NotTrusted)
    forge(gap.medium)
    revoked = trusting(signer()).revoke("alice", "lost", date(2026, 11, 1))
    two = trusting(signer(), signer("bob")).with_threshold("publisher", 2)
    approved = trusting(signer()).add(signer("bob").public, ["approver"])
    elsewhere = type(revoked).empty().add(signer().public, ["publisher"], ["acme/*"])
    for trust in (revoked, two, approved, elsewhere):
        with pytest.raises(NotTrusted) as caught:
            gap.bring_in(trust=trust)
        assert caught.value.exit_code == 3
    forge(gap.medium, by=[signer(), signer("bob")])
    assert gap.verify(trust=two).complete and gap.verify(trust=approved).complete


def test_key_ids_are_hints_only(gap: Gap) -> None:
    """Key id confusion: the signatures change places under each other's ids."""
    document, payloads = split(gap.medium)
    signed = dsse.sign(PAYLOAD_TYPE, canonical.encode(document), [signer(), signer("bob")])
    first, second, *rest = signed.signatures
    mixed = (
        dsse.Signature(keyid=first.keyid, sig=second.sig), dsse.Signature(keyid=second.keyid, sig=first.sig), *rest
    )  # fmt: skip
    envelope = dsse.encode(dsse.Envelope(payload_type=PAYLOAD_TYPE, payload=signed.payload, signatures=mixed))
    for index, path in enumerate(volumes(gap.medium)):
        head = path.read_bytes()[:1024]
        path.write_bytes(head + member("statement.dsse.json", envelope) + payloads[index])
    with pytest.raises(NotTrusted):
        gap.bring_in(trust=trusting(signer(), signer("bob")))


# -- time


def test_an_older_bundle_of_a_channel_is_refused(gap: Gap) -> None:
    """Stale but valid: the newest number seen is remembered, without a clock."""
    gap.bring_in()
    newer = gap.root / "newer"
    shutil.copytree(gap.medium, newer)
    forge(newer, lambda document: document["predicate"]["bundle"].update(sequence=5))
    result = gap.bring_in(path=newer)
    assert any("2 to 4" in note for note in result.notes), "a gap is reported"
    with pytest.raises(PolicyRefused, match="older"):
        gap.bring_in()
    with pytest.raises(PolicyRefused, match="older"):
        gap.verify()
    assert gap.bring_in(path=newer).models[0].action == "same", "the same bundle again is welcome"


def test_two_bundles_with_one_number_are_a_fork(gap: Gap) -> None:
    gap.bring_in()
    forge(gap.medium, lambda document: document["predicate"]["bundle"].update(created="2026-01-01T00:00:00Z"))
    with pytest.raises(PolicyRefused, match="already seen"):
        gap.bring_in()


def test_a_damaged_memory_is_not_an_empty_one(gap: Gap) -> None:
    gap.bring_in()
    gap.seen.path.write_bytes(gap.seen.path.read_bytes()[:-2])
    with pytest.raises(PolicyRefused, match=r"channels\.json"):
        gap.bring_in()


# -- the medium changes while it is read


def test_what_is_hashed_is_what_is_copied(gap: Gap) -> None:
    """The medium is swapped after verification: the import reads once, and hashes the bytes that it writes."""
    assert gap.verify().complete
    path = volumes(gap.medium)[2]
    flip(path, path.stat().st_size - 2000)
    with pytest.raises(BundleRefused):
        gap.bring_in()
    assert "mine" not in str(gap.far.names())


def test_a_medium_that_changes_during_an_import(gap: Gap) -> None:
    from bundler.importer import import_bundle

    path, done = volumes(gap.medium)[2], False

    def progress(count: int) -> None:
        nonlocal done
        if not done:
            flip(path, path.stat().st_size - 2000)
            done = True

    before = live(gap)
    with pytest.raises(VolumeDamaged, match=path.name):
        import_bundle(gap.medium, gap.far, trusting(signer()), seen=gap.seen, progress=progress)
    assert live(gap) == before


def test_a_blob_of_the_store_is_not_trusted_by_name_and_size(gap: Gap) -> None:
    """CVE-like: the store holds a file of the right name and size with other bytes."""
    blob = next(blob for blob in (split(gap.medium)[0]["predicate"]["blobs"]) if "leaves" in blob)
    path = gap.far.blobs / f"sha256-{blob['digest'][7:]}"
    path.write_bytes(bytes(blob["size"]))
    result = gap.bring_in()
    assert result.reused == 0
    for item in result.models:
        for descriptor in gap.far.manifest(item.name).blobs():
            gap.far.verify_blob(descriptor.digest, descriptor.size)


@pytest.mark.parametrize("called", ["application/vnd.sealift.leaves.v1", "application/vnd.ollama.image.adapter"])
def test_a_blob_that_is_called_something_else(gap: Gap, called: str) -> None:
    """Found by `scripts/attack mutate`: what was called a leaf list was not staged, though its model needs it."""

    def change(document: dict[str, Any]) -> None:
        blob = next(b for b in document["predicate"]["blobs"] if b["media_type"].endswith("license"))
        blob["media_type"] = called

    forge(gap.medium, change)
    refused(gap, BundleRefused, "its manifest says")
