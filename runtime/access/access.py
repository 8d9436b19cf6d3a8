"""Who asks, judged by the file of keys: a key in a header, or the certificate of the connection.

* `Authorization: Bearer KEY` goes before `X-Api-Key: KEY`. Where neither is a key that counts (clients must send
  something), the certificate decides.
* Every entry is compared, in constant time, whether one has matched or not.
* An entry that has expired counts for nothing, and nothing says that it once did.
* The file is read again when it changed. One that is damaged is told in the log and changes nothing: the keys that were
  read last still count. One that has gone leaves no keys.
"""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from pathlib import Path

from native.record import record
from runtime.access.entries import KEY, Entry, hash_of, read
from runtime.access.limits import Limiter
from runtime.errors import RequestRefused, Unauthorized

log = logging.getLogger("sealift.access")

HOW = "send it as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'; sealift's own commands take it from SEALIFT_API_KEY"
MAX_SHOWN = 512  # characters of a header that are looked at


@record(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end of a TLS connection: SHA-256 of its certificate, and its common name."""

    certificate: str
    subject: str


def _utc() -> datetime:
    return datetime.now(timezone.utc)


class Access:
    """Raises RequestRefused when it is made on a file that is damaged."""

    def __init__(
        self, path: Path, *, clock: Callable[[], float] = time.monotonic, now: Callable[[], datetime] = _utc
    ) -> None:
        self.path = path
        self._clock, self._now = clock, now
        self._limiters: dict[str, Limiter] = {}
        self._seen: object = self._state()
        self.entries = read(path)

    def reload(self) -> None:
        """Reads the file again. Never raises."""
        self._seen = self._state()
        try:
            self.entries = read(self.path)
        except RequestRefused as error:
            log.error("the keys stay as they were: %s", error)
            return
        ids = {entry.id for entry in self.entries}
        self._limiters = {id: limiter for id, limiter in self._limiters.items() if id in ids}
        log.info("keys read from %s: %d", self.path, len(self.entries))

    def identify(self, authorization: str, api_key: str, peer: Peer | None = None) -> Entry:
        """Who asks. `authorization`, `api_key`: the headers' values, "" where absent. Raises Unauthorized."""
        if self._state() != self._seen:
            self.reload()
        scheme, _, rest = authorization[:MAX_SHOWN].partition(" ")
        shown = [rest.strip() if scheme.lower() == "bearer" else "", api_key[:MAX_SHOWN].strip()]
        key = next((text for text in shown if KEY.fullmatch(text)), "")
        found = self._match(hash_of(key) if key else "", peer)
        if found is not None and not found.expired(self._now()):
            return found
        if not any(shown):
            raise Unauthorized("this server asks for a key", hint=HOW)
        raise Unauthorized("this is not a key of this server", hint=HOW)

    def admitted(self, entry: Entry) -> AbstractContextManager[None]:
        """Holds a place within the entry's limits. Raises TooManyRequests when it is entered."""
        limiter = self._limiters.get(entry.id)
        if limiter is None or not limiter.same(rate=entry.rate, concurrent=entry.concurrent):
            limiter = Limiter(rate=entry.rate, concurrent=entry.concurrent, clock=self._clock)
            self._limiters[entry.id] = limiter
        return limiter.admitted()

    def _match(self, digest: str, peer: Peer | None) -> Entry | None:
        by_key = by_peer = None
        for entry in self.entries:
            if entry.sha256:
                if hmac.compare_digest(entry.sha256, digest):
                    by_key = entry
            elif peer is not None and peer.certificate:
                same_subject = bool(entry.subject) and hmac.compare_digest(
                    entry.subject.encode(), peer.subject.encode()
                )
                if same_subject or hmac.compare_digest(entry.certificate, peer.certificate):
                    by_peer = entry
        return by_key or by_peer

    def _state(self) -> object:
        """What changes when the file does."""
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
