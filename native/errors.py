"""The errors of this room.

NativeError             70 / 500   base; raised bare for a fault of ours (SL_INTERNAL among them)
├── PlanError            1 / 500   a plan, or a tensor bound to it, contradicts itself
├── InputError           1 / 400   the engine refused a plan, a batch or a sampling option (SL_INVALID)
│   └── RowRefused       1 / 400   … a row of a table of strings (native.tokenizer)
├── UnsupportedError     1 / 501   a weight type or an instruction set this build or CPU lacks (SL_UNSUPPORTED)
├── MemoryShortError     4 / 503   the engine could not get its memory (SL_NOMEM)
└── LibraryError         4 / 503   libsealift.so is absent, cannot be loaded, or was built from another header
"""

from __future__ import annotations


class NativeError(Exception):
    exit_code = 70
    http_status = 500

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class PlanError(NativeError):
    exit_code = 1


class InputError(NativeError):
    exit_code = 1
    http_status = 400


class UnsupportedError(NativeError):
    exit_code = 1
    http_status = 501


class MemoryShortError(NativeError):
    exit_code = 4
    http_status = 503


class LibraryError(NativeError):
    exit_code = 4
    http_status = 503
