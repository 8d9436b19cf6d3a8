"""What `bundle export --since` names: an earlier bundle, or an inventory. Who said so is checked before it is used.

    an id, or its first 8 digits or more    a bundle that this host exported: <home>/state/exported/<id>
    a folder, or one of its volumes         the statement of the bundle that lies there, signed by a publisher that this
                                            host trusts, or by a key that signs the new bundle
    a file                                  an inventory, signed by a receiver that this host trusts

A wrong answer costs a transfer and lets nothing in: the other side checks what it is supposed to have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from bundler.delta import OtherSide
from bundler.errors import BadRequest, InventoryRefused, MediumUnavailable, medium_errors
from bundler.inventory import MAX_INVENTORY, PAYLOAD_TYPE, Inventory, Known
from bundler.medium import VOLUME, open_medium
from manifests.digest import Digest
from manifests.errors import ManifestsError
from manifests.home import home
from manifests.leaves import LEAF_SIZE, LeafList
from manifests.manifest import DOCKER_MANIFEST, OCI_MANIFEST
from manifests.statement import LEAVES_TYPE, MAX_WHOLE, PATCH_TYPE, SCAN_TYPE, Blob, Since, Statement
from manifests.statement import PAYLOAD_TYPE as STATEMENT_PAYLOAD
from signing import envelope as dsse
from signing.errors import MalformedEnvelope, SigningError
from signing.keys import Signer
from signing.trust import TrustStore

MAX_ENVELOPE = 16 << 20  # bytes
RECEIVER = "receiver"  # the role whose signature an inventory needs
_ID = re.compile(r"[0-9a-f]{8,32}")
_NOT_KEPT = (DOCKER_MANIFEST, OCI_MANIFEST, LEAVES_TYPE, PATCH_TYPE, SCAN_TYPE)  # these are no blobs of a store


def other_side(text: str, trust: TrustStore, signers: Sequence[Signer], *, unsigned: bool = False) -> OtherSide:
    """`text` as above; `signers`: of the bundle that is to be made; `unsigned`: take an inventory that nobody signed.
    Raises BadRequest, InventoryRefused, NotTrusted, and what reading a bundle raises."""
    path = Path(text)
    if path.is_dir() or VOLUME.fullmatch(path.name):
        return _of_statement(_published(open_medium(path).envelope, trust, signers))
    if path.is_file():
        return _of_inventory(read_inventory(path, trust, unsigned=unsigned))
    if _ID.fullmatch(text):
        return _of_statement(_exported(text))
    raise BadRequest(
        f"--since {text[:80]!r}: no bundle that was exported here, no folder with volumes and no file",
        hint="name a bundle's folder or id (bundle inspect shows it), or the file that sealift inventory wrote",
    )


def _exported(text: str) -> Statement:
    place = home() / "state" / "exported"
    found = sorted(path for path in place.glob(f"{text}*") if path.is_dir())  # `text` is hex digits alone
    if len(found) != 1:
        raise BadRequest(
            f"--since {text}: {len(found)} bundles with this id were exported here",
            hint="name the folder of the bundle, or an inventory of the other side",
        )
    return Statement.decode(dsse.decode(_read(found[0] / "statement.dsse.json", MAX_ENVELOPE)).payload)


def _published(raw: bytes, trust: TrustStore, signers: Sequence[Signer]) -> Statement:
    envelope = dsse.decode(raw)
    made = {signature.keyid: signature.sig for signature in envelope.signatures}
    for signer in signers:
        keys = signer.public.keys
        own = envelope.payload_type == STATEMENT_PAYLOAD
        if own and all(key.verify(made.get(key.id, b""), envelope.signed_bytes) for key in keys):
            return Statement.decode(envelope.payload)
    verified = trust.verify(
        raw,
        payload_type=STATEMENT_PAYLOAD,
        roles=["publisher"],
        channel=lambda payload: Statement.decode(payload).channel,
        now=datetime.now(timezone.utc).date(),
    )
    return Statement.decode(verified.payload)


def _of_statement(statement: Statement) -> OtherSide:
    """All blobs that an import of it left in the store; a base may have gone since."""
    bases = {blob.built.base for blob in statement.built if blob.built}
    kept = home() / "state" / "exported" / statement.id
    return OtherSide(
        since=Since(kind="bundle", id=statement.id),
        blobs={
            blob.digest: Known(size=blob.size, sha512=blob.sha512, leaves=_leaves(kept, blob))
            for blob in statement.blobs
            if blob.media_type not in _NOT_KEPT and blob.digest not in bases
        },
    )


def _leaves(kept: Path, blob: Blob) -> LeafList | None:
    """The leaf list that was kept with the export; None where it was not, or has leaves of another size."""
    if blob.leaves is None or blob.leaves.size != LEAF_SIZE:
        return None
    try:
        raw = _read(kept / blob.leaves.list.hex, MAX_WHOLE)
        if Digest.of(raw) != blob.leaves.list:
            return None
        return LeafList.decode(raw, size=blob.size, leaf_size=LEAF_SIZE)
    except (MediumUnavailable, ManifestsError):
        return None


def read_inventory(path: Path, trust: TrustStore | None, *, unsigned: bool = False) -> Inventory:
    """`trust` None: only to look at it, whoever signed."""
    raw = _read(path, MAX_ENVELOPE)
    try:
        envelope = dsse.decode(raw)
    except MalformedEnvelope:
        if len(raw) > MAX_INVENTORY or not raw.startswith(b"{") or raw.startswith(b'{"payload"'):
            raise InventoryRefused(f"{path}: not an inventory") from None
        found = Inventory.decode(raw)
        if trust is not None and not unsigned:
            raise InventoryRefused(
                f"{path}: nobody signed this inventory",
                hint="sealift inventory --sign NAME on the other side, or --allow-unsigned-inventory",
            ) from None
        return found
    if envelope.payload_type != PAYLOAD_TYPE:
        raise InventoryRefused(f"{path}: not an inventory but {envelope.payload_type}")
    if trust is None or unsigned:
        return Inventory.decode(envelope.payload)
    verified = trust.verify(raw, payload_type=PAYLOAD_TYPE, roles=[RECEIVER], now=datetime.now(timezone.utc).date())
    return Inventory.decode(verified.payload)


def keyids(path: Path) -> tuple[str, ...]:
    """Whose signatures an inventory carries, unchecked."""
    try:
        return tuple(signature.keyid for signature in dsse.decode(_read(path, MAX_ENVELOPE)).signatures)
    except SigningError:
        return ()


def _of_inventory(found: Inventory) -> OtherSide:
    return OtherSide(since=Since(kind="inventory", id=found.id), blobs=found.blobs)


def _read(path: Path, limit: int) -> bytes:
    with medium_errors(path), path.open("rb") as stream:
        raw = stream.read(limit + 1)
    if len(raw) > limit:
        raise InventoryRefused(f"{path}: more than {limit:,} bytes")
    return raw
