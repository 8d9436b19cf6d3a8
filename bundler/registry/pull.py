"""Pull: a model from a registry into the store.

Order: 1 the manifest, whose bytes are kept; its digest is checked against the registry's header and against `expect`
· 2 space for what is missing · 3 every blob: one that is there is hashed again, what fails or is missing is fetched, in
ranges side by side, and hashed · 4 the manifest is stored, with a record of where it came from · 5 blobs that only the
replaced manifest named are removed. Running it again after any interruption goes on from where it stopped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timezone
from urllib.parse import urlsplit

from bundler.registry import limits
from bundler.registry.client import RESUME, Registry, read_body
from bundler.registry.errors import Cancelled, NotThere, RegistryError, Unreachable, WrongBytes
from bundler.registry.partial import Partial, Span, allocated, open_partial
from manifests.digest import Digest
from manifests.errors import ManifestsError, NotFound, StoreError
from manifests.manifest import DOCKER_MANIFEST, MAX_MANIFEST, OCI_MANIFEST, Descriptor, Manifest
from manifests.store import Store

ACCEPT = f"{DOCKER_MANIFEST}, {OCI_MANIFEST}"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happens, for people and for /api/pull: a sentence, and for a blob how far it is, in bytes."""

    status: str
    digest: Digest | None = None
    total: int = 0
    completed: int = 0


Observer = Callable[[Report], None]


def pull(store: Store, registry: Registry, observer: Observer, *, expect: Digest | None = None) -> Manifest:
    """Raises RegistryError and the store's errors; the store is whole at every moment."""
    name = registry.name
    observer(Report(status="pulling manifest"))
    manifest = fetch_manifest(registry, expect)
    replaced = store.present(name)
    fetched: list[Descriptor] = []
    for attempts_left in (2, 1, 0):
        fetched += _fetch_missing(store, registry, manifest, observer)
        observer(Report(status="writing manifest"))
        try:
            store.put_manifest(name, manifest.raw)
            break
        except NotFound:  # a model that shared a blob was removed since the blob was seen
            if not attempts_left:
                raise
    store.add_record(
        manifest.digest,
        "pull",
        {
            "time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "name": name.full,
            "source": f"{registry.base}/manifests/{name.tag}",
            "tls_checked": urlsplit(registry.origin).scheme == "https" and not registry.insecure,
            "fetched": [str(blob.digest) for blob in fetched],
        },
    )
    if replaced is not None and replaced.digest != manifest.digest:
        observer(Report(status="removing unused layers"))
        store.drop_unused(replaced)
    observer(Report(status="success"))
    return manifest


def fetch_manifest(registry: Registry, expect: Digest | None = None) -> Manifest:
    """The manifest of the registry's name, its bytes checked against every digest that is known for them."""
    url = f"{registry.base}/manifests/{registry.name.tag}"

    def attempt() -> tuple[bytes, str | None]:
        with registry.request("GET", url, headers={"Accept": ACCEPT}) as response:
            return read_body(response, MAX_MANIFEST), response.headers.get("docker-content-digest")

    try:
        raw, header = registry.retrying(attempt, retries=limits.FIRST_RETRIES)
    except NotThere:
        raise NotThere(
            f"pull model manifest: file does not exist ({registry.name.short} at {registry.name.host})", 404,
            hint="check the spelling and the tag",
        ) from None  # fmt: skip
    try:
        manifest = Manifest.parse(raw)
        claimed = Digest.parse(header) if header else None
    except ManifestsError as error:
        hint = "an index of several images: name one of them by its tag" if OCI_INDEX.encode() in raw else None
        raise WrongBytes(f"{registry.name.host}: {error}", hint=hint) from None
    for digest, source in ((claimed, "the registry's header says"), (expect, "you asked for")):
        if digest is not None and digest != manifest.digest:
            raise WrongBytes(
                f"the manifest of {registry.name.short} has digest {manifest.digest}, but {source} {digest}"
            )
    return manifest


def _fetch_missing(store: Store, registry: Registry, manifest: Manifest, observer: Observer) -> list[Descriptor]:
    """Fetches the blobs that are not there or not sound; returns them."""
    missing = [blob for blob in manifest.blobs() if not _is_sound(store, blob, observer)]
    store.require_space(sum(max(0, blob.size - allocated(store, blob.digest)) for blob in missing))
    for blob in missing:
        _fetch(store, registry, blob, observer)
    return missing


def _is_sound(store: Store, blob: Descriptor, observer: Observer) -> bool:
    """Whether the store has the blob's bytes already. They are hashed: presence and size prove nothing."""
    try:
        store.verify_blob(blob.digest, blob.size)
    except NotFound:
        return False
    except StoreError:  # other bytes, or no plain file, or the disk cannot read it
        observer(Report(status=f"damaged, fetching again {blob.digest.short}"))
        return False
    observer(Report(status=f"pulling {blob.digest.short}", digest=blob.digest, total=blob.size, completed=blob.size))
    return True


def _fetch(store: Store, registry: Registry, blob: Descriptor, observer: Observer) -> None:
    """One blob, by rename into the store. Bytes with another digest are fetched once more, then refused."""

    def report(completed: int) -> None:
        observer(
            Report(status=f"pulling {blob.digest.short}", digest=blob.digest, total=blob.size, completed=completed)
        )

    for _ in range(2):
        with open_partial(store, blob.digest, blob.size) as partial:
            if partial is None:
                if _is_sound(store, blob, observer):
                    return
                continue
            report(partial.completed)
            _Download(registry, blob, partial, report).run()
            observer(Report(status="verifying sha256 digest"))
            if partial.finish(blob.digest):
                return
    raise WrongBytes(
        f"digest mismatch: {registry.name.host} sends other bytes for {blob.digest}",
        hint="the registry, or the way to it, is not to be trusted",
    )


class _Download:
    """Fetches the missing ranges of one blob side by side; where the registry knows no ranges, one after the other."""

    def __init__(self, registry: Registry, blob: Descriptor, partial: Partial, report: Callable[[int], None]) -> None:
        self._registry, self._blob, self._partial, self._report = registry, blob, partial, report
        self._stop = threading.Event()
        self._ranges = True  # until the registry answers a range with the whole blob

    def run(self) -> None:
        spans = self._partial.missing()
        if spans:
            self._span(spans[0])
            rest = spans[1:]
            if rest and not self._ranges:
                rest = [(rest[0][0], self._partial.size - rest[0][0])]
            self._side_by_side(rest)
        if self._partial.missing():
            raise RegistryError(f"{self._blob.digest}: the transfer ended before the blob was whole", hint=RESUME)

    def _side_by_side(self, spans: list[Span]) -> None:
        with ThreadPoolExecutor(max_workers=limits.PARALLEL) as pool:
            futures = [pool.submit(self._span, span) for span in spans]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                failed = [error for future in done if (error := future.exception()) is not None]
                if failed:
                    raise failed[0]
            finally:
                self._stop.set()
                for future in futures:
                    future.cancel()

    def _span(self, span: Span) -> None:
        """One range, begun again from where it was after each failure."""
        offset, length = span
        done = 0

        def keep(data: bytes) -> None:
            nonlocal done
            self._partial.write(offset + done, data)
            done += len(data)
            self._report(self._partial.completed)

        def attempt() -> None:
            self._read(offset + done, length - done, keep)

        self._registry.retrying(attempt, progressed=lambda: done // limits.STALL_BYTES, stopped=self._stop.is_set)

    def _read(self, offset: int, length: int, keep: Callable[[bytes], None]) -> None:
        """Hands the bytes of [offset, offset + length) to `keep`, JOURNAL_STEP at a time; after a failure, the rest."""
        url = f"{self._registry.base}/blobs/{self._blob.digest}"
        headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
        buffer, taken = bytearray(), 0
        with self._registry.request("GET", url, headers=headers, expect=(200, 206)) as response:
            whole = response.status_code == 200
            self._ranges = not whole
            if not whole:
                self._check_range(response.headers.get("content-range", ""), offset, length)
            skip = offset if whole else 0  # a server without ranges sends the blob from its start
            pace = _Pace(self._registry.name.host)
            try:
                for piece in response.iter_raw():
                    if self._stop.is_set():
                        raise Cancelled("the transfer was cancelled")
                    pace.add(len(piece))
                    dropped = min(skip, len(piece))
                    skip -= dropped
                    new = piece[dropped:][: length - taken]
                    if not whole and len(new) < len(piece):
                        raise WrongBytes(
                            f"{self._registry.name.host} sent more than the {length} bytes it was asked for"
                        )
                    buffer += new
                    taken += len(new)
                    if len(buffer) >= limits.JOURNAL_STEP:
                        data, buffer = bytes(buffer), bytearray()  # `keep` may raise, and must not see these again
                        keep(data)
                    if taken == length:
                        break
            finally:
                if buffer:
                    keep(bytes(buffer))
        if taken < length:
            raise Unreachable(
                f"{self._blob.digest}: {self._registry.name.host} sent {taken} of {length} bytes", hint=RESUME
            )

    def _check_range(self, header: str, offset: int, length: int) -> None:
        expected = f"bytes {offset}-{offset + length - 1}/"
        if not header.startswith(expected):
            raise WrongBytes(f"{self._registry.name.host} answered the range {expected[6:-1]} with {header[:80]!r}")


class _Pace:
    """Notices a connection that still sends, but next to nothing: another one may be faster."""

    def __init__(self, host: str) -> None:
        self._host, self._since, self._count = host, time.monotonic(), 0

    def add(self, count: int) -> None:
        self._count += count
        now = time.monotonic()
        if self._count >= limits.STALL_BYTES:
            self._since, self._count = now, 0
        elif now - self._since > limits.STALL_SECONDS:
            raise Unreachable(f"{self._host}: {self._count} bytes in {now - self._since:.0f} seconds", hint=RESUME)
