"""trust.toml, format 1: the text of a TrustStore.

    sealift_trust = 1                  the format; read first, refused by number
    version = 7                        counts changes
    expires = 2028-01-01               or "never"

    [signers.alice]
    ed25519 = "<base64>"               one line per key, by scheme
    ml-dsa-65 = "<base64>"

    [signers.bob]
    ecdsa-p384 = "<base64>"
    x509 = ["<base64>", "<base64>"]    may be absent: certificates for that key, the anchor last

    [signers.bob.revoked]              may be absent
    date = 2026-06-01
    reason = "lost token"

    [roles.publisher]
    threshold = 1

    [roles.publisher.members]
    alice = ["*"]                      channel patterns; "*" is every channel
    bob = ["acme/*"]

Unknown fields, unknown roles and schemes, other types and anything over the limits are refused with the path of the
field. A person may add comments, spaces and another order; `sealift trust` writes the one form of `encode_trust`.
Law: `parse_trust(encode_trust(store)) == store`.
"""

from __future__ import annotations

import base64
import sys
from datetime import date, datetime
from pathlib import Path
from typing import Any

import tomli_w

from signing.errors import MalformedKey, MalformedTrust
from signing.files import read_bounded, write_atomic
from signing.keys import PublicKey, PublicSigner, decode_base64
from signing.limits import MAX_TRUST_FILE_BYTES
from signing.schemes import ORDER, SCHEMES
from signing.trust import Member, Revocation, Role, TrustedSigner, TrustStore

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMAT = 1
_HEADER = b"# Whom this host believes. Written by `sealift trust`; see `sealift trust --help`.\n\n"


def load_trust(path: Path) -> TrustStore:
    """An absent file is the empty store. Raises MalformedTrust, naming the file, or KeyFileUnavailable."""
    try:
        data = read_bounded(path, MAX_TRUST_FILE_BYTES, MalformedTrust)
    except FileNotFoundError:
        return TrustStore.empty()
    try:
        return parse_trust(data)
    except MalformedTrust as error:
        raise MalformedTrust(f"{path}: {error}", hint=error.hint) from error


def save_trust(store: TrustStore, path: Path) -> None:
    """Atomic; refused when the text would be over the limit that the reader holds."""
    data = encode_trust(store)
    if len(data) > MAX_TRUST_FILE_BYTES:
        raise MalformedTrust(f"trust.toml would have {len(data)} bytes; at most {MAX_TRUST_FILE_BYTES} are read")
    write_atomic(path, data, mode=0o644, replace=True)


def encode_trust(store: TrustStore) -> bytes:
    return _HEADER + tomli_w.dumps(to_document(store)).encode()


def to_document(store: TrustStore) -> dict[str, Any]:
    """The tables of the file, with dates as dates; `trustdocument` writes the same ones as JSON."""
    return {
        "sealift_trust": FORMAT,
        "version": store.version,
        "expires": store.expires if store.expires is not None else "never",
        "signers": {signer.name: _signer_table(signer) for signer in store.signers},
        "roles": {
            role.name: {
                "threshold": role.threshold,
                "members": {member.signer: list(member.channels) for member in role.members},
            }
            for role in store.roles
        },
    }


def _signer_table(signer: TrustedSigner) -> dict[str, Any]:
    table: dict[str, Any] = {key.scheme: base64.b64encode(key.raw).decode() for key in signer.keys}
    if signer.x509:
        table["x509"] = [base64.b64encode(der).decode() for der in signer.x509]
    if signer.revoked is not None:
        table["revoked"] = {"date": signer.revoked.date, "reason": signer.revoked.reason}
    return table


def parse_trust(data: bytes) -> TrustStore:
    """Raises MalformedTrust and nothing else."""
    if len(data) > MAX_TRUST_FILE_BYTES:
        raise MalformedTrust(f"trust.toml has at most {MAX_TRUST_FILE_BYTES} bytes, found {len(data)}")
    return from_document(_toml(data))


def from_document(document: dict[str, Any]) -> TrustStore:
    """Raises MalformedTrust with the path of the field."""
    # The format comes before every other field, so that a later format is refused by its number.
    found = document.get("sealift_trust")
    if type(found) is not int or found != FORMAT:
        raise MalformedTrust(
            f"sealift_trust: expected {FORMAT}, found {_show(found)}",
            hint="a higher number needs a newer sealift" if type(found) is int else None,
        )
    _only(document, {"sealift_trust", "version", "expires", "signers", "roles"}, "")
    signers = _table(document, "signers", "")
    roles = _table(document, "roles", "")
    return TrustStore(
        version=_integer(document, "version", ""),
        expires=_expiry(document),
        signers=tuple(_signer(name, _table(signers, name, "signers")) for name in sorted(signers)),
        roles=tuple(_role(name, _table(roles, name, "roles")) for name in sorted(roles)),
    )


def _toml(data: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedTrust(f"byte {error.start}: not UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise MalformedTrust(f"not TOML: {error}") from error
    except (ValueError, RecursionError) as error:  # dates out of range, integers of thousands of digits, deep nesting
        raise MalformedTrust("not TOML that can be read: a value is out of range or nested too deeply") from error
    return document


def _signer(name: str, table: dict[str, Any]) -> TrustedSigner:
    where = f"signers.{name}"
    _only(table, {*SCHEMES, "x509", "revoked"}, where)
    try:
        keys = tuple(
            PublicKey(scheme, decode_base64(_text(table, scheme, where), scheme)) for scheme in ORDER if scheme in table
        )
        public = PublicSigner(name, keys)
        chain = tuple(decode_base64(item, "x509") for item in _listed(table, "x509", where)) if "x509" in table else ()
        return TrustedSigner(public=public, revoked=_revocation(table, where), x509=chain)
    except (MalformedKey, MalformedTrust) as error:
        if str(error).startswith(where):
            raise
        raise MalformedTrust(f"{where}: {error}", hint=error.hint) from error


def _revocation(signer: dict[str, Any], where: str) -> Revocation | None:
    if "revoked" not in signer:
        return None
    table = _table(signer, "revoked", where)
    _only(table, {"date", "reason"}, f"{where}.revoked")
    return Revocation(date=_date(table, "date", f"{where}.revoked"), reason=_text(table, "reason", f"{where}.revoked"))


def _role(name: str, table: dict[str, Any]) -> Role:
    where = f"roles.{name}"
    _only(table, {"threshold", "members"}, where)
    members = _table(table, "members", where)
    return Role(
        name=name,
        threshold=_integer(table, "threshold", where),
        members=tuple(
            Member(signer=signer, channels=_texts(members, signer, f"{where}.members")) for signer in sorted(members)
        ),
    )


def _expiry(document: dict[str, Any]) -> date | None:
    return None if document.get("expires") == "never" else _date(document, "expires", "")


def _only(table: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        raise MalformedTrust(f"{_path(where, unknown[0])}: unknown field", hint=f"known: {', '.join(sorted(known))}")


def _get(table: dict[str, Any], name: str, where: str, kind: type, what: str) -> Any:
    """The exact type: TOML's true is not an integer, and a date with a time is not a date."""
    value = table.get(name)
    if type(value) is not kind:
        raise MalformedTrust(f"{_path(where, name)}: expected {what}, found {_show(value)}")
    return value


def _table(table: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    return dict(_get(table, name, where, dict, "a table"))


def _integer(table: dict[str, Any], name: str, where: str) -> int:
    return int(_get(table, name, where, int, "an integer"))


def _text(table: dict[str, Any], name: str, where: str) -> str:
    return str(_get(table, name, where, str, "text"))


def _date(table: dict[str, Any], name: str, where: str) -> date:
    found: date = _get(table, name, where, date, "a date such as 2028-01-01")
    assert not isinstance(found, datetime)
    return found


def _texts(table: dict[str, Any], name: str, where: str) -> tuple[str, ...]:
    return tuple(sorted(set(_listed(table, name, where))))


def _listed(table: dict[str, Any], name: str, where: str) -> list[str]:
    items: list[str] = _get(table, name, where, list, "a list of text")
    for index, item in enumerate(items):
        if type(item) is not str:
            raise MalformedTrust(f"{_path(where, name)}[{index}]: expected text, found {_show(item)}")
    return items


def _path(where: str, name: str) -> str:
    return ascii(f"{where}.{name}" if where else name)[1:-1][:120]


def _show(value: object) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {ascii(value)[:40]}"
