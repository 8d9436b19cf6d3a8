"""Bundles for who knows a passphrase: it opens an identity that lies beside the volumes, and nothing else does."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

import sealift
from bundler import seal
from bundler.errors import BadRequest, CannotDecrypt
from manifests.store import Store
from tests.peers.bundles import put_model, small_gguf

pyrage = pytest.importorskip("pyrage", reason="needs the extra `encrypt`")
WORD = "correct horse"


def age_file(text: bytes, passphrase: bytes, work: int = 4, said: int | None = None) -> bytes:
    """An age file under a passphrase, by C2SP's page on age, with as little work as a test wants. `said`: another work
    factor in its header."""
    salt, key, nonce = os.urandom(16), os.urandom(16), os.urandom(16)

    def plain(data: bytes) -> bytes:
        return base64.b64encode(data).rstrip(b"=")

    def derived(salt: bytes, info: bytes) -> bytes:
        return HKDF(SHA256(), 32, salt, info).derive(key)

    wrapping = hashlib.scrypt(passphrase, salt=b"age-encryption.org/v1/scrypt" + salt, n=1 << work, r=8, p=1, dklen=32)
    wrapped = ChaCha20Poly1305(wrapping).encrypt(bytes(12), key, None)
    header = b"age-encryption.org/v1\n-> scrypt %s %d\n%s\n---" % (plain(salt), said or work, plain(wrapped))
    mac = hmac.digest(derived(b"", b"header"), header, "sha256")
    payload = ChaCha20Poly1305(derived(nonce, b"payload")).encrypt(bytes(11) + b"\x01", text, None)
    return header + b" " + plain(mac) + b"\n" + nonce + payload


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    identity = str(pyrage.x25519.Identity.generate())
    path = tmp_path / "x.identity.age"
    path.write_bytes(age_file(f"# made by a test\n{identity}\n".encode(), WORD.encode()))
    return path


def test_the_passphrase_opens_it_and_no_other(locked: Path) -> None:
    assert seal.is_locked(locked) and len(seal.unlock(locked, WORD.encode()).identities) == 1
    with pytest.raises(CannotDecrypt, match="wrong"):
        seal.unlock(locked, b"battery staple")
    with pytest.raises(BadRequest, match="UTF-8"):
        seal.unlock(locked, b"\xff")


def test_any_other_byte_is_refused(locked: Path) -> None:
    raw = locked.read_bytes()
    for at in range(len(raw)):
        locked.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        if locked.read_bytes()[: raw.index(b"\n", 40)] == raw[: raw.index(b"\n", 40)]:  # else another work factor
            with pytest.raises((BadRequest, CannotDecrypt)):
                seal.unlock(locked, WORD.encode())


@pytest.mark.parametrize("work", [23, 40, 63, 99])
def test_work_that_a_stranger_asks_for_is_bounded(tmp_path: Path, work: int) -> None:
    path = tmp_path / "x.identity.age"
    path.write_bytes(age_file(b"x", WORD.encode(), said=work))
    with pytest.raises(BadRequest, match="more work"):
        seal.unlock(path, WORD.encode())


def test_the_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From a passphrase on one side to the model on the other; a wrong one, and none, are told."""
    # pyrage works on a passphrase for a second, and lets nobody choose
    monkeypatch.setattr(pyrage.passphrase, "encrypt", lambda text, word: age_file(text, word.encode()))

    def run(*words: str, home: str = "near") -> tuple[int, str, str]:
        monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / home))
        monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / home / "models"))
        code = sealift.run(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    put_model(Store(tmp_path / "near" / "models"), "mine", small_gguf(tmp_path / "w.gguf").read_bytes())
    usb = tmp_path / "usb"
    assert run("key", "generate", "alice", "--no-passphrase")[0] == 0
    export = ("bundle", "export", "mine", "-o", str(usb), "--sign", "alice", "--encrypt-passphrase")
    code, _, err = run(*export)
    assert code == 2 and "SEALIFT_BUNDLE_PASSPHRASE" in err and not usb.exists(), "nobody can be asked"
    monkeypatch.setenv("SEALIFT_BUNDLE_PASSPHRASE", WORD)
    assert run(*export)[0] == 0
    (beside,) = usb.glob("sealed-*.identity.age")
    assert all(b"mine" not in path.read_bytes() for path in usb.glob("*.age"))
    run("trust", "add", str(tmp_path / "near" / "keys" / "alice.pub"), "--role", "publisher", home="far")
    assert run("bundle", "verify", str(usb), home="far")[0] == 0
    drop = tmp_path / "drop"
    code, _, err = run("bundle", "send", str(usb), "--to", str(drop))
    assert code == 0, err
    assert (drop / beside.name).exists()
    collect = ("-o", str(tmp_path / "kept"), "--identity", str(drop / beside.name))
    assert run("bundle", "receive", "--watch", str(drop), "--once", *collect, home="far")[0] == 0
    (kept,) = (path.parent for path in (tmp_path / "kept").glob("*/*.v000.tar.age"))
    assert run("bundle", "verify", str(kept), home="far")[0] == 0, "the passphrase is still enough"
    assert run("bundle", "receive", "--watch", str(drop), "--once", *collect, home="far")[0] == 0, "and again"
    monkeypatch.setenv("SEALIFT_BUNDLE_PASSPHRASE", "battery staple")
    code, _, err = run("bundle", "import", str(usb), home="far")
    assert code == 4 and "passphrase is wrong" in err
    monkeypatch.setenv("SEALIFT_BUNDLE_PASSPHRASE", WORD)
    code, out, _ = run("bundle", "import", str(usb), home="far")
    assert code == 0 and "imported mine:latest" in out
