"""A vocabulary in the native library: token texts and their ids, and byte pair encoding by its merges.

Built from the bytes that a GGUF has. ctypes lets go of the GIL during every call, so other threads run meanwhile. Safe
to share between threads once it has its merges.
"""

from __future__ import annotations

import ctypes
import weakref
from array import array

from native.errors import InputError
from native.library import check, library
from native.memory import address, place

WHOLE_WORDS, CHARACTERS = 1, 2  # sl_words


class RowRefused(InputError):
    """A string of a table that the library refused: `row`, None where it was the table."""

    def __init__(self, message: str, row: int | None) -> None:
        super().__init__(message)
        self.row = row


class Tokens:
    """texts: `count` strings, each a u64 length and its bytes. Raises RowRefused for two tokens of the same text, one
    of more than `most` characters, and strings that are broken or no UTF-8."""

    def __init__(self, texts: memoryview, count: int, *, most: int) -> None:
        self._handle, row = ctypes.c_void_p(), ctypes.c_int32(-1)
        at, size = address(texts), texts.nbytes
        _check(library().sl_tokenizer_create(at, size, count, most, ctypes.byref(row), ctypes.byref(self._handle)), row)
        weakref.finalize(self, library().sl_tokenizer_free, self._handle)
        start, ends = ctypes.c_void_p(), ctypes.c_void_p()
        check(library().sl_tokenizer_texts(self._handle, ctypes.byref(start), ctypes.byref(ends)))
        self._start: int = start.value or 0
        self._ends = (ctypes.c_uint32 * count).from_address(ends.value or 0)

    def __len__(self) -> int:
        return len(self._ends)

    def text(self, index: int) -> bytes:
        begin = self._ends[index - 1] if index else 0
        return ctypes.string_at(self._start + begin, self._ends[index] - begin)

    def texts(self) -> list[bytes]:
        ends = array("I", bytes(self._ends))
        whole = ctypes.string_at(self._start, ends[-1])
        begin, texts = 0, list[bytes]()
        for end in ends:
            texts.append(whole[begin:end])
            begin = end
        return texts

    def find(self, text: bytes) -> int | None:
        """The token of that text."""
        found = ctypes.c_int32()
        check(library().sl_tokenizer_find(self._handle, text, len(text), ctypes.byref(found)))
        return None if found.value < 0 else found.value

    def words(self, mergeable: bytes, starts: array[int], *, whole: bool = False, characters: bool = False) -> None:
        """How words begin, which must be said first. mergeable [n]: 1 where a token may be made of text. starts [256]:
        the tokens of bytes, -1: none. whole: a word whose first tokens spell a token is taken as that. characters: each
        character is its token, or where it has none its bytes are; else each byte is its token."""
        assert len(mergeable) == len(self) and len(starts) == 256 and starts.itemsize == 4
        flags = whole * WHOLE_WORDS | characters * CHARACTERS
        check(library().sl_tokenizer_words(self._handle, mergeable, place(starts), flags))

    def merges(self, merges: memoryview, count: int) -> None:
        """Strings as above, best first, each two parts with a blank between them. Raises RowRefused for a merge that is
        none, or takes or makes a text without a token."""
        row = ctypes.c_int32(-1)
        at, size = address(merges), merges.nbytes
        _check(library().sl_tokenizer_merges(self._handle, at, size, count, ctypes.byref(row)), row)

    def scores(self, scores: array[float], parts: bytes) -> None:
        """Every way to split a token in two tokens is a merge, in the order of the wholes' scores [n], highest first.
        parts [n]: 1 where a token may be split, or be a part. Raises InputError where that is too much work."""
        assert len(scores) == len(parts) == len(self) and scores.typecode == "f"
        check(library().sl_tokenizer_scores(self._handle, place(scores), parts))

    def encode(self, text: bytes, words: array[int]) -> list[int]:
        """Ids of a UTF-8 text. words: characters of each, which together are the text. Raises InputError where they are
        not, or a byte has no token."""
        assert words.itemsize == 4
        ids, count = (ctypes.c_int32 * len(text))(), ctypes.c_int64()
        at, many = place(words), len(words)
        check(library().sl_tokenizer_encode(self._handle, text, len(text), at, many, ids, ctypes.byref(count)))
        return ids[: count.value]


def pass_strings(data: memoryview, count: int) -> tuple[int, int]:
    """How many of `count` strings at the start of `data` are whole and UTF-8, and where the last of those ends."""
    passed, end = ctypes.c_int64(), ctypes.c_int64()
    check(library().sl_strings(address(data), data.nbytes, count, ctypes.byref(passed), ctypes.byref(end)))
    return passed.value, end.value


def _check(status: int, row: ctypes.c_int32) -> None:
    try:
        check(status)
    except InputError as error:
        raise RowRefused(str(error), row.value if row.value >= 0 else None) from None
