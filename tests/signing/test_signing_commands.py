"""`sealift key` and `sealift trust` as a user meets them: output, exit codes, and nothing secret on a screen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sealift import build
from signing.errors import KeyExists, PassphraseNeeded, SigningError, TrustConflict, UnknownSigner, WrongPassphrase
from signing.keyring import Keyring, open_signer
from signing.keys import PublicSigner
from signing.trust import TrustStore


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path))
    monkeypatch.delenv("SEALIFT_PASSPHRASE", raising=False)
    monkeypatch.delenv("SEALIFT_NEW_PASSPHRASE", raising=False)
    return tmp_path


def sealift(*arguments: str) -> Result:
    return CliRunner().invoke(build(), list(arguments))


def done(*arguments: str) -> str:
    result = sealift(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def error(*arguments: str) -> SigningError:
    result = sealift(*arguments)
    assert isinstance(result.exception, SigningError), result.output
    return result.exception


def make(name: str, *options: str) -> Path:
    return Path(done("key", "generate", name, "--no-passphrase", *options).strip())


def test_a_refusal_names_the_key_the_file_or_the_roles(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever signs with three keys, or holds a folder of .pub files, must learn which one is meant."""
    monkeypatch.setenv("SEALIFT_PASSPHRASE", "right")
    done("key", "generate", "carol")
    with pytest.raises(WrongPassphrase, match="key carol: the passphrase does not open the key"):
        Keyring(home / "keys").load("carol", b"wrong")
    stranger = home / "passwd"
    stranger.write_text("root:x:0:0\n")
    found = error("trust", "add", str(stranger), "--role", "publisher")
    assert str(stranger) in str(found) and ".pub" in (found.hint or "")
    found = error("trust", "threshold", "auditor", "1")
    assert "unknown role 'auditor'" in str(found) and "publisher" in (found.hint or "")


def test_generate_prints_the_public_file_and_nothing_secret(home: Path) -> None:
    result = sealift("key", "generate", "alice", "--no-passphrase")
    path = Path(result.stdout.strip())
    assert path == home / "keys" / "alice.pub"
    public = PublicSigner.parse(path.read_bytes())
    assert [key.scheme for key in public.keys] == ["ed25519", "ml-dsa-65"]
    assert public.fingerprint in result.stderr
    assert all(line.startswith("sealift: ") for line in result.stderr.splitlines())
    secret = (home / "keys" / "alice.key").read_text().splitlines()[1]
    assert secret not in result.output
    assert done("key", "show", "alice").encode() == path.read_bytes()


def test_generate_without_a_way_to_ask_writes_nothing(home: Path) -> None:
    assert isinstance(error("key", "generate", "alice"), PassphraseNeeded)
    assert not (home / "keys").exists()


def test_generate_twice(home: Path) -> None:
    make("alice")
    before = (home / "keys" / "alice.key").read_bytes()
    assert isinstance(error("key", "generate", "alice", "--no-passphrase"), KeyExists)
    assert (home / "keys" / "alice.key").read_bytes() == before
    make("alice", "--force")
    assert (home / "keys" / "alice.key").read_bytes() != before


def test_passphrases_by_file_and_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = home / "first", home / "second"
    first.write_text("one\n")
    second.write_text("two\n")
    done("key", "generate", "alice", "--passphrase-file", str(first), "--scheme", "ed25519")
    assert open_signer("alice", passphrase_file=first).name == "alice"
    assert isinstance(
        error("key", "passwd", "alice", "--passphrase-file", str(second), "--no-passphrase"), WrongPassphrase
    )
    done("key", "passwd", "alice", "--passphrase-file", str(first), "--new-passphrase-file", str(second))
    assert open_signer("alice", passphrase_file=second).name == "alice"
    monkeypatch.setenv("SEALIFT_PASSPHRASE", "two")
    done("key", "passwd", "alice", "--no-passphrase")
    assert not Keyring(home / "keys").is_encrypted("alice")


def test_schemes(home: Path) -> None:
    make("a", "--scheme", "ecdsa-p384", "--scheme", "ml-dsa-87")
    listed = json.loads(done("key", "list", "--json"))
    assert [key["scheme"] for key in listed[0]["keys"]] == ["ecdsa-p384", "ml-dsa-87"]
    assert listed[0]["encrypted"] is False
    assert done("key", "list").startswith("a\tecdsa-p384+ml-dsa-87\tno passphrase\t")
    assert json.loads(done("key", "show", "a", "--json"))["fingerprint"] == listed[0]["fingerprint"]


def test_trust_from_nothing_to_revoked(home: Path) -> None:
    alice, bob = make("alice"), make("bob")
    assert sealift("trust", "list").stdout == ""
    assert done("trust", "add", str(alice), "--role", "publisher").startswith("alice\t")
    done(
        "trust", "add", str(bob), "--role", "publisher", "--role", "approver", "--name", "robert", "--channel", "acme/*"
    )
    done("trust", "threshold", "publisher", "2")
    done("trust", "expires", "2030-01-01")
    listed = json.loads(done("trust", "list", "--json"))
    assert listed["expires"] == "2030-01-01"
    assert listed["version"] == 4
    assert {role["role"]: (role["threshold"], role["members"]) for role in listed["roles"]} == {
        "approver": (1, ["robert"]),
        "publisher": (2, ["alice", "robert"]),
    }
    result = sealift("trust", "revoke", "robert", "--reason", "left the house")
    assert "publisher: 2 must sign and only 1 can" in result.stderr
    assert "robert\trevoked " in done("trust", "list")
    assert "left the house" in done("trust", "show")
    assert isinstance(error("trust", "remove", "robert"), TrustConflict)
    assert "bundles need a publisher only" in sealift("trust", "remove", "robert", "--role", "approver").stderr
    assert TrustStore.load(home / "trust.toml").required_roles == ("publisher",)
    done("trust", "remove", "alice")
    assert [s["name"] for s in json.loads(done("trust", "show", "--json"))["signers"]] == ["robert"]


def test_trust_add_tells_when_the_default_policy_will_not_count_it() -> None:
    weak = make("weak", "--scheme", "ed25519")
    assert "needs a key of ml-dsa-65 or ml-dsa-87" in sealift("trust", "add", str(weak), "--role", "publisher").stderr


def test_refusals(home: Path) -> None:
    alice = make("alice")
    assert isinstance(error("trust", "add", str(home / "absent.pub"), "--role", "publisher"), UnknownSigner)
    assert "private key file" in str(error("trust", "add", str(home / "keys" / "alice.key"), "--role", "publisher"))
    assert "unknown role 'king'" in str(error("trust", "add", str(alice), "--role", "king"))
    assert isinstance(error("key", "show", "bob"), UnknownSigner)
    assert sealift("trust", "add", str(alice)).exit_code == 2
    assert sealift("trust", "expires", "tomorrow").exit_code == 2
    assert sealift("key", "generate", "x", "--no-passphrase", "--passphrase-file", "f").exit_code == 2
    assert not (home / "trust.toml").exists()


@pytest.mark.parametrize("verb", [["key"], ["trust"], ["key", "generate"], ["trust", "add"], ["trust", "revoke"]])
def test_help_teaches(verb: list[str]) -> None:
    assert "Usage" in done(*verb, "--help")
