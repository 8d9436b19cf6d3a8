"""What the verbs of this room print: sentences for people, JSON for scripts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pathlib import Path

    from signing.keys import PublicSigner
    from signing.trust import TrustStore


def say(text: str) -> None:
    """For people: stderr, so that stdout stays the result."""
    typer.echo(f"sealift: {text}", err=True)


def hint(text: str) -> None:
    typer.echo(f"sealift: hint: {text}", err=True)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


def signer_dict(public: PublicSigner) -> dict[str, Any]:
    return {
        "name": public.name,
        "fingerprint": public.fingerprint,
        "keys": [{"scheme": key.scheme, "id": key.id} for key in public.keys],
    }


def read_public(path: Path) -> PublicSigner:
    """A `.pub` file from anywhere, such as a stick."""
    from signing.errors import MalformedKey, UnknownSigner
    from signing.files import read_bounded
    from signing.keys import PublicSigner
    from signing.limits import MAX_PUBLIC_FILE_BYTES

    try:
        return PublicSigner.parse(read_bounded(path, MAX_PUBLIC_FILE_BYTES))
    except FileNotFoundError as error:
        raise UnknownSigner(
            f"there is no file {path}", hint="give the .pub file that `sealift key generate` wrote"
        ) from error
    except MalformedKey as error:
        raise MalformedKey(
            f"{path}: {error}", hint=error.hint or "give the .pub file that `sealift key generate` wrote"
        ) from error


def read_certificates(path: Path) -> tuple[bytes, ...]:
    """A PEM file of certificates, from anywhere."""
    from signing.certificates import read_pem
    from signing.errors import MalformedTrust, UnknownSigner
    from signing.files import read_bounded
    from signing.limits import MAX_CERTIFICATE_BYTES, MAX_CERTIFICATES

    try:
        return read_pem(read_bounded(path, 2 * MAX_CERTIFICATES * MAX_CERTIFICATE_BYTES, MalformedTrust))
    except FileNotFoundError as error:
        raise UnknownSigner(f"there is no file {path}", hint="give the PEM file of the certificates") from error


def certificates_out(chain: tuple[bytes, ...]) -> list[dict[str, str]]:
    if not chain:
        return []
    from signing.certificates import describe

    return describe(chain)


def trust_dict(store: TrustStore) -> dict[str, Any]:
    return {
        "version": store.version,
        "expires": store.expires.isoformat() if store.expires else None,
        "signers": [
            signer_dict(signer.public)
            | {
                "revoked": {"date": signer.revoked.date.isoformat(), "reason": signer.revoked.reason}
                if signer.revoked
                else None,
                "certificates": certificates_out(signer.x509),
                "roles": [
                    {"role": role.name, "channels": list(member.channels)}
                    for role in store.roles
                    for member in role.members
                    if member.signer == signer.name
                ],
            }
            for signer in store.signers
        ],
        "roles": [
            {"role": role.name, "threshold": role.threshold, "members": [member.signer for member in role.members]}
            for role in store.roles
        ],
    }
