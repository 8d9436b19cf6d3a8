"""Key files: modes, encryption, no overwriting, and what is refused when opening."""

from __future__ import annotations

import base64
import io
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

import manifests.home
from signing import files, pkcs8
from signing.errors import (
    KeyExists,
    KeyFileUnavailable,
    MalformedKey,
    PassphraseNeeded,
    UnknownSigner,
    WrongPassphrase,
)
from signing.keyring import Keyring, open_signer
from signing.limits import MAX_PASSPHRASE_BYTES, MAX_PRIVATE_FILE_BYTES
from signing.passphrase import find_passphrase
from signing.schemes import SCHEMES
from tests.peers.signers import fixed_signer

CHEAP = pkcs8.Cost(n=16, r=1, p=1)  # the tests are not an attacker; one test uses the real cost
ALICE = fixed_signer("alice")


@pytest.fixture
def ring(tmp_path: Path) -> Keyring:
    return Keyring(tmp_path / "keys")


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


@pytest.mark.parametrize("passphrase", [None, b"correct horse", "pässwörd".encode()])
def test_written_keys_come_back(ring: Keyring, passphrase: bytes | None) -> None:
    signer = fixed_signer("alice", tuple(SCHEMES))
    ring.write(signer, passphrase, cost=CHEAP)
    back = ring.load("alice", passphrase)
    assert back.public == signer.public
    assert ring.names() == ["alice"]
    assert ring.is_encrypted("alice") is (passphrase is not None)
    for (key, signature), (other, _) in zip(back.sign(b"m"), signer.sign(b"m"), strict=True):
        assert key == other and other.verify(signature, b"m")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_whatever_the_umask(ring: Keyring, umask: int) -> None:
    before = os.umask(umask)
    try:
        ring.write(ALICE, None)
    finally:
        os.umask(before)
    assert modes(ring.directory) == {"alice.key": 0o600, "alice.pub": 0o644}
    assert stat.S_IMODE(ring.directory.stat().st_mode) == 0o700


def test_the_secret_is_not_in_an_encrypted_file(ring: Keyring) -> None:
    """Control: the same search finds the seed in the unencrypted DER."""
    seed = ALICE.private[0].private_bytes_raw()

    def der(passphrase: bytes | None) -> bytes:
        text = pkcs8.write_private(ALICE.private[:1], passphrase, CHEAP).decode()
        return base64.b64decode("".join(text.splitlines()[1:-1]))

    assert seed in der(None)
    assert seed not in der(b"passphrase")


def test_two_files_of_one_key_differ() -> None:
    """Salt and IV are new each time."""
    assert pkcs8.write_private(ALICE.private, b"p", CHEAP) != pkcs8.write_private(ALICE.private, b"p", CHEAP)


@pytest.mark.parametrize("wrong", [None, b"", b"passphras", b"passphrase ", b"\xff"])
def test_wrong_passphrase(ring: Keyring, wrong: bytes | None) -> None:
    ring.write(ALICE, b"passphrase", cost=CHEAP)
    with pytest.raises(WrongPassphrase):
        ring.load("alice", wrong)


def test_the_default_cost_is_what_the_file_says(ring: Keyring) -> None:
    """RFC 7914 section 7: the parameters stand in the file as INTEGERs: N = 16384, r = 8, p = 5, 32 bytes."""
    ring.write(fixed_signer("alice", ("ed25519",)), b"p")
    text = ring.private_path("alice").read_text()
    der = base64.b64decode("".join(text.splitlines()[1:-1]))
    assert bytes.fromhex("02024000" + "020108" + "020105" + "020120") in der
    assert ring.load("alice", b"p").public == fixed_signer("alice", ("ed25519",)).public


def test_openssl_reads_the_file(ring: Keyring) -> None:
    """The first block is the Ed25519 key, which every openssl since 1.1.1 knows."""
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("needs the openssl command")
    ring.write(ALICE, b"passphrase", cost=CHEAP)
    done = subprocess.run(
        [
            tool,
            "pkey",
            "-in",
            str(ring.private_path("alice")),
            "-passin",
            "pass:passphrase",
            "-pubout",
            "-outform",
            "DER",
        ],
        capture_output=True,
        check=True,
    )
    assert done.stdout.endswith(ALICE.public.keys[0].raw)


def test_never_replaced_without_force(ring: Keyring) -> None:
    ring.write(ALICE, None)
    before = {path: path.read_bytes() for path in ring.directory.iterdir()}
    other = fixed_signer("alice", ("ed25519",))
    with pytest.raises(KeyExists):
        ring.write(other, None)
    ring.public_path("alice").unlink()  # the private file alone is enough to refuse
    with pytest.raises(KeyExists):
        ring.write(other, None)
    assert ring.private_path("alice").read_bytes() == before[ring.private_path("alice")]
    ring.write(other, None, force=True)
    assert ring.load("alice", None).public == other.public
    assert set(modes(ring.directory)) == {"alice.key", "alice.pub"}  # no temporary file is left


def test_link_is_the_guard_and_not_the_look_before(tmp_path: Path) -> None:
    """Even when the file appears after the look, writing does not replace it."""
    path = tmp_path / "a.key"
    path.write_bytes(b"precious")
    with pytest.raises(KeyExists):
        files.write_atomic(path, b"new", mode=0o600, replace=False)
    assert path.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_that_others_may_read_is_refused(ring: Keyring) -> None:
    ring.write(ALICE, None)
    ring.private_path("alice").chmod(0o640)
    with pytest.raises(MalformedKey, match="read by others") as caught:
        ring.load("alice", None)
    assert caught.value.hint == f"chmod 600 {ring.private_path('alice')}"


def test_files_that_do_not_belong_together(ring: Keyring) -> None:
    ring.write(ALICE, None)
    ring.public_path("alice").write_bytes(fixed_signer("alice", ("ed25519",)).public.encode())
    with pytest.raises(MalformedKey, match="do not belong together"):
        ring.load("alice", None)
    ring.public_path("alice").write_bytes(fixed_signer("bob").public.encode())
    with pytest.raises(MalformedKey, match="names the signer 'bob'"):
        ring.load("alice", None)
    ring.public_path("alice").unlink()
    with pytest.raises(MalformedKey, match="is missing beside"):
        ring.load("alice", None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"hello", "expected a PKCS#8 PEM block"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key"),
        (b"-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n", "expected a PKCS#8"),
        (pkcs8.write_private(ALICE.private, None) + b"x", "expected a PKCS#8"),
        (b"x" * (MAX_PRIVATE_FILE_BYTES + 1), "more than"),
    ],
)
def test_damaged_private_files(ring: Keyring, data: bytes, words: str) -> None:
    ring.write(ALICE, None)
    ring.private_path("alice").write_bytes(data)
    with pytest.raises(MalformedKey, match=words):
        ring.load("alice", None)


def test_unknown_name_says_what_there_is(ring: Keyring) -> None:
    with pytest.raises(UnknownSigner, match="found: none"):
        ring.load("alice", None)
    ring.write(fixed_signer("bob"), None)
    with pytest.raises(UnknownSigner, match="found: bob"):
        open_signer("alice", directory=ring.directory)
    with pytest.raises(MalformedKey, match="not a signer's name"):
        ring.load("../alice", None)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(KeyFileUnavailable):
        Keyring(tmp_path / "file").write(ALICE, None)


def test_change_passphrase(ring: Keyring) -> None:
    ring.write(ALICE, b"old", cost=CHEAP)
    with pytest.raises(WrongPassphrase):
        ring.change_passphrase("alice", b"wrong", b"new", cost=CHEAP)
    ring.change_passphrase("alice", b"old", b"new", cost=CHEAP)
    assert ring.load("alice", b"new").public == ALICE.public
    with pytest.raises(WrongPassphrase):
        ring.load("alice", b"old")
    ring.change_passphrase("alice", b"new", None)
    assert not ring.is_encrypted("alice")
    assert modes(ring.directory)["alice.key"] == 0o600


def test_sources_of_a_passphrase_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pass"
    monkeypatch.setenv("SEALIFT_PASSPHRASE", "from the environment")
    for data in (b"from the file", b"from the file\n", b"from the file\r\n"):
        file.write_bytes(data)
        assert find_passphrase("x", file=file) == b"from the file"
    assert find_passphrase("x", ask=lambda _: "typed") == b"from the environment"
    monkeypatch.delenv("SEALIFT_PASSPHRASE")
    assert find_passphrase("x", ask=lambda _: "typed") == b"typed"
    monkeypatch.setattr("sys.stdin", io.StringIO("piped"))
    with pytest.raises(PassphraseNeeded) as caught:
        find_passphrase("x")
    assert "SEALIFT_PASSPHRASE" in (caught.value.hint or "")


def test_passphrases_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALIFT_PASSPHRASE", raising=False)
    answers = iter(["one", "two"])
    with pytest.raises(MalformedKey, match="differ"):
        find_passphrase("x", confirm=True, ask=lambda _: next(answers))
    for data in (b"", b"\n", b"one\ntwo\n", b"x" * (MAX_PASSPHRASE_BYTES + 1)):
        (tmp_path / "pass").write_bytes(data)
        with pytest.raises(MalformedKey):
            find_passphrase("x", file=tmp_path / "pass")
    with pytest.raises(KeyFileUnavailable):
        find_passphrase("x", file=tmp_path / "absent")


def test_open_signer_asks_only_when_needed(ring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEALIFT_PASSPHRASE", raising=False)
    ring.write(ALICE, None)

    def refuse(_: str) -> str:
        raise AssertionError("asked for a passphrase that is not needed")

    assert open_signer("alice", directory=ring.directory, ask=refuse).public == ALICE.public
    ring.write(fixed_signer("bob"), b"secret", cost=CHEAP)
    assert open_signer("bob", directory=ring.directory, ask=lambda _: "secret").public == fixed_signer("bob").public


@pytest.mark.parametrize("value", [None, "", "/somewhere/else", "~/mine", " /x "])
def test_home_is_the_home_of_the_house(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("SEALIFT_HOME", raising=False)
    if value is not None:
        monkeypatch.setenv("SEALIFT_HOME", value)
    assert files.home() == manifests.home.home()
    assert files.trust_path() == files.home() / "trust.toml"
