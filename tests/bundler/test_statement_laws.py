"""Statement and leaves: the laws on their types, and vectors of RFC 6962."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests import canonical
from manifests.digest import Digest
from manifests.errors import ManifestsError, StatementError
from manifests.leaves import LEAF_SIZE, LeafList, leaf_hash, leaf_lengths, root_hash
from manifests.manifest import DOCKER_MANIFEST, OCI_MANIFEST
from manifests.name import ModelName
from manifests.statement import LEAVES_TYPE, Blob, Evidence, Leaves, Model, Segment, Statement, Volume

# RFC 6962 test data as published with Certificate Transparency's reference code: leaves and the roots of their
# prefixes.
LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]  # fmt: skip
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_roots_of_rfc_6962() -> None:
    hashes = [leaf_hash(leaf) for leaf in LEAVES]
    assert [root_hash(hashes[: n + 1]).hex() for n in range(8)] == ROOTS
    assert root_hash([]) == hashlib.sha256(b"").digest()


def mth(hashes: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word: split at the largest power of two smaller than n."""
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while 2 * k < len(hashes):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(hashes[:k]) + mth(hashes[k:])).digest()


@given(st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_the_tree_is_the_recursive_one(n: int) -> None:
    hashes = [hashlib.sha256(bytes([i % 256, i // 256])).digest() for i in range(n)]
    assert root_hash(hashes) == mth(hashes)


@given(
    st.integers(1, 1 << 20), st.lists(st.integers(0, 1 << 20), max_size=20), st.sampled_from([4096, 1 << 15, LEAF_SIZE])
)
@settings(max_examples=100, deadline=None)
def test_leaves_cover_a_blob_and_end_at_its_cuts(size: int, cuts: list[int], leaf_size: int) -> None:
    lengths = leaf_lengths(size, cuts, leaf_size)
    assert sum(lengths) == size and min(lengths) > 0 and max(lengths) <= leaf_size
    ends = {sum(lengths[: i + 1]) for i in range(len(lengths))}
    assert {cut for cut in cuts if 0 < cut < size} <= ends


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=50), st.randoms())
@settings(max_examples=60, deadline=None)
def test_leaf_lists_are_read_as_written_or_refused(lengths: list[int], random: Any) -> None:
    hashes = tuple(random.randbytes(32) for _ in lengths)
    made = LeafList(lengths=tuple(lengths), hashes=hashes)
    size = sum(lengths)
    assert LeafList.decode(made.encode(), size=size, leaf_size=4096) == made
    for raw, wrong, leaf_size in (
        (made.encode(), size + 1, 4096), (made.encode()[:-1], size, 4096), (b"", size, 4096),
        (made.encode(), size, max(lengths) - 1), (made.encode() + bytes(36), size, 4096),
    ):  # fmt: skip
        with pytest.raises(StatementError):
            LeafList.decode(raw, size=wrong, leaf_size=leaf_size)


def digest(text: str) -> Digest:
    return Digest.of(text.encode())


def whole(text: str, media_type: str, size: int = 10) -> Blob:
    place = (Segment(volume=0, offset=0, size=size),)
    return Blob(digest=digest(text), sha512="ab" * 64, size=size, media_type=media_type, layout=place)


def example() -> Statement:
    tree = Leaves(size=4096, count=3, list=digest("list"), root=digest("root"))
    parts = (Segment(volume=1, offset=0, size=8192), Segment(volume=2, offset=8192, size=100))
    large = Blob(digest=digest("big"), sha512="cd" * 64, size=8292, media_type="a/b", leaves=tree, layout=parts)
    blobs = [whole("m", DOCKER_MANIFEST), whole("o", OCI_MANIFEST), whole("list", LEAVES_TYPE, 108), large]
    return Statement(
        id="", label="acme-llm", channel="acme/llm", sequence=42, predecessor=digest("41"),
        created="2026-11-21T03:00:00Z", expires="2027-11-21T03:00:00Z", tool="sealift 0.1",
        models=(Model(name=ModelName.parse("mine"), manifest=digest("m"), oci=digest("o"), source={"kind": "create"}),),
        blobs=tuple(sorted(blobs, key=lambda blob: blob.digest)),
        volumes=tuple(Volume(size=n, sha256=digest(str(n))) for n in range(3)),
        evidence=(Evidence(kind="scan", digest=digest("big")),), verifier=digest("verifier"),
    ).sealed()  # fmt: skip


def test_what_is_encoded_is_decoded_and_encoded_again() -> None:
    """`Statement.decode(raw).encode() == raw`."""
    raw = example().encode()
    assert Statement.decode(raw) == example() and Statement.decode(raw).encode() == raw
    assert canonical.encode(json.loads(raw)) == raw


def test_the_id_covers_everything() -> None:
    one = example()
    for other in (replace(one, sequence=43), replace(one, channel="x"), replace(one, volumes=one.volumes[:2])):
        assert other.sealed().id != one.id
        with pytest.raises(StatementError, match=r"bundle\.id"):
            Statement.decode(other.encode())


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [path, *(found for key in value for found in paths(value[key], (*path, key)))]
    if isinstance(value, list):
        return [path, *(found for i in range(len(value)) for found in paths(value[i], (*path, i)))]
    return [path]


def reseal(document: Any) -> bytes:
    """Fixes the id, so that only the change itself can be what is refused."""
    try:
        predicate = document["predicate"]
        predicate["bundle"]["id"] = ""
        predicate["bundle"]["id"] = hashlib.sha256(canonical.encode(predicate)).hexdigest()[:32]
    except (TypeError, KeyError, ManifestsError):
        pass
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "wrong", [None, True, 1.5, -1, "", "\x00", [], {}, [None], {"x": "y"}, 1 << 60, "é\ud800"[:1] * 9]
)
def test_every_value_has_a_type_and_every_wrong_one_is_named(wrong: Any) -> None:
    """Each field in turn becomes something else: refused as StatementError, or a statement that still means itself."""
    good = json.loads(example().encode())
    for path in paths(good)[1:]:
        document = json.loads(example().encode())
        place = document
        for key in path[:-1]:
            place = place[key]
        if place[path[-1]] == wrong or path == ("predicate", "bundle", "id"):
            continue
        place[path[-1]] = wrong
        raw = reseal(document)
        try:
            found = Statement.decode(raw)
        except StatementError as error:
            assert str(error).startswith("statement: ")
        else:
            assert found.encode() == raw
            assert path[-1] in ("sequence", "tool", "source", "kind", "evidence", "size"), path


def test_every_missing_and_every_extra_key_is_refused() -> None:
    optional = {"predecessor", "expires"}
    good = json.loads(example().encode())
    for path in paths(good)[1:]:
        document = json.loads(example().encode())
        place = document
        for key in path[:-1]:
            place = place[key]
        if isinstance(path[-1], str) and path[-1] != "id":
            del place[path[-1]]
            if path[-1] in optional or path[-2:-1] == ("source",):
                Statement.decode(reseal(document))
            else:
                with pytest.raises(StatementError):
                    Statement.decode(reseal(document))
    for path in paths(good):
        document = json.loads(example().encode())
        place = document
        for key in path:
            place = place[key]
        if isinstance(place, dict) and (not path or path[-1] != "source"):
            place["zzz"] = "1"
            with pytest.raises(StatementError):
                Statement.decode(reseal(document))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_mangled_bytes_are_refused(data: st.DataObject) -> None:
    raw = example().encode()
    at = data.draw(st.integers(0, len(raw) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != raw[at]))
    with pytest.raises(StatementError):
        Statement.decode(raw[:at] + bytes([byte]) + raw[at + 1 :])
    with pytest.raises(StatementError):
        Statement.decode(raw[:at])
    with pytest.raises(StatementError):
        Statement.decode(raw[at:] if at else b"")
