"""Content that may be used: the payload of an envelope that `TrustStore.verify` accepted."""

from __future__ import annotations

from typing import Any, NoReturn

from signing.verdict import Verdict

_SEAL = object()


class VerifiedPayload:
    """Made by verification alone, and read-only. Holding one is the proof; there is nothing to check again."""

    __slots__ = ("_payload", "_payload_type", "_verdict")
    _payload: bytes
    _payload_type: str
    _verdict: Verdict

    def __init__(self, seal: object, payload_type: str, payload: bytes, verdict: Verdict) -> None:
        if seal is not _SEAL:
            raise TypeError("a VerifiedPayload is made by TrustStore.verify only")
        assert verdict.accepted, "a payload that was not accepted must not be sealed"
        object.__setattr__(self, "_payload_type", payload_type)
        object.__setattr__(self, "_payload", payload)
        object.__setattr__(self, "_verdict", verdict)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError("a VerifiedPayload does not change")

    @property
    def payload(self) -> bytes:
        return self._payload

    @property
    def payload_type(self) -> str:
        return self._payload_type

    @property
    def verdict(self) -> Verdict:
        return self._verdict

    def __repr__(self) -> str:
        return f"VerifiedPayload({self._payload_type!r}, {len(self._payload)} bytes, by {self._verdict.signers})"
