"""Look at a bundle without reading its payload: what it says it holds, who seems to have signed, which volumes are
here.

Nothing here is a verdict. Without trust everything shown is the medium's own claim, and the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bundler import approvals, layout, medium, verify
from bundler.approvals import Approval, Signed
from bundler.medium import Medium
from bundler.seal import Keys
from manifests.digest import Digest
from manifests.statement import PAYLOAD_TYPE, Statement
from signing import envelope as dsse
from signing.errors import NotTrusted
from signing.trust import TrustStore
from signing.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeState:
    """`state` is `here` (name and size are right; its bytes were not read), `missing` or `size`."""

    name: str
    size: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """`keyids` are of all signatures, those of `approvals` included. `verdict` is None where no trust was given: then
    no signature was checked."""

    statement: Statement
    digest: Digest
    keyids: tuple[str, ...]
    approvals: tuple[Approval, ...]
    verdict: Verdict | None
    volumes: tuple[VolumeState, ...]

    @property
    def trusted(self) -> bool:
        return self.verdict is not None and self.verdict.accepted

    def as_dict(self) -> dict[str, Any]:
        return {
            "trusted": self.trusted,
            "bundle": verify.describe(self.statement),
            "statement": str(self.digest),
            "keyids": list(self.keyids),
            "approvals": [{"name": item.name, "keyids": list(item.keyids)} for item in self.approvals],
            "verdict": self.verdict.as_dict() if self.verdict else None,
            "volumes": [{"name": v.name, "size": v.size, "state": v.state} for v in self.volumes],
            "not_checked": ["the payload: no byte behind the statement was read"],
        }


def inspect(
    path: Path, trust: TrustStore | None = None, *, profile: str = "hybrid", extra: Sequence[Path] = (),
    keys: Keys | None = None,
) -> Inspection:  # fmt: skip
    """Raises BundleRefused, MalformedEnvelope or StatementError where there is nothing that could be shown."""
    found = medium.open_medium(path, keys)
    signed = approvals.gather(found, extra)
    envelope = dsse.decode(signed.envelope)
    statement = Statement.decode(envelope.payload)
    return Inspection(
        statement=statement,
        digest=Digest.of(envelope.payload),
        keyids=tuple(signature.keyid for signature in envelope.signatures),
        approvals=signed.approvals,
        verdict=_verdict(signed, statement, trust, profile) if trust else None,
        volumes=tuple(_volume(found, statement, index) for index in range(len(statement.volumes))),
    )


def _verdict(signed: Signed, statement: Statement, trust: TrustStore, profile: str) -> Verdict:
    try:
        verified = trust.verify(
            signed.envelope,
            payload_type=PAYLOAD_TYPE,
            channel=statement.channel,
            required_profile=profile,
            now=datetime.now(timezone.utc).date(),
        )
    except NotTrusted as error:
        return error.verdict
    return verified.verdict


def _volume(found: Medium, statement: Statement, index: int) -> VolumeState:
    name = layout.volume_name(statement, index)
    size = medium.volume_size(statement, found.envelope, index)
    path = found.find(name)
    if not path.is_file():
        return VolumeState(name=name, size=size, state="missing")
    return VolumeState(name=name, size=size, state="here" if medium.plain_size(path) == size else "size")
