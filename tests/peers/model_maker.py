"""Makes small random GGUF models: any architecture the runtime knows, any number format the engine knows, by seed.

Written with the `gguf` package's own writer, so that what our reader sees comes from somebody else. The same arguments
give the same bytes. The vocabulary is a real one, if tiny: all 256 bytes, some merges, and control tokens, as a
byte-level BPE (llama, qwen2, qwen3) or a SentencePiece-like table (the gemmas, phi3).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as Type

from manifests.gguf import Gguf

Floats = npt.NDArray[np.float32]
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3")
QUANTS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K_M", "Q5_K_M", "Q6_K")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """The shape of a made model. K-quants need `width`, `ff` and heads * head_dim to be multiples of 256."""

    layers: int = 2
    width: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    ff: int = 96
    context: int = 512
    window: int = 8  # gemma2, gemma3

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim


SMALL = Size()
SMALL_K = Size(width=256, heads=4, kv_heads=2, head_dim=64, ff=512)


def make_model(
    path: Path,
    arch: str = "llama",
    *,
    quant: str = "F32",
    size: Size | None = None,
    seed: int = 0,
    tied: bool = True,
    rope_factors: bool = False,
    metadata: dict[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
    spare: dict[str, tuple[int, ...]] | None = None,
) -> Path:
    """Writes a model to `path` and returns it.

    `metadata` adds keys (int, float, bool, str or a list of these) or, with None, removes one. `leave_out` drops
    tensors; `spare` adds F32 tensors of zeros, of a numpy shape. `tied` leaves out `output.weight`.
    """
    size = size or (SMALL_K if "_K" in quant or quant.startswith("TQ") else SMALL)
    rng = np.random.default_rng([seed, ARCHITECTURES.index(arch)])
    writer = gguf.GGUFWriter(path, arch)
    tokens = _spm_tokens() if arch in ("gemma", "gemma2", "gemma3", "phi3") else _bpe_tokens()
    keys = {**_model_keys(arch, size), **tokens, "general.file_type": _file_type(quant), **(metadata or {})}
    for key, value in keys.items():
        if value is not None:
            _add_key(writer, key, value)
    shapes = _tensors(arch, size, len(tokens["tokenizer.ggml.tokens"]), tied=tied, rope_factors=rope_factors)
    for name, shape in shapes.items():
        if name not in leave_out:
            _add_tensor(writer, name, shape, quant, rng)
    for name, shape in (spare or {}).items():
        writer.add_tensor(name, np.zeros(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def values(model: Gguf) -> dict[str, Floats]:
    """Every tensor as float32 [rows, cols] (a vector: [1, cols]), by the peer's dequantization."""
    result = {}
    for name, info in model.tensors.items():
        rows = info.values // info.shape[0]
        raw = np.frombuffer(model.data(name), np.uint8).reshape(rows, -1)
        kind = Type(int(info.type))
        if kind is Type.F32:
            result[name] = raw.view(np.float32)
        elif kind is Type.F16:
            result[name] = raw.view(np.float16).astype(np.float32)
        else:
            result[name] = gguf.quants.dequantize(raw, kind)
    return result


def _model_keys(arch: str, size: Size) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "block_count": size.layers,
        "context_length": size.context,
        "embedding_length": size.width,
        "feed_forward_length": size.ff,
        "attention.head_count": size.heads,
        "attention.head_count_kv": size.kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-6 if arch.startswith("gemma") else 1e-5,
        "rope.freq_base": 1e6 if arch in ("gemma3", "qwen2", "qwen3") else 1e4,
    }
    if size.head_dim * size.heads != size.width or arch in ("qwen3", "gemma", "gemma2", "gemma3"):
        keys |= {"attention.key_length": size.head_dim, "attention.value_length": size.head_dim}
    if arch in ("llama", "phi3"):
        keys["rope.dimension_count"] = size.head_dim
    if arch in ("gemma2", "gemma3"):
        keys["attention.sliding_window"] = size.window
    if arch == "gemma2":
        keys |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    return {f"{arch}.{key}": value for key, value in keys.items()}


def _tensors(arch: str, size: Size, vocab: int, *, tied: bool, rope_factors: bool) -> dict[str, tuple[int, ...]]:
    """Name -> numpy shape: (rows, cols), or (n,) for a vector."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocab, size.width), "output_norm.weight": (size.width,)}
    if not tied:
        shapes["output.weight"] = (vocab, size.width)
    if rope_factors:
        shapes["rope_freqs.weight"] = (size.head_dim // 2,)
    for layer in range(size.layers):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in _layer_tensors(arch, size).items()}
    return shapes


def _layer_tensors(arch: str, size: Size) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (size.width,),
        "ffn_norm.weight": (size.width,),
        "attn_output.weight": (size.width, size.q_width),
        "ffn_down.weight": (size.width, size.ff),
    }
    if arch == "phi3":
        shapes["attn_qkv.weight"] = (size.q_width + 2 * size.kv_width, size.width)
        shapes["ffn_up.weight"] = (2 * size.ff, size.width)
        return shapes
    for letter, rows in (("q", size.q_width), ("k", size.kv_width), ("v", size.kv_width)):
        shapes[f"attn_{letter}.weight"] = (rows, size.width)
        if arch == "qwen2":
            shapes[f"attn_{letter}.bias"] = (rows,)
        if arch in ("qwen3", "gemma3") and letter != "v":
            shapes[f"attn_{letter}_norm.weight"] = (size.head_dim,)
    shapes |= {"ffn_gate.weight": (size.ff, size.width), "ffn_up.weight": (size.ff, size.width)}
    if arch in ("gemma2", "gemma3"):
        shapes |= {"post_attention_norm.weight": (size.width,), "post_ffw_norm.weight": (size.width,)}
    return shapes


def _add_key(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, shape: tuple[int, ...], quant: str, rng: np.random.Generator
) -> None:
    if len(shape) == 1:
        factors = 1.0 if name == "rope_freqs.weight" else 0.0
        vector = 0.1 * rng.standard_normal(shape, np.float32)
        writer.add_tensor(name, np.abs(vector) * 20 + factors if factors else vector + (0 if "bias" in name else 1))
        return
    kind = _matrix_type(name, quant)
    # a width of one over the square root keeps activations near 1 through any number of layers
    matrix = rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))
    if kind is Type.F32:
        writer.add_tensor(name, matrix)
    elif kind is Type.F16:
        writer.add_tensor(name, matrix.astype(np.float16))
    elif kind.name.endswith("_K"):
        writer.add_tensor(name, _k_blocks(kind, shape, rng), raw_dtype=kind)
    else:
        writer.add_tensor(name, gguf.quants.quantize(matrix, kind), raw_dtype=kind)


def _matrix_type(name: str, quant: str) -> Type:
    """`_M` mixtures keep the more sensitive tensors in Q6_K, as their makers do."""
    if quant.endswith("_M"):
        sensitive = name.endswith(("attn_v.weight", "ffn_down.weight", "token_embd.weight", "output.weight"))
        return Type.Q6_K if sensitive else Type[quant.removesuffix("_M")]
    return Type[quant]


def _file_type(quant: str) -> int:
    prefix = "ALL_" if quant == "F32" else "MOSTLY_"
    return int(gguf.LlamaFileType[prefix + quant])


def _k_blocks(kind: Type, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """[rows, row bytes] of random valid blocks of 256 whose values have mean 0 and deviation 1/sqrt(cols)."""
    rows, cols = shape
    blocks = rows * cols // 256
    deviation = 1 / np.sqrt(cols)

    def random(count: int) -> npt.NDArray[np.uint8]:
        return rng.integers(0, 256, (blocks, count), np.uint8)

    def halves(value: float) -> npt.NDArray[np.uint8]:
        spread = value * rng.uniform(0.8, 1.2, (blocks, 1))
        return spread.astype(np.float16).view(np.uint8)

    if kind is Type.Q6_K:  # value = d * scale * (q - 32), scale int8, q 6 bits
        scales = rng.integers(-64, 64, (blocks, 16), np.int8).view(np.uint8)
        parts = [random(192), scales, halves(deviation / (37 * 18.5))]
    else:  # value = d * scale * q - dmin * min, scale and min 6 bits; min == scale and dmin == d * mean(q) centre it
        levels = 16 if kind is Type.Q4_K else 32
        d = halves(deviation / (36 * levels * 0.289))
        low, nibbles = random(4), rng.integers(0, 16, (blocks, 4), np.uint8)
        dmin = (d.view(np.float16).astype(np.float32) * (levels - 1) / 2).astype(np.float16).view(np.uint8)
        parts = [d, dmin, low, low, nibbles * 17, random(128 if levels == 16 else 160)]
    return np.concatenate(parts, axis=1).reshape(rows, -1)


def _bpe_tokens() -> dict[str, Any]:
    """Byte-level BPE: 256 bytes in GPT-2's printable disguise, then merges, then control tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in printable]
    disguise = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}
    merges = ["Ġ t", "h e", "Ġt he", "i n", "a n", "r e", "o n", "Ġ a", "Ġ s", "o u", "Ġ w", "l l", "e r", "Ġ b"]
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    words = [disguise[byte] for byte in range(256)] + [merge.replace(" ", "") for merge in merges]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": words + control,
        "tokenizer.ggml.token_type": [1] * len(words) + [3] * len(control),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(words),
        "tokenizer.ggml.eos_token_id": len(words) + 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHATML,
    }


def _spm_tokens() -> dict[str, Any]:
    """SentencePiece-like: control tokens, 256 byte tokens, pieces with scores (the earlier the better)."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<|im_start|>", "<|im_end|>"]
    pieces = ["▁the", "▁a", "in", "an", "re", "on", "he", "▁t", "▁s", "ou", "er"]
    pieces += ["▁", *"etaoinshrdlcumwfgypbvkjxqzETAOINSHRDLCUMWFGYPBVKJXQZ0123456789.,!?'-:;\"\n"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": control + [f"<0x{byte:02X}>" for byte in range(256)] + pieces,
        "tokenizer.ggml.scores": [0.0] * (len(control) + 256) + [-float(rank) for rank in range(1, len(pieces) + 1)],
        "tokenizer.ggml.token_type": [3, 3, 3, 2, 3, 3] + [6] * 256 + [1] * len(pieces),
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.chat_template": CHATML,
    }
