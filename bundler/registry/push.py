"""Push: a model of the store to a registry (distribution spec, "Pushing"; Ollama's registry takes the same).

Order: 1 every blob's bytes are hashed · 2 a blob the registry lacks is uploaded in parts of UPLOAD_PART; after a
failure the registry is asked how far it got, also by the next run after a kill · 3 the manifest goes last, byte for
byte, and its digest is compared with the answer's.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator

from bundler.registry import limits
from bundler.registry.client import Registry
from bundler.registry.errors import NotThere, RegistryRefused, WrongBytes
from bundler.registry.pull import Observer, Report
from manifests.digest import Digest, chunks
from manifests.manifest import Descriptor, Manifest
from manifests.name import ModelName
from manifests.store import Store


def push(store: Store, source: ModelName, registry: Registry, observer: Observer) -> Manifest:
    """Pushes the model `source` under the registry's name. Raises RegistryError and the store's errors."""
    observer(Report(status="retrieving manifest"))
    manifest = store.manifest(source)
    for blob in manifest.blobs():
        store.verify_blob(blob.digest, blob.size)
    for blob in manifest.blobs():
        if not registry.retrying(lambda blob=blob: _has(registry, blob), retries=limits.FIRST_RETRIES):  # type: ignore[misc]
            _Upload(store, registry, blob, observer).run()
        _report(observer, blob, blob.size)
    observer(Report(status="pushing manifest"))
    registry.retrying(lambda: _put_manifest(registry, manifest))
    observer(Report(status="success"))
    return manifest


def _report(observer: Observer, blob: Descriptor, completed: int) -> None:
    observer(Report(status=f"pushing {blob.digest.short}", digest=blob.digest, total=blob.size, completed=completed))


def _has(registry: Registry, blob: Descriptor) -> bool:
    try:
        with registry.request("HEAD", f"{registry.base}/blobs/{blob.digest}") as response:
            return response.headers.get("content-length") in (None, str(blob.size))
    except NotThere:
        return False


def _put_manifest(registry: Registry, manifest: Manifest) -> None:
    url = f"{registry.base}/manifests/{registry.name.tag}"
    headers = {"Content-Type": manifest.media_type}
    with registry.request("PUT", url, headers=headers, body=manifest.raw, expect=(200, 201)) as response:
        header = response.headers.get("docker-content-digest")
    if header is not None and header != str(manifest.digest):
        raise WrongBytes(f"{registry.name.host} stored the manifest as {header[:80]!r}, expected {manifest.digest}")


class _Address:
    """Where an unfinished upload goes on: a file beside the store, for the run after a kill.

    A store that cannot be written forgets it, and the next run uploads the blob from its start.
    """

    def __init__(self, store: Store, registry: Registry, blob: Descriptor) -> None:
        self._registry = registry
        name = Digest.of(f"{registry.base} {blob.digest}".encode()).hex
        self._path = store.private / "uploads" / name

    def read(self) -> str | None:
        try:
            with self._path.open("rb") as stream:
                text = stream.read(limits.MAX_ADDRESS).decode("ascii")
            return self._registry.follow(self._registry.base, text)
        except (OSError, ValueError, WrongBytes):
            return None

    def write(self, url: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
            temporary.write_text(url, encoding="ascii")
            temporary.replace(self._path)

    def forget(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


class _Upload:
    """One blob. `_url` is where the next part goes, `_offset` how many bytes the registry has."""

    def __init__(self, store: Store, registry: Registry, blob: Descriptor, observer: Observer) -> None:
        self._store, self._registry, self._blob, self._observer = store, registry, blob, observer
        self._address = _Address(store, registry, blob)
        self._url = self._address.read()
        self._offset = 0

    def run(self) -> None:
        try:
            self._registry.retrying(self._attempt, progressed=lambda: self._offset)
        except (RegistryRefused, WrongBytes):
            self._address.forget()  # it may be the address that is refused
            raise
        self._address.forget()

    def _attempt(self) -> None:
        if self._url is None or not self._ask_offset():
            self._begin()
        while self._offset < self._blob.size:
            self._part(min(limits.UPLOAD_PART, self._blob.size - self._offset))
        self._end()

    def _begin(self) -> None:
        url = f"{self._registry.base}/blobs/uploads/"
        with self._registry.request("POST", url, body=b"", expect=(202,)) as response:
            self._follow(url, response.headers.get("location", ""))
        self._offset = 0

    def _ask_offset(self) -> bool:
        """After a failure: how far the registry got. False where it forgot the upload."""
        assert self._url is not None
        try:
            with self._registry.request("GET", self._url, expect=(204,)) as response:
                match = re.fullmatch(r"(?:bytes=)?0-(\d{1,18})", response.headers.get("range", ""))
                # "0-0" may mean no byte or one (docker-registry says it for none): no byte is the safe reading
                self._offset = int(match[1]) + 1 if match and match[1] != "0" else 0
                self._follow(self._url, response.headers.get("location", self._url))
        except RegistryRefused as error:
            if error.temporary:
                raise
            return False
        return 0 < self._offset <= self._blob.size

    def _part(self, length: int) -> None:
        assert self._url is not None
        start = self._offset
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length),
            "Content-Range": f"{start}-{start + length - 1}",
        }
        url = self._url
        with self._registry.request(
            "PATCH", url, headers=headers, body=lambda: self._bytes(start, length), expect=(202, 204)
        ) as response:
            self._follow(url, response.headers.get("location", url))
        self._offset = start + length
        _report(self._observer, self._blob, self._offset)

    def _bytes(self, start: int, length: int) -> Iterator[bytes]:
        with self._store.open_blob(self._blob.digest) as stream:
            stream.seek(start)
            yield from chunks(stream, length)

    def _end(self) -> None:
        assert self._url is not None
        url = f"{self._url}{'&' if '?' in self._url else '?'}digest={self._blob.digest}"
        with self._registry.request("PUT", url, body=b"", expect=(200, 201, 204)) as response:
            header = response.headers.get("docker-content-digest")
        if header is not None and header != str(self._blob.digest):
            raise WrongBytes(f"{self._registry.name.host} stored {header[:80]!r}, expected {self._blob.digest}")

    def _follow(self, url: str, location: str) -> None:
        if not location:
            raise WrongBytes(f"{self._registry.name.host} did not say where to upload to")
        self._url = self._registry.follow(url, location)
        self._address.write(self._url)
