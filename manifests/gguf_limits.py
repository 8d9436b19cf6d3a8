"""How much a GGUF file may ask of its reader.

Every number here is checked before memory is taken. The largest metadata met in practice is 16 MB (a vocabulary of
262,144 tokens with 514,906 merges); the most tensors, about 30,000 (expert models stored unmerged).
"""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

MAX_METADATA_BYTES = 256 * MIB  # header, keys and tensor table together
FIRST_READ_BYTES = 2 * MIB  # of a head that is copied; then twice as much, until it ends
MAX_KEYS = 65_536
MAX_KEY_BYTES = 1024
MAX_ARRAY_VALUES = 4 * MIB  # in all arrays together: a list of so many strings is about 250 MB of Python objects
MAX_TENSORS = 262_144
MAX_TENSOR_NAME_BYTES = 63  # ggml keeps names in 64 bytes, the last one zero
MAX_DIMENSIONS = 4
MAX_TENSOR_VALUES = 2**48  # of one tensor; far below the 2**63 where products overflow elsewhere
MIN_ALIGNMENT = 8
MAX_ALIGNMENT = 64 * KIB  # padding is not inspected: it must stay too small to carry anything
DEFAULT_ALIGNMENT = 32

MIN_KEY_ENTRY_BYTES = 8 + 1 + 4 + 1  # name length, one letter, type, the smallest value
MIN_TENSOR_ENTRY_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # name length, one letter, dimensions, one size, type, offset
