"""Limits and patience of transfers, as data."""

from __future__ import annotations

SPAN = 32 << 20  # bytes of a blob that one request asks for
JOURNAL_STEP = 1 << 20  # bytes between two lines of a partial file's journal: at most this much is lost to a kill
PARALLEL = 8  # requests for one blob at the same time
UPLOAD_PART = 64 << 20  # bytes of one PATCH
CONNECT_SECONDS = 20.0
STALL_SECONDS = 30.0  # without a byte, after which a request is begun again from where it was
STALL_BYTES = 16 << 10  # fewer than this in STALL_SECONDS is a stall too, and no progress
REPLY_SECONDS = 120.0  # for the whole of a small reply: a manifest, a token, an error
FIRST_RETRIES = 2  # of the first request of all: whoever mistyped a host should not wait a minute
RETRIES = 6  # failures in a row, without a byte of progress between them
BACKOFF_SECONDS = 1.0  # before the first retry; doubled each time
BACKOFF_MOST = 30.0
REDIRECTS = 10
MAX_TOKEN_REPLY = 1 << 20  # bytes
MAX_ERROR_BODY = 64 << 10  # bytes read of an error's text
MAX_ADDRESS = 16 << 10  # bytes of the address of an unfinished upload
MAX_JOURNAL = 64 << 20  # bytes
