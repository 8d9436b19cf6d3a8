"""The journal of an export: the signed envelope, and the blobs that exist in the bundle alone, kept from signing on.

    <home>/state/exports/<hash of the request>/statement.dsse.json, <hex of a blob>    until the last volume is written
    <home>/state/exported/<bundle id>/                                                 the same, afterwards

What is kept afterwards is small (36 bytes for each leaf of 4 MiB) and lets `bundle resend` write any volume again from
the store.
It lies in the home, beside the keys, and not on the medium: what is taken up again must not come from where others
write.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from bundler import cargo, layout
from bundler.cargo import Load
from bundler.draft import Options
from bundler.errors import ExportRefused, medium_errors
from bundler.writing import write_file
from manifests import canonical
from manifests.digest import Digest
from manifests.errors import ManifestsError
from manifests.home import home
from manifests.statement import MAX_WHOLE, Statement
from manifests.store import Store
from signing import envelope as dsse
from signing.errors import SigningError
from signing.keys import Signer

MAX_ENVELOPE = 16 << 20  # bytes
SEALED_MARK = "encrypted"  # a file that says so: what is sent again must not go out in clear


class Journal:
    def __init__(self, load: Load, out: Path, signers: Sequence[Signer], options: Options) -> None:
        """Of this very request: the same models, folder, keys and options."""
        request = {
            "models": [[model.name.full, str(model.manifest)] for model in load.models],
            "folder": str(out.resolve()),
            "keys": sorted(key.id for signer in signers for key in signer.public.keys),
            "options": [
                str(value) for value in (options.volume_size, options.channel, options.sequence, options.label)
            ],
            "more": [str(options.expires), str(options.leaf_size), os.environ.get("SOURCE_DATE_EPOCH", "")],
            "parity": str(options.parity),
            "since": str(options.since),
            **({"sealed": options.sealing.asked} if options.sealing else {}),
            "verifier": Digest.of(layout.verifier()).hex,
        }
        self._signers, self._sealed = signers, options.sealing is not None
        self._folder = home() / "state" / "exports" / Digest.of(canonical.encode(request)).hex[:32]

    def keep(self, load: Load, statement: Statement, envelope: bytes) -> None:
        with medium_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for digest, data in load.made.items():
                write_file(self._folder / digest.hex, data)
            if self._sealed:
                write_file(self._folder / SEALED_MARK, b"")
            write_file(self._folder / layout.ENVELOPE, envelope)

    def take(self, load: Load) -> tuple[Statement, bytes] | None:
        """What an interrupted run signed, if our own signatures on it are good; its leaf lists join the load."""
        try:
            raw = _read(self._folder / layout.ENVELOPE, MAX_ENVELOPE)
            envelope = dsse.decode(raw)
            made = {signature.keyid: signature.sig for signature in envelope.signatures}
            keys = [key for signer in self._signers for key in signer.public.keys]
            if not all(key.verify(made.get(key.id, b""), envelope.signed_bytes) for key in keys):
                return None
            statement = Statement.decode(envelope.payload)
            lists = [blob.leaves.list for blob in statement.blobs if blob.leaves]
            found = {digest: _read(self._folder / digest.hex, MAX_WHOLE) for digest in lists}
        except (OSError, SigningError, ManifestsError):
            return None
        if any(Digest.of(data) != digest for digest, data in found.items()):
            return None
        load.made.update(found)
        return statement, raw

    def retire(self, statement: Statement) -> None:
        """The export is finished: what was kept is kept under the bundle's id."""
        place = home() / "state" / "exported" / statement.id
        shutil.rmtree(place, ignore_errors=True)
        with medium_errors(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            self._folder.rename(place)


def exported(store: Store, bundle_id: str) -> tuple[Load, Statement, bytes] | None:
    """A bundle that was exported here, ready to be written again; None where its blobs were not kept. Raises
    ExportRefused for one that was encrypted."""
    folder = home() / "state" / "exported" / bundle_id
    if (folder / SEALED_MARK).exists():
        raise ExportRefused(
            "this bundle was exported encrypted; its parts would be written in clear",
            hint="export it again with --encrypt, or copy whole volumes again from where they were written",
        )
    try:
        envelope = _read(folder / layout.ENVELOPE, MAX_ENVELOPE)
        statement = Statement.decode(dsse.decode(envelope).payload)
        made = {}
        for blob in statement.blobs:
            if (folder / blob.digest.hex).exists():
                made[blob.digest] = _read(folder / blob.digest.hex, MAX_WHOLE)
    except (OSError, SigningError, ManifestsError):
        return None
    return cargo.again(store, statement, made), statement, envelope


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(limit + 1)
