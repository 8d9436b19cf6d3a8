"""Files in the shape of Llama-3.2-1B or Mistral-7B with random weights, in any common format: `--model made:1b-q4_k_m`.

Speed depends on shapes and formats, not on what the numbers mean; the values only stay in a sane range. The mixtures
(_M) keep in Q6_K what their makers keep: the vocabulary, and values and down projections in about half of the layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    ff: int
    vocab: int


SHAPES = {
    "1b": Shape(layers=16, width=2048, heads=32, kv_heads=8, head=64, ff=8192, vocab=128256),
    "7b": Shape(layers=32, width=4096, heads=32, kv_heads=8, head=128, ff=14336, vocab=32768),
}
FORMATS = ("Q4_0", "Q4_1", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K", "F16", "BF16")
# Fields of one block in the file's order: bytes of random bits, or a float16 that is the given part of the deviation.
BLOCKS: dict[Type, tuple[int, tuple[int | float, ...]]] = {
    Type.Q4_0: (32, (1 / 4.6, 16)),
    Type.Q4_1: (32, (1 / 4.6, -7.5 / 4.6, 16)),
    Type.Q8_0: (32, (1 / 74, 32)),
    Type.Q4_K: (256, (1 / 324, 7.5 / 324, 12, 128)),
    Type.Q5_K: (256, (1 / 669, 15.5 / 669, 12, 160)),
    Type.Q6_K: (256, (208, 1 / 1369)),
}


def made(folder: Path, name: str) -> Path:
    """The file of `1b-FORMAT` or `7b-FORMAT`, made at the first call. Raises SystemExit for other names."""
    size, _, kind = name.partition("-")
    if size not in SHAPES or kind.upper() not in FORMATS:
        known = f"made:1b- or made:7b- and one of {', '.join(FORMATS).lower()}"
        raise SystemExit(f"bench: made:{name} is not known; expected {known}")
    path = folder / f"{size}-{kind.upper()}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write(path.with_suffix(".part"), kind.upper(), SHAPES[size])
        path.with_suffix(".part").rename(path)
    return path


def write(path: Path, kind: str, shape: Shape) -> None:
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(shape.layers)
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ff)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(shape.head)
    writer.add_vocab_size(shape.vocab)
    _add_vocabulary(writer, shape.vocab)
    for name, (rows, cols) in tensors(shape).items():
        if rows == 1:
            writer.add_tensor(name, np.ones(cols, np.float32))
        elif kind in ("F16", "BF16"):
            values = rng.standard_normal((rows, cols), np.float32) / np.float32(np.sqrt(cols))
            writer.add_tensor(name, gguf.quants.quantize(values, Type[kind]), raw_dtype=Type[kind])
        else:
            chosen = kind_of(name, kind, shape.layers)
            writer.add_tensor(name, blocks(chosen, rows, cols, rng), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensors(shape: Shape) -> dict[str, tuple[int, int]]:
    """Tensor name -> rows, cols. The output matrix is the vocabulary's (tied)."""
    width, ff, kv = shape.width, shape.ff, shape.kv_heads * shape.head
    layer = {
        "attn_norm": (1, width), "attn_q": (width, width), "attn_k": (kv, width), "attn_v": (kv, width),
        "attn_output": (width, width), "ffn_norm": (1, width), "ffn_gate": (ff, width), "ffn_up": (ff, width),
        "ffn_down": (width, ff),
    }  # fmt: skip
    all_layers = {f"blk.{n}.{name}.weight": sides for n in range(shape.layers) for name, sides in layer.items()}
    return {"token_embd.weight": (shape.vocab, width), "output_norm.weight": (1, width), **all_layers}


def kind_of(name: str, kind: str, layers: int) -> Type:
    if not kind.endswith("_M"):
        return Type[kind]
    if name == "token_embd.weight":
        return Type.Q6_K
    layer = int(name.split(".")[1])
    more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    return Type.Q6_K if more and name.endswith(("attn_v.weight", "ffn_down.weight")) else Type[kind[:-2]]


def blocks(kind: Type, rows: int, cols: int, rng: np.random.Generator) -> Bytes:
    """[rows, row bytes] of values with a deviation near 1 / sqrt(cols)."""
    size, fields = BLOCKS[kind]
    count = rows * cols // size
    parts: list[Bytes] = []
    for field in fields:
        if isinstance(field, int):
            parts.append(rng.integers(0, 256, (count, field), np.uint8))
        else:
            parts.append(np.full((count, 1), field / np.sqrt(cols), np.float16).view(np.uint8))
    return np.concatenate(parts, axis=1).reshape(rows, -1)


def _add_vocabulary(writer: gguf.GGUFWriter, vocab: int) -> None:
    """Byte-level BPE of the right size; all that is asked of it is that it loads."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [chr(256 + n) for n in range(256 - len(printable))]
    words = [*map(chr, printable), *hidden]
    words += [f"word{n}" for n in range(vocab - len(words) - 1)] + ["<|end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([1] * (vocab - 1) + [3])
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(vocab - 1)
    writer.add_bos_token_id(vocab - 1)
    writer.add_add_bos_token(False)
