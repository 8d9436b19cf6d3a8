"""Where the bytes of a Python buffer lie, for the C side: of a read-only one too, which ctypes itself does not tell.

By the interpreter's own buffer protocol (PEP 3118, `PyObject_GetBuffer`): nothing is copied and nothing is imported.
"""

from __future__ import annotations

import ctypes
from array import array
from typing import Any


class _View(ctypes.Structure):
    """Py_buffer."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        *((name, ctypes.c_ssize_t) for name in ("len", "itemsize")),
        *((name, ctypes.c_int) for name in ("readonly", "ndim")),
        *((name, ctypes.c_void_p) for name in ("format", "shape", "strides", "suboffsets", "internal")),
    )


_get = ctypes.pythonapi.PyObject_GetBuffer
_get.restype, _get.argtypes = ctypes.c_int, (ctypes.py_object, ctypes.c_void_p, ctypes.c_int)
_release = ctypes.pythonapi.PyBuffer_Release
_release.restype, _release.argtypes = None, (ctypes.c_void_p,)


def address(buffer: memoryview) -> int:
    """Of its first byte: good as long as the caller holds the view, which keeps what it shows from going or moving.
    Raises BufferError where its bytes do not lie in a row."""
    view = _View()
    _get(buffer, ctypes.addressof(view), 0)  # PyBUF_SIMPLE; pythonapi raises what it leaves
    found: int = view.buf or 0
    _release(ctypes.addressof(view))
    return found


def place(numbers: array[Any]) -> int:
    """Of an array's first number: good until its length changes."""
    return numbers.buffer_info()[0]


def places(*arrays: array[Any]) -> list[int]:
    return [numbers.buffer_info()[0] for numbers in arrays]
