"""Finds and loads libsealift.so, and refuses one whose structs are not those below.

Looked for in `SEALIFT_NATIVE_LIBRARY` (a path), then in the folders of the package `native`, where the build puts it.
The classes mirror `sealift.h` field by field; `library()` compares every offset and size with what the library says of
itself (`sl_layout`), so a stale build cannot read a batch wrongly. ctypes lets go of the GIL during every call.
"""

from __future__ import annotations

import ctypes
import functools
import os

import native
from native import errors

ABI = 4  # SL_ABI
BLOCK = 32  # SL_BLOCK: tokens in one key/value block
MAX_TOP = 20  # SL_MAX_TOP
NONE = -1  # SL_NONE
NAME = "libsealift.so"

# sl_isa
ISAS = {"best": 0, "portable": 1, "avx2": 2, "avx512-vnni": 3, "avx512-amx": 4}
# sl_config.kv_type, numbers of sl_type
KV_TYPES = {"f16": 1, "q8_0": 8}

_i32, _i64, _u64, _f32, _p = ctypes.c_int32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_float, ctypes.c_void_p


class SlTensor(ctypes.Structure):
    _fields_ = (("data", _p), ("size", _u64), ("rows", _i64), ("cols", _i64), ("type", _i32), ("packed", _i32))


class SlOp(ctypes.Structure):
    _fields_ = (
        *((name, _i32) for name in ("kind", "out", "a", "b", "c", "weight", "bias")),
        ("i", _i32 * 5),
        ("f", _f32 * 2),
    )


class SlConfig(ctypes.Structure):
    _fields_ = tuple(
        (name, _i32) for name in ("threads", "n_blocks", "max_rows", "max_seqs", "max_outputs", "isa", "kv_type")
    )


class SlSampling(ctypes.Structure):
    _fields_ = (
        ("seed", _u64),
        *((name, _p) for name in ("history", "mask", "bias_ids", "bias_values")),
        *((name, _i32) for name in ("n_history", "n_bias", "top_k", "top_logprobs")),
        *((name, _f32) for name in ("temperature", "top_p", "min_p", "typical_p")),
        *((name, _f32) for name in ("repeat_penalty", "presence_penalty", "frequency_penalty")),
    )


class SlBatch(ctypes.Structure):
    _fields_ = (
        *((name, _p) for name in ("tokens", "row_start", "start_pos", "blocks", "out_rows", "sampling")),
        *((name, _p) for name in ("out_tokens", "out_logprobs", "top_ids", "top_logprobs", "logits")),
        *((name, _i32) for name in ("n_rows", "n_seqs", "n_outputs", "table_width")),
    )


class SlInfo(ctypes.Structure):
    _fields_ = (
        *((name, _i64) for name in ("weight_bytes", "kv_bytes", "scratch_bytes", "bytes_per_block")),
        *((name, _i32) for name in ("vocab", "layers", "threads", "isa", "width")),
    )


class SlRates(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_double) for name in ("read_bytes", "integer_ops", "float_ops", "bf16_ops")),
        ("instruction", ctypes.c_char * 16),
    )


class SlSha256(ctypes.Structure):
    _fields_ = (("state", ctypes.c_uint32 * 8), ("length", _u64), ("rest", ctypes.c_uint8 * 64))


STRUCTS: dict[str, type[ctypes.Structure]] = {
    "sl_tensor": SlTensor,
    "sl_op": SlOp,
    "sl_config": SlConfig,
    "sl_sampling": SlSampling,
    "sl_batch": SlBatch,
    "sl_info": SlInfo,
    "sl_rates": SlRates,
    "sl_sha256": SlSha256,
}

_PROTOTYPES: dict[str, tuple[object, tuple[object, ...]]] = {
    "sl_abi": (_i32, ()),
    "sl_last_error": (ctypes.c_char_p, ()),
    "sl_layout": (ctypes.c_char_p, ()),
    "sl_isa_name": (ctypes.c_char_p, (_i32,)),
    "sl_isa_supported": (_i32, (_i32,)),
    "sl_create": (ctypes.c_int, (_p, _i32, _p, _i32, _p, _p)),
    "sl_measure": (ctypes.c_int, (_p, _i32, _p, _i32, _p, _p)),
    "sl_free": (None, (_p,)),
    "sl_step": (ctypes.c_int, (_p, _p)),
    "sl_choose": (ctypes.c_int, (_p, _p)),
    "sl_get_info": (ctypes.c_int, (_p, _p)),
    "sl_op_times": (ctypes.c_int, (_p, _p, _i32)),
    "sl_limits": (ctypes.c_int, (_i32, _i64, _p)),
    "sl_packed_bytes": (ctypes.c_int, (_p, _i32, _p)),
    "sl_pack": (ctypes.c_int, (_p, _i32, _i32, _p)),
    "sl_sha256_supported": (_i32, ()),
    "sl_sha256_begin": (ctypes.c_int, (_p,)),
    "sl_sha256_update": (ctypes.c_int, (_p, _i32, _p, _i64)),
    "sl_sha256_digest": (ctypes.c_int, (_p, _p)),
    "sl_sha256_pieces": (ctypes.c_int, (_p, _i64, _i64, _p)),
    "sl_gf256_combine": (ctypes.c_int, (_p, _i32, _i32, _p, _p, _i64, _i32)),
    "sl_strings": (ctypes.c_int, (_p, _i64, _i64, _p, _p)),
    "sl_tokenizer_create": (ctypes.c_int, (_p, _i64, _i32, _i32, _p, _p)),
    "sl_tokenizer_free": (None, (_p,)),
    "sl_tokenizer_texts": (ctypes.c_int, (_p, _p, _p)),
    "sl_tokenizer_find": (ctypes.c_int, (_p, _p, _i64, _p)),
    "sl_tokenizer_words": (ctypes.c_int, (_p, _p, _p, _i32)),
    "sl_tokenizer_merges": (ctypes.c_int, (_p, _p, _i64, _i32, _p)),
    "sl_tokenizer_scores": (ctypes.c_int, (_p, _p, _p)),
    "sl_tokenizer_encode": (ctypes.c_int, (_p, _p, _i64, _p, _i64, _p, _p)),
    "sl_linear": (ctypes.c_int, (_p, _i32, _i32, _p, _i32, _p)),
    "sl_dequantize": (ctypes.c_int, (_p, _p)),
    "sl_sample": (ctypes.c_int, (_p, _i32, _p, _i32, _p, _p, _p, _p)),
}


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library, checked once. Raises LibraryError."""
    path = find()
    try:
        loaded = ctypes.CDLL(path)
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(loaded, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise errors.LibraryError(
            f"cannot load {path}: {error}", hint="install sealift again on this machine"
        ) from error
    if loaded.sl_abi() != ABI:
        raise errors.LibraryError(f"{path} speaks ABI {loaded.sl_abi()}, expected {ABI}", hint="build native/ again")
    difference = compare(loaded.sl_layout().decode())
    if difference:
        raise errors.LibraryError(f"{path} was built from another sealift.h: {difference}", hint="build native/ again")
    return loaded


def find() -> str:
    """Where the library lies. Raises LibraryError."""
    chosen = os.environ.get("SEALIFT_NATIVE_LIBRARY")
    places = [chosen] if chosen else [os.path.join(folder, NAME) for folder in native.__path__]
    for place in places:
        if os.path.isfile(place):
            return place
    looked = ", ".join(places)
    raise errors.LibraryError(
        f"the native engine is not there; looked for {looked}",
        hint="install sealift with pip, or build native/ with CMake and name the result in SEALIFT_NATIVE_LIBRARY",
    )


def compare(layout: str) -> str:
    """The first difference between the library's structs and ours, "" if there is none."""
    theirs = dict(line.split(" ", 1) for line in layout.splitlines())
    ours = {}
    for name, struct in STRUCTS.items():
        ours[name] = f"0 {ctypes.sizeof(struct)}"
        for field in struct._fields_:
            place = getattr(struct, field[0])
            ours[f"{name}.{field[0]}"] = f"{place.offset} {place.size}"
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            return f"{name} (offset and size) is {theirs.get(name)} there, {ours.get(name)} here"
    return ""


def check(status: int) -> None:
    """Turns a status that is not SL_OK into an error with the library's sentence."""
    if status == 0:
        return
    text = (library().sl_last_error() or b"").decode("utf-8", "replace")
    kinds = {1: errors.InputError, 2: errors.UnsupportedError, 3: errors.MemoryShortError}
    raise kinds.get(status, errors.NativeError)(text)


def isa_names() -> list[str]:
    """The instruction sets this machine and this build can run, without "best"."""
    return [name for name, number in ISAS.items() if number and library().sl_isa_supported(number)]
