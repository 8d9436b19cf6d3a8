"""SHA-256 of the same bytes for several hashes, side by side in one call: two take half as long again as one.

Needs a processor with the SHA extensions; its slow twin is hashlib, which callers use where `side_by_side` gives None.
One thread at a time may be inside a hash; other threads run meanwhile, since ctypes lets go of the GIL.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Sequence

from native.errors import LibraryError
from native.library import SlSha256, check, library
from native.memory import address

Bytes = bytes | bytearray | memoryview

MAX_TOGETHER = 16  # SL_MAX_STREAMS
_PROBE = bytes(range(256)) * 3  # hashed in two pieces, the second of which begins inside a block


class Sha256:
    """As `hashlib.sha256()`. Raises UnsupportedError on other processors."""

    __slots__ = ("_stream",)

    name, digest_size, block_size = "sha256", 32, 64

    def __init__(self, data: Bytes = b"") -> None:
        self._stream = SlSha256()
        check(library().sl_sha256_begin(ctypes.byref(self._stream)))
        self.update(data)

    def update(self, data: Bytes) -> None:
        self.together([self], data)

    def digest(self) -> bytes:
        found = ctypes.create_string_buffer(self.digest_size)
        check(library().sl_sha256_digest(ctypes.byref(self._stream), found))
        return found.raw

    def hexdigest(self) -> str:
        return self.digest().hex()

    @staticmethod
    def together(hashes: Sequence[Sha256], data: Bytes) -> None:
        """Updates all of them; each may stand at another place. Raises InputError where one comes twice, and for more
        than `MAX_TOGETHER`."""
        view = memoryview(data).cast("B")
        if not hashes or not view.nbytes:
            return
        streams = (ctypes.c_void_p * len(hashes))(*(ctypes.addressof(one._stream) for one in hashes))
        check(library().sl_sha256_update(streams, len(hashes), address(view), view.nbytes))


@functools.cache
def side_by_side() -> type[Sha256] | None:
    """`Sha256`, where the library and the processor have it, and it says what hashlib says; None elsewhere."""
    try:
        if not library().sl_sha256_supported():
            return None
    except LibraryError:
        return None
    hashes = [Sha256(), Sha256(b"\x00"), Sha256(b"\x01")]
    for piece in (_PROBE[:100], _PROBE[100:]):
        Sha256.together(hashes, piece)
    wanted = [hashlib.sha256(first + _PROBE).digest() for first in (b"", b"\x00", b"\x01")]
    return Sha256 if [one.digest() for one in hashes] == wanted else None
