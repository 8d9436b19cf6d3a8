"""The trust document: a TrustStore as the payload that its root signs. Normative text: docs/formats/trust.md.

    {"expires":"never","roles":{…},"sealift_trust":1,"signers":{…},"version":7}

The tables are those of trust.toml; dates are text, `YYYY-MM-DD`. Canonical JSON: keys in ascending order, no white
space, ASCII (other characters as \\uXXXX). The text of trust.toml itself is not signed: a person may re-arrange it.
Law: `encode_document(decode_document(b)) == b`, or `decode_document(b)` is refused.
"""

from __future__ import annotations

import json
import re
from datetime import date
from typing import Any

from signing.errors import MalformedTrust
from signing.limits import MAX_TRUST_FILE_BYTES
from signing.trust import TrustStore
from signing.trustfile import from_document, to_document

TRUST_TYPE = "application/vnd.sealift.trust.v1+json"
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def encode_document(store: TrustStore) -> bytes:
    text = json.dumps(to_document(store), sort_keys=True, separators=(",", ":"), default=date.isoformat)
    if len(text) > MAX_TRUST_FILE_BYTES:
        raise MalformedTrust(f"a trust document has at most {MAX_TRUST_FILE_BYTES} bytes, this has {len(text)}")
    return text.encode("ascii")


def decode_document(data: bytes) -> TrustStore:
    """Raises MalformedTrust and nothing else. The bytes may be a stranger's: bounded, and no number is converted that
    the schema does not ask for."""
    if len(data) > MAX_TRUST_FILE_BYTES:
        raise MalformedTrust(f"a trust document has at most {MAX_TRUST_FILE_BYTES} bytes, found {len(data)}")
    try:
        document = json.loads(data.decode("ascii"), parse_float=_refuse, parse_constant=_refuse, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise MalformedTrust("the trust document is not JSON in ASCII") from error
    if not isinstance(document, dict):
        raise MalformedTrust("the trust document is not a JSON object")
    _dates(document)
    store = from_document(document)
    if encode_document(store) != data:
        raise MalformedTrust("the trust document is not in canonical form")
    return store


def _refuse(text: str) -> Any:
    raise ValueError(f"number {text[:20]}")


def _integer(text: str) -> int:
    return int(text) if len(text) <= 16 else _refuse(text)  # 2^53 has 16 digits


def _dates(document: dict[str, Any]) -> None:
    """Text to dates, in the two places where the schema has one. Whatever is not a date is left for the schema."""
    _date(document, "expires")
    signers = document.get("signers")
    for signer in signers.values() if isinstance(signers, dict) else ():
        if isinstance(signer, dict) and isinstance(signer.get("revoked"), dict):
            _date(signer["revoked"], "date")


def _date(table: dict[str, Any], key: str) -> None:
    text = table.get(key)
    if isinstance(text, str) and _DATE.fullmatch(text):
        try:
            table[key] = date.fromisoformat(text)
        except ValueError as error:
            raise MalformedTrust(f"{key}: no such day: {text}") from error
