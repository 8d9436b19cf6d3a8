"""llguidance by its C interface (parser/llguidance.h), which the library of its Python package exports.

Why not by its Python classes: they hold the interpreter's lock while a vocabulary is made into a tree (0.3 s for
49,152 tokens, 1 s for 262,144) and while a grammar is read, and the worker's loop, so everybody's answers, would wait.
ctypes lets the lock go for each call. Nor is the package itself imported, which takes longer than all else here: of its
library alone we know the way, and take `regex_to_lark` from it as well.

Refuses, as ValueError in llguidance's words, a vocabulary or grammar that it refuses. What fails later is told by
False. Invariant: a handle is freed once, when nothing names its object any more; one thread at a time.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import weakref
from array import array
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_bool, c_char_p, c_int32, c_size_t, c_uint32, c_uint64, c_void_p, sizeof
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

from runtime.errors import RuntimeFailure

MAX_ERROR = 4096  # bytes of a message
SPARE = 512  # bytes behind our form of ConstraintInit, for fields that a later version adds: it has no size of its own


class _TokenizerInit(ctypes.Structure):
    """LlgTokenizerInitV2: a later version reads `struct_size` bytes of it."""

    _fields_ = (
        ("struct_size", c_size_t),
        ("vocab_size", c_uint32),
        ("tok_eos", c_uint32),
        ("token_lens", c_void_p),
        ("token_bytes", c_char_p),
        ("tokenizer_json", c_void_p),
        ("tokenize_assumes_string", c_bool),
        ("tokenize_fn", c_void_p),
        ("use_approximate_greedy_tokenize_fn", c_bool),
        ("tokenize_user_data", c_void_p),
        ("slices", c_void_p),
        ("tok_eos_extra", c_void_p),
        ("tok_eos_extra_count", c_uint32),
    )


class _ConstraintInit(ctypes.Structure):
    """LlgConstraintInit, with the fields of its LlgParserLimits."""

    _fields_ = (
        ("tokenizer", c_void_p),
        ("log_buffer_level", c_uint32),
        ("log_stderr_level", c_uint32),
        ("ff_tokens_ok", c_bool),
        ("backtrack_ok", c_bool),
        ("max_items_in_row", c_size_t),
        ("initial_lexer_fuel", c_uint64),
        ("step_lexer_fuel", c_uint64),
        ("step_max_items", c_size_t),
        ("max_lexer_states", c_size_t),
        ("max_grammar_size", c_size_t),
        ("precompute_large_lexemes", c_bool),
        ("verbose_errors", c_bool),
        ("later", ctypes.c_byte * SPARE),
    )


def _module() -> ModuleType:
    """llguidance's library as the Python module that it is too. Raises RuntimeFailure where there is none."""
    name = "llguidance._lib"
    if name in sys.modules:  # by an import of the package
        return sys.modules[name]
    package = importlib.util.find_spec("llguidance")
    for folder in (package.submodule_search_locations or ()) if package else ():
        found = PathFinder.find_spec(name, [folder])
        if found is not None and found.loader is not None:
            module = sys.modules[name] = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
            return module
    raise RuntimeFailure("llguidance has no library _lib here", hint="install sealift again on this machine")


def _library(path: str) -> ctypes.CDLL:
    found = ctypes.CDLL(path)  # open already: no file is opened for it
    for name, gives, takes in (
        ("llg_new_tokenizer_v2", c_void_p, (POINTER(_TokenizerInit), c_char_p, c_size_t)),
        ("llg_free_tokenizer", None, (c_void_p,)),
        ("llg_constraint_init_set_defaults", None, (POINTER(_ConstraintInit), c_void_p)),
        ("llg_new_matcher", c_void_p, (POINTER(_ConstraintInit), c_char_p, c_char_p)),
        ("llg_free_matcher", None, (c_void_p,)),
        ("llg_matcher_get_error", c_char_p, (c_void_p,)),
        ("llg_matcher_compute_mask_into", c_int32, (c_void_p, c_void_p, c_size_t)),
        ("llg_matcher_consume_token", c_int32, (c_void_p, c_uint32)),
        ("llg_matcher_is_stopped", c_bool, (c_void_p,)),
    ):
        function = getattr(found, name)
        function.restype, function.argtypes = gives, takes
    return found


_extension: Any = _module()
_lib: Any = _library(_extension.__file__)
regex_to_lark: Callable[[str, str], str] = _extension.regex_to_lark


class Tokens:
    """A vocabulary as llguidance walks it, and the slices that make masks of texts fast. It never tokenizes: our
    grammars force no token."""

    def __init__(self, text: bytes, lengths: array[int], ends: Sequence[int]) -> None:
        """text: all tokens, one behind the other, MARK (vocabulary.py) before those that are no text; lengths [n]:
        bytes of each, uint32; ends: the ids that end an answer, at least one. Raises ValueError."""
        assert lengths.itemsize == sizeof(c_uint32) and sum(lengths) == len(text)
        more = array("I", ends[1:])
        init = _TokenizerInit(
            struct_size=sizeof(_TokenizerInit),
            vocab_size=len(lengths),
            tok_eos=ends[0],
            token_lens=lengths.buffer_info()[0],
            token_bytes=text,
            use_approximate_greedy_tokenize_fn=True,
            tok_eos_extra=more.buffer_info()[0] if more else None,
            tok_eos_extra_count=len(more),
        )
        said = ctypes.create_string_buffer(MAX_ERROR)
        self.handle = _lib.llg_new_tokenizer_v2(byref(init), said, MAX_ERROR)
        if not self.handle:
            raise ValueError(said.value.decode("utf-8", "replace"))
        weakref.finalize(self, _lib.llg_free_tokenizer, self.handle)


class Parser:
    """One answer under one grammar."""

    def __init__(self, tokens: Tokens, grammar: str, *, lexer_states: int, row_items: int) -> None:
        """grammar: llguidance's JSON, all ASCII. Raises ValueError."""
        self._tokens = tokens  # which must outlive it
        init = _ConstraintInit()
        _lib.llg_constraint_init_set_defaults(byref(init), tokens.handle)
        assert init.tokenizer == tokens.handle and init.verbose_errors, "the header of another llguidance"
        init.log_buffer_level = init.log_stderr_level = 0
        init.max_lexer_states, init.max_items_in_row, init.verbose_errors = lexer_states, row_items, False
        self._handle = _lib.llg_new_matcher(byref(init), b"llguidance", grammar.encode("ascii"))
        weakref.finalize(self, _lib.llg_free_matcher, self._handle)
        if (said := self.error()) is not None:
            raise ValueError(said)

    def error(self) -> str | None:
        said: bytes | None = _lib.llg_matcher_get_error(self._handle)
        return None if said is None else said.decode("utf-8", "replace")

    def fill(self, words: array[int]) -> bool:
        """words [(vocabulary + 31) / 32] of uint32: a bit for each token that may come next."""
        assert words.itemsize == sizeof(c_uint32)
        where, count = words.buffer_info()
        done: int = _lib.llg_matcher_compute_mask_into(self._handle, where, count * sizeof(c_uint32))
        return done == 0

    def consume(self, token: int) -> bool:
        done: int = _lib.llg_matcher_consume_token(self._handle, token)
        return done == 0

    @property
    def stopped(self) -> bool:
        """Nothing may follow, or it has failed."""
        return bool(_lib.llg_matcher_is_stopped(self._handle))
