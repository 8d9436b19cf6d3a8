"""The GGUF reader: what it reads, what it refuses and with which words, and that nothing else ever comes out of it."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gguf as peer
import numpy as np
import pytest

from manifests import gguf_limits
from manifests.errors import GgufError
from manifests.gguf import Gguf
from manifests.gguf_types import TensorType
from manifests.gguf_values import PassStrings
from native.tokenizer import pass_strings

VOCABULARIES = Path(__file__).parents[3] / "shared" / "data" / "vocab"


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(name: str | bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARCHITECTURE = entry("general.architecture", 8, text("llama"))
VECTOR = tensor("a", (8,))


def build(
    *entries: bytes,
    tensors: tuple[bytes, ...] = (),
    data: bytes = b"",
    version: int = 3,
    magic: bytes = b"GGUF",
    n_tensors: int | None = None,
    n_keys: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A file from raw parts; counts are right unless given."""
    counts = (len(tensors) if n_tensors is None else n_tensors, len(entries) if n_keys is None else n_keys)
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % alignment) + data if tensors else head + data


def two(second: bytes, data: bytes = bytes(64)) -> bytes:
    return build(ARCHITECTURE, tensors=(VECTOR, second), data=data)


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "magic: needs 4 bytes"),
    "magic": (build(magic=b"GGML"), "magic: found b'GGML', expected b'GGUF'"),
    "version 1": (build(version=1), "version: found 1, expected 2 or 3"),
    "version 4": (build(version=4), "version: found 4"),
    "big endian": (build(version=0x03000000), "version: the file is big endian"),
    "tensor count 2^63": (build(n_tensors=2**63), "tensor count: found 9223372036854775808, at most"),
    "tensor count beyond file": (build(n_tensors=1000), "tensor count: found 1000, the 8 bytes left cannot hold"),
    "key count 2^63": (build(n_keys=2**63), "key count: found 9223372036854775808, at most"),
    "key count beyond file": (build(n_keys=5), "key count: found 5, the 0 bytes left cannot hold"),
    "key length": (build(struct.pack("<Q", 2**40) + bytes(32)), "key 0: found a length of 1099511627776 bytes"),
    "key characters": (build(entry("general name", 4, bytes(4))), "key 0: found 'general name', expected letters"),
    "key empty": (build(entry("", 4, bytes(8))), "key 0: found ''"),
    "key not utf-8": (build(entry(b"a\xff", 4, bytes(4))), "key 0: bytes at offset 33 are not UTF-8"),
    "key twice": (build(ARCHITECTURE, ARCHITECTURE), "key 1: general.architecture appears twice"),
    "value type": (build(entry("a", 13, bytes(8))), "a: found value type 13, expected 0 to 12"),
    "value cut": (build(entry("abc", 10, bytes(4))), "abc: needs 8 bytes at offset 39, the file has 4 left"),
    "boolean": (build(entry("abc", 7, b"\2")), "abc: found 2 for a boolean"),
    "string length": (build(entry("a", 8, struct.pack("<Q", 2**62))), "a: found a length of 4611686018427387904 bytes"),
    "string beyond file": (build(entry("a", 8, struct.pack("<Q", 99))), "a: needs 99 bytes at offset 45"),
    "string not utf-8": (build(entry("a", 8, text(b"ok\xc3"))), "a: bytes at offset 47 are not UTF-8"),
    "array of arrays": (build(entry("a", 9, array(9, 1, bytes(12)))), "a: an array of arrays is not allowed"),
    "array type": (build(entry("a", 9, array(77, 1, bytes(12)))), r"a\[\]: found value type 77"),
    "array length 2^63": (build(entry("a", 9, array(4, 2**63))), "a: array length: found 9223372036854775808"),
    "array beyond file": (build(entry("a", 9, array(4, 3, bytes(8)))), "a: array length: found 3, the 8 bytes left"),
    "array boolean": (build(entry("a", 9, array(7, 2, b"\1\3"))), "a: found a boolean other than 0 and 1"),
    "array string cut": (
        build(entry("a", 9, array(8, 2, text("x") + struct.pack("<Q", 50)))),
        r"a\[1\]: the string at offset 66 goes beyond",
    ),
    "array string ends in a length": (
        build(entry("a", 9, array(8, 2, text("123456789")))),
        r"a\[1\]: the string at offset",
    ),
    "array string not utf-8": (build(entry("a", 9, array(8, 1, text(b"\xff")))), r"a\[0\]: bytes at offset 57"),
    "alignment 0": (build(entry("general.alignment", 4, bytes(4))), "general.alignment: found 0, expected a power"),
    "alignment 48": (build(entry("general.alignment", 4, struct.pack("<I", 48))), "general.alignment: found 48"),
    "alignment 4": (build(entry("general.alignment", 4, struct.pack("<I", 4))), "general.alignment: found 4,"),
    "alignment 2^31": (build(entry("general.alignment", 4, struct.pack("<I", 2**31))), "general.alignment: found 2147"),
    "alignment text": (build(entry("general.alignment", 8, text("32"))), "general.alignment: found '32'"),
    "tensor name long": (build(tensors=(tensor("n" * 64, (8,)),)), "tensor 0: name: found a length of 64 bytes"),
    "tensor name empty": (build(tensors=(tensor("", (8, 1)),)), "tensor 0: found '' for a name"),
    "tensor name control": (build(tensors=(tensor("a\n", (8,)),)), r"tensor 0: found 'a\\n' for a name"),
    "tensor name twice": (two(tensor("a", (8,), offset=32)), "tensor a: the name appears twice"),
    "dimensions 9": (build(tensors=(tensor("a", (1,) * 9),)), "tensor a: found 9 dimensions, expected 1 to 4"),
    "dimensions 0": (build(tensors=(tensor("a", ()) + bytes(8),)), "tensor a: found 0 dimensions"),
    "dimension 0": (build(tensors=(tensor("a", (8, 0)),)), "tensor a: a dimension is 0"),
    "dimensions overflow": (build(tensors=(tensor("a", (2**32, 2**32)),)), "tensor a: holds more than"),
    "number format": (build(tensors=(tensor("a", (8,), 9999),)), "tensor a: number format 9999 is not known"),
    "never stored format": (build(tensors=(tensor("a", (32,), 9),)), "tensor a: number format 9 is not known"),
    "block": (build(tensors=(tensor("a", (48, 2), 8),)), "tensor a: rows of 48 values do not divide into Q8_0 blocks"),
    "offset unaligned": (two(tensor("b", (8,), offset=33)), "tensor b: offset 33 is not a multiple of the alignment"),
    "offset beyond file": (two(tensor("b", (8,), offset=2**40)), "tensor b: ends at byte 1099511"),
    "offset wraps": (two(tensor("b", (8,), offset=2**64 - 32)), "tensor b: ends at byte 184467440737"),
    "short data": (two(tensor("b", (9,), offset=32)), "tensor b: ends at byte 228, the file at 224"),
    "overlap": (two(tensor("b", (8,))), "tensor b: begins at byte 160, inside what ends at 192"),
    "gap": (two(tensor("b", (8,), offset=64), bytes(96)), "tensor b: begins at byte 224, leaving a gap from 192"),
    "trailing zip": (
        two(tensor("b", (8,), offset=32), bytes(64) + b"PK\3\4" + bytes(60)),
        "64 bytes follow the data's end at 224",
    ),
    "trailing bytes without tensors": (build(ARCHITECTURE, data=bytes(64)), "64 bytes follow the data's end"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_file_is_refused_by_name_and_place(name: str) -> None:
    raw, words = REFUSED[name]
    with pytest.raises(GgufError, match=words):
        Gguf.parse(raw)


def test_every_refusal_has_its_own_sentence() -> None:
    sentences = []
    for raw, _ in REFUSED.values():
        with pytest.raises(GgufError) as caught:
            Gguf.parse(raw)
        sentences.append(str(caught.value))
    assert len(set(sentences)) == len(sentences)


def test_limits_on_metadata_are_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = build(entry("a", 8, text("x" * 1000)))
    assert Gguf.parse(raw).metadata["a"] == "x" * 1000
    monkeypatch.setattr(gguf_limits, "MAX_METADATA_BYTES", 512)
    with pytest.raises(GgufError, match="a: goes beyond the 512 bytes allowed for metadata"):
        Gguf.parse(raw)


def test_arrays_share_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = build(entry("a", 9, array(0, 6, bytes(6))), entry("b", 9, array(0, 6, bytes(6))))
    assert len(Gguf.parse(raw).metadata["b"]) == 6
    monkeypatch.setattr(gguf_limits, "MAX_ARRAY_VALUES", 10)
    with pytest.raises(GgufError, match="b: all arrays together hold more than 10"):
        Gguf.parse(raw)


def test_every_value_type_is_read() -> None:
    values: dict[int, tuple[str, float]] = {
        0: ("B", 200),
        1: ("b", -5),
        2: ("H", 65535),
        3: ("h", -300),
        4: ("I", 2**32 - 1),
        5: ("i", -7),
    }
    values |= {6: ("f", 0.5), 10: ("Q", 2**64 - 1), 11: ("q", -(2**60)), 12: ("d", 1e300)}
    entries = [entry(f"k{kind}", kind, struct.pack("<" + code, value)) for kind, (code, value) in values.items()]
    lists = [
        entry(f"l{kind}", 9, array(kind, 2, struct.pack("<2" + code, value, value)))
        for kind, (code, value) in values.items()
    ]
    flags = [entry("yes", 7, b"\1"), entry("flags", 9, array(7, 3, b"\1\0\1")), entry("none", 9, array(8, 0))]
    metadata = Gguf.parse(build(*entries, *lists, *flags)).metadata
    for kind, (_, value) in values.items():
        assert metadata[f"k{kind}"] == value
        assert metadata[f"l{kind}"] == [value, value]
    assert metadata["yes"] is True
    assert metadata["flags"] == [True, False, True]
    assert metadata["none"] == []


@pytest.mark.parametrize("padding", [0, 12])
def test_tensors_have_their_extents(padding: int) -> None:
    last = tensor("c", (5,), 0, 128)
    tensors = (tensor("b", (32, 2), 8, 32), VECTOR, last)
    raw = build(ARCHITECTURE, tensors=tensors, data=bytes(range(148)) + bytes(padding))
    parsed = Gguf.parse(raw)
    assert list(parsed.tensors) == ["b", "a", "c"]
    b = parsed.tensors["b"]
    assert (b.shape, b.type, b.size, b.offset) == ((32, 2), TensorType.Q8_0, 68, parsed.data_offset + 32)
    assert bytes(parsed.data("b")) == bytes(range(32, 100))
    assert parsed.parameter_count == 64 + 8 + 5


@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_and_mutable_buffers_are_read(version: int) -> None:
    parsed = Gguf.parse(bytearray(build(ARCHITECTURE, tensors=(VECTOR,), data=bytes(32), version=version)))
    assert (parsed.version, parsed.architecture, parsed.alignment) == (version, "llama", 32)


def test_the_peers_writer_is_read(tmp_path: Path) -> None:
    path = tmp_path / "peer.gguf"
    writer = peer.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_file_type(peer.LlamaFileType.MOSTLY_Q4_K_M)
    writer.add_token_list(["<s>", "▁a", "\0"])
    writer.add_chat_template("{{ messages }}")
    writer.add_name("peer")
    matrix = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer.add_tensor("token_embd.weight", matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    parsed = Gguf.open(path)
    assert parsed.architecture == "llama"
    assert parsed.file_type == "Q4_K_M"
    assert parsed.metadata["tokenizer.ggml.tokens"] == ["<s>", "▁a", "\0"]
    assert parsed.tensors["token_embd.weight"].shape == (4, 3)
    assert parsed.data("token_embd.weight").tobytes() == matrix.tobytes()
    facts = parsed.describe()
    assert facts["general.parameter_count"] == 12
    assert facts["tokenizer.ggml.tokens"] is None
    assert "general.name" not in facts and "tokenizer.chat_template" not in facts
    assert parsed.describe(verbose=True)["tokenizer.ggml.tokens"] == ["<s>", "▁a", "\0"]


def test_types_agree_with_the_peers_table() -> None:
    sizes = {int(kind): size for kind, size in peer.GGML_QUANT_SIZES.items()}
    for kind in TensorType:
        assert (kind.block_values, kind.block_bytes) == sizes[kind], kind
        assert peer.GGMLQuantizationType(kind).name == kind.name
    assert {kind.name for kind in peer.GGMLQuantizationType} - {kind.name for kind in TensorType} == {"Q8_1", "Q8_K"}


def test_unreadable_files_are_our_error(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for path, words in (
        (tmp_path / "absent", "cannot be read"),
        (tmp_path, "cannot be read"),
        (tmp_path / "empty", "empty"),
    ):
        with pytest.raises(GgufError, match=words):
            Gguf.open(path)


def test_architecture_must_be_a_name() -> None:
    for raw in (
        build(),
        build(entry("general.architecture", 8, text("../x"))),
        build(entry("general.architecture", 7, b"\1")),
    ):
        with pytest.raises(GgufError, match=r"general\.architecture: found"):
            _ = Gguf.parse(raw).architecture


def small_good_file() -> bytes:
    return build(
        ARCHITECTURE,
        entry("general.alignment", 4, struct.pack("<I", 32)),
        entry("llama.rope.freq_base", 6, struct.pack("<f", 1e4)),
        entry("tokenizer.ggml.tokens", 9, array(8, 4, text("<s>") + text("é") + text("é" * 64) + text(""))),
        entry("tokenizer.ggml.scores", 9, array(6, 2, bytes(8))),
        entry("flags", 9, array(7, 2, b"\1\0")),
        entry("flag", 7, b"\1"),
        tensors=(tensor("a", (8,)), tensor("b", (32, 2), 8, 32)),
        data=bytes(128),
    )


def survives(raw: bytes) -> bool:
    """True if read; a GgufError is the only other way out. It is the same way where arrays are not wanted, whoever goes
    past their strings."""
    began = time.thread_time()
    whole = outcome(raw, arrays=True)
    assert whole == outcome(raw, arrays=False) == outcome(raw, arrays=False, pass_strings=pass_strings)
    assert time.thread_time() - began < 1
    return isinstance(whole, tuple)


def outcome(raw: bytes, *, arrays: bool, pass_strings: PassStrings | None = None) -> Any:
    try:
        parsed = Gguf.parse(raw, arrays=arrays, pass_strings=pass_strings)
    except GgufError as error:
        return str(error)
    decoded = repr(parsed.describe(verbose=True))
    return parsed.data_offset, parsed.kinds, parsed.tensors, repr(parsed.describe()), decoded


def test_mangling_every_byte_yields_a_file_or_our_error() -> None:
    good = small_good_file()
    assert survives(good)
    read = 0
    for place in range(len(good)):
        for value in {0, 1, 0x7F, 0x80, 0xFF, good[place] ^ 1, good[place] ^ 0x20}:
            read += survives(good[:place] + bytes([value]) + good[place + 1 :])
    assert read > len(good)  # data bytes and unread values do not matter


def test_every_truncation_is_refused() -> None:
    good = small_good_file()
    padding = 28  # of the last tensor, which may be absent
    for length in range(len(good) - padding):
        assert not survives(good[:length]), length


def test_random_splices_yield_a_file_or_our_error() -> None:
    good, rng = small_good_file(), random.Random(7)
    for _ in range(3000):
        a, b, c = (rng.randrange(len(good)) for _ in range(3))
        survives(good[:a] + good[b : b + rng.randrange(40)] + good[c:])


@pytest.mark.skipif(not VOCABULARIES.is_dir(), reason="shared vocabularies are not beside this checkout")
def test_real_vocabularies_are_read() -> None:
    for path in sorted(VOCABULARIES.glob("*.gguf")):
        parsed = Gguf.open(path)
        assert not parsed.tensors
        tokens = parsed.metadata["tokenizer.ggml.tokens"]
        assert len(tokens) == len(parsed.metadata["tokenizer.ggml.token_type"])
        assert all(type(token) is str for token in tokens)


def test_strings_that_are_passed_stay_where_they_lie() -> None:
    texts = [b"", b"a", "é".encode() * 40, b"", b"x" * 300, b"end"]
    good = build(entry("a", 9, array(8, len(texts), b"".join(map(text, texts)))))
    head = Gguf.parse(good, arrays=False, pass_strings=pass_strings)
    raw = head.metadata["a"]
    assert (len(raw), raw.kind, list(raw)) == (6, 8, [one.decode() for one in texts])
    assert survives(good)
    for place in range(good.index(b"x" * 300) - 120, len(good)):
        survives(good[:place] + b"\xff" + good[place + 1 :])
        survives(good[:place])


def test_a_head_is_what_the_whole_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often it has to be read again because it goes on; and the refusals are the same, with the same words."""
    good, path = small_good_file(), tmp_path / "file.gguf"
    monkeypatch.setattr(gguf_limits, "FIRST_READ_BYTES", 3)
    ways: tuple[dict[str, Any], ...] = ({}, {"arrays": False}, {"arrays": False, "pass_strings": pass_strings})
    for length in (len(good), *range(1, len(good), 7)):
        path.write_bytes(good[:length])
        for way in ways:
            assert facts(Gguf.head, path, way) == facts(Gguf.open, path, way), length
    for place in range(0, len(good), 5):
        path.write_bytes(good[:place] + b"\xff" + good[place + 1 :])
        assert facts(Gguf.head, path, ways[2]) == facts(Gguf.open, path, ways[2]), place


def facts(read: Any, path: Path, way: dict[str, Any]) -> object:
    try:
        found = read(path, **way)
    except GgufError as error:
        return str(error)
    values = [list(value) if hasattr(value, "__iter__") else value for value in found.metadata.values()]
    return repr((list(found.metadata), values, found.kinds, found.tensors, found.data_offset, found.file_size))


def test_a_head_is_read_only_as_far_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = tmp_path / "file.gguf", 0
    path.write_bytes(small_good_file())
    with path.open("ab") as file:
        file.truncate(1 << 30)
    preadv = os.preadv

    def counted(*of: Any) -> int:
        nonlocal asked
        asked += (count := preadv(*of))
        return count

    monkeypatch.setattr(os, "preadv", counted)
    with pytest.raises(GgufError, match="more than padding"):
        Gguf.head(path)
    assert asked == gguf_limits.FIRST_READ_BYTES


CUT = """
import os, sys
from manifests.errors import GgufError
from manifests.gguf import Gguf
from native.tokenizer import pass_strings

head = Gguf.head(sys.argv[1], arrays=False, pass_strings=pass_strings)
os.truncate(sys.argv[1], 100)
assert list(head.metadata["tokens"]) == ["word"] * 5000
os.truncate(sys.argv[1], int(sys.argv[2]))
preadv = os.preadv
def cut(*of):
    os.truncate(sys.argv[1], 4096)
    return preadv(*of)
os.preadv = cut
try:
    Gguf.head(sys.argv[1])
except GgufError as error:
    print(error)
"""


def test_a_file_that_is_cut_while_its_head_is_read_ends_no_process(tmp_path: Path) -> None:
    """Of a map, the bytes behind the cut would be SIGBUS; a server reads heads in its own process."""
    path = tmp_path / "file.gguf"
    path.write_bytes(build(entry("tokens", 9, array(8, 5000, text("word") * 5000))))
    command = [sys.executable, "-c", CUT, str(path), str(path.stat().st_size)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "the file ended at byte 4096 of 60054 while it was read" in ended.stdout
