"""The journal of an export: the signed envelope and the leaf lists, kept from signing until the last volume is written.

    <home>/state/exports/<hash of the request>/statement.dsse.json, <hex of a leaf list>

It lies in the home, beside the keys, and not on the medium: what is taken up again must not come from where others
write.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from bundler import layout
from bundler.cargo import Load
from bundler.draft import Options
from bundler.errors import medium_errors
from bundler.writing import write_file
from manifests import canonical
from manifests.digest import Digest
from manifests.errors import ManifestsError
from manifests.home import home
from manifests.statement import MAX_WHOLE, Statement
from signing import envelope as dsse
from signing.errors import SigningError
from signing.keys import Signer

MAX_ENVELOPE = 16 << 20  # bytes


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
            "verifier": Digest.of(layout.verifier()).hex,
        }
        self._signers = signers
        self._folder = home() / "state" / "exports" / Digest.of(canonical.encode(request)).hex[:32]

    def keep(self, load: Load, statement: Statement, envelope: bytes) -> None:
        with medium_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            for blob in statement.blobs:
                if blob.leaves:
                    write_file(self._folder / blob.leaves.list.hex, load.made[blob.leaves.list])
            write_file(self._folder / layout.ENVELOPE, envelope)

    def take(self, load: Load) -> tuple[Statement, bytes] | None:
        """What an interrupted run signed, if our own signatures on it are good; its leaf lists join the load."""
        try:
            raw = self._read(layout.ENVELOPE, MAX_ENVELOPE)
            envelope = dsse.decode(raw)
            made = {signature.keyid: signature.sig for signature in envelope.signatures}
            keys = [key for signer in self._signers for key in signer.public.keys]
            if not all(key.verify(made.get(key.id, b""), envelope.signed_bytes) for key in keys):
                return None
            statement = Statement.decode(envelope.payload)
            lists = [blob.leaves.list for blob in statement.blobs if blob.leaves]
            found = {digest: self._read(digest.hex, MAX_WHOLE) for digest in lists}
        except (OSError, SigningError, ManifestsError):
            return None
        if any(Digest.of(data) != digest for digest, data in found.items()):
            return None
        load.made.update(found)
        return statement, raw

    def _read(self, name: str, limit: int) -> bytes:
        with (self._folder / name).open("rb") as stream:
            return stream.read(limit + 1)

    def remove(self) -> None:
        with contextlib.suppress(OSError):  # first: without it, what a kill leaves of the rest means nothing
            (self._folder / layout.ENVELOPE).unlink()
        shutil.rmtree(self._folder, ignore_errors=True)
