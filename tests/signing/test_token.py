"""Keys in a PKCS#11 token, with SoftHSM in the place of a card: made there, used there, never in a message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sealift import build
from signing.envelope import decode, encode, sign
from signing.errors import KeyExists, MalformedKey, PassphraseNeeded, TokenUnavailable, UnknownSigner, WrongPassphrase
from signing.keyring import Keyring, open_signer
from signing.token import TokenPlace
from signing.trust import TrustStore
from tests.peers.softhsm import AVAILABLE, MODULE, NEEDS, PIN, make_token

TYPE = "application/x-test"

pytestmark = pytest.mark.skipif(not AVAILABLE, reason=NEEDS)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("hsm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(root / "softhsm2.conf"))
        make_token(root)
        yield root


@pytest.fixture(autouse=True)
def home(token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path))
    monkeypatch.setenv("SEALIFT_PIN", PIN)
    for name in ("SEALIFT_PASSPHRASE", "SEALIFT_PIN_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def add(name: str, label: str, *more: str, token: str = "office") -> Result:
    words = ["key", "add-token", name, "--module", MODULE, "--token", token, "--label", label, *more]
    return CliRunner().invoke(build(), words)


@pytest.mark.parametrize(
    ("label", "more", "schemes", "profile"),
    [
        ("card-p384", [], ["ecdsa-p384", "ml-dsa-65"], "hybrid"),
        ("card-p384", ["--profile", "cnsa2"], ["ecdsa-p384", "ml-dsa-87"], "cnsa2"),
        ("card-ed25519", [], ["ed25519", "ml-dsa-65"], "hybrid"),
        ("card-p384", ["--profile", "any"], ["ecdsa-p384"], "any"),
    ],
)
def test_a_token_signs_beside_a_file(home: Path, label: str, more: list[str], schemes: list[str], profile: str) -> None:
    result = add("alice", label, *more, "--no-passphrase")
    assert result.exit_code == 0, (result.output, result.exception)
    assert PIN not in result.output
    signer = open_signer("alice")
    assert [key.scheme for key in signer.public.keys] == schemes
    assert PIN not in repr(signer) and not any(PIN.encode() in path.read_bytes() for path in (home / "keys").iterdir())
    envelope = encode(sign(TYPE, b"payload", [signer]))
    store = TrustStore.empty().add(Keyring(home / "keys").public("alice"), ["publisher"])
    found = store.verify(envelope, payload_type=TYPE, required_profile=profile)
    assert found.verdict.signers == ("alice",)
    assert len({s.sig for s in decode(envelope).signatures}) == len(schemes)


def test_the_pin_may_come_from_a_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "pin").write_text(PIN + "\n")
    monkeypatch.delenv("SEALIFT_PIN")
    assert add("alice", "card-p384", "--no-passphrase", "--pin-file", str(home / "pin")).exit_code == 0
    monkeypatch.setenv("SEALIFT_PIN_FILE", str(home / "pin"))
    assert open_signer("alice").sign(b"x")


def test_refusals_name_the_next_step(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(kind: type[Exception], words: str, *arguments: str, token: str = "office") -> None:
        result = add("alice", *arguments, "--no-passphrase", token=token)
        assert isinstance(result.exception, kind) and words in str(result.exception), result.exception
        assert PIN not in str(result.exception) and not list((home / "keys").glob("alice*"))

    refused(UnknownSigner, "has no public_key labelled 'gone'", "gone")
    refused(MalformedKey, "public key of", "card-p256")
    refused(TokenUnavailable, "no token 'other'", "card-p384", token="other")
    for module in (str(home / "gone.so"), __file__):
        refused(TokenUnavailable, f"{module} cannot be loaded", "card-p384", "--module", module)
    with monkeypatch.context() as nobody:
        nobody.delenv("SEALIFT_PIN")
        refused(PassphraseNeeded, "needs its PIN", "card-p384")
    monkeypatch.setenv("SEALIFT_PIN", "wrong")
    refused(WrongPassphrase, "the PIN does not open", "card-p384")


def test_a_signer_in_a_token_is_one_of_ours(home: Path) -> None:
    assert add("alice", "card-p384", "--profile", "any").exit_code == 0
    ring = Keyring(home / "keys")
    assert ring.names() == ["alice"] and not ring.is_encrypted("alice")
    assert isinstance(add("alice", "card-p384", "--no-passphrase").exception, KeyExists)
    assert add("alice", "card-p384", "--no-passphrase", "--force").exit_code == 0
    assert (home / "keys/alice.token").stat().st_mode & 0o777 == 0o600
    (home / "keys/alice.token").chmod(0o644)
    with pytest.raises(MalformedKey, match="read by others"):
        open_signer("alice")


def test_a_token_with_another_key_of_that_name_does_not_sign_for_us(home: Path) -> None:
    from signing.keys import PublicKey
    from tests.peers.signers import fixed_signer

    assert add("alice", "card-p384", "--profile", "any").exit_code == 0
    path = home / "keys" / "alice.token"
    place = TokenPlace.parse(path.read_bytes())
    other = fixed_signer("mallory", ("ecdsa-p384",)).public
    swapped = TokenPlace(module=place.module, token=place.token, key=place.key, public=PublicKey(*_of(other)))
    path.write_bytes(swapped.encode())
    with pytest.raises(MalformedKey, match="do not belong together"):
        open_signer("alice")
    (home / "keys" / "alice.pub").write_bytes(other.encode().replace(b" mallory ", b" alice "))
    with pytest.raises(MalformedKey, match="is not the one that was added"):
        open_signer("alice").sign(b"x")


def _of(public: Any) -> tuple[str, bytes]:
    return public.keys[0].scheme, public.keys[0].raw


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace(b"sealift_token = 1", b"sealift_token = 2"),
        lambda text: text + b"more = 1\n",
        lambda text: text.replace(b'scheme = "ecdsa-p384"', b'scheme = "ml-dsa-65"'),
        lambda text: text.replace(b'key = "card-p384"', b"key = 1"),
        lambda text: b"\xff",
    ],
)
def test_a_token_file_that_we_would_not_write_is_refused(home: Path, spoil: Callable[[bytes], bytes]) -> None:
    assert add("alice", "card-p384", "--profile", "any").exit_code == 0
    path = home / "keys" / "alice.token"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(MalformedKey, match=r"alice\.token: "):
        open_signer("alice")


def test_without_the_optional_package_it_says_what_to_install(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pkcs11", None)
    found = add("alice", "card-p384", "--no-passphrase").exception
    assert isinstance(found, TokenUnavailable) and "sealift[pkcs11]" in (found.hint or "")
