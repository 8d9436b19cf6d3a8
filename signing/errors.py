"""The errors of this room.

SigningError                    the family; never raised itself
├── NotTrusted                  3  403  signatures do not carry the payload; `.verdict` says why
├── RefusedInput                1  400  bytes or words from outside that are not what they must be
│   ├── MalformedKey                    a public or private key file, or a name
│   ├── MalformedEnvelope               not a canonical envelope within the limits
│   │   └── WrongPayloadType            an envelope for another purpose
│   ├── MalformedTrust                  trust.toml
│   ├── TrustConflict           1  409  a change that contradicts what is trusted already
│   ├── UnknownSigner           1  404  no signer or key of that name
│   ├── KeyExists               1  409  a key file is there and stays
│   └── WrongPassphrase         1  403  the key does not open
├── PassphraseNeeded            2  400  nobody can be asked for a passphrase
├── KeyFileUnavailable          4  503  the operating system refused a file
└── TokenUnavailable            4  503  a PKCS#11 token, or its library, is not there

Instances carry `.hint`: the next step for the user, or None.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from signing.verdict import Verdict


class SigningError(Exception):
    """The family. `exit_code` and `http_status` belong to the class, `hint` to the instance."""

    exit_code: int = 70
    http_status: int = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class NotTrusted(SigningError):
    """The signatures do not carry the payload. The payload itself is not reachable from here."""

    exit_code = 3
    http_status = 403

    def __init__(self, message: str, *, verdict: Verdict, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.verdict = verdict


class RefusedInput(SigningError):
    exit_code = 1
    http_status = 400


class MalformedKey(RefusedInput):
    """A key file, key text or signer name that we would not have written."""


class MalformedEnvelope(RefusedInput):
    """Bytes that `envelope.encode` would not have written."""


class WrongPayloadType(MalformedEnvelope):
    """A sound envelope whose payload type is not the one asked for."""


class MalformedTrust(RefusedInput):
    """trust.toml says something outside its schema; the message begins with the path of the field."""


class TrustConflict(RefusedInput):
    http_status = 409


class UnknownSigner(RefusedInput):
    http_status = 404


class KeyExists(RefusedInput):
    http_status = 409


class WrongPassphrase(RefusedInput):
    http_status = 403


class PassphraseNeeded(SigningError):
    exit_code = 2
    http_status = 400


class KeyFileUnavailable(SigningError):
    exit_code = 4
    http_status = 503


class TokenUnavailable(SigningError):
    exit_code = 4
    http_status = 503
