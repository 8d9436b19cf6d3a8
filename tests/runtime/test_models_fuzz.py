"""From damaged bytes to logits: a small GGUF whose head was overwritten in places goes through reader, spec, plan,
binding and engine. Each either refuses it with its own error, or the engine runs it; and nobody takes much memory on
the way."""

from __future__ import annotations

import functools
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.errors import GgufError
from manifests.gguf import Gguf
from native.engine import BLOCK, Batch, Engine
from native.errors import NativeError
from runtime.errors import ArchitectureRefused
from runtime.models.load import load
from tests.peers import bert_maker
from tests.peers.model_maker import make_model

PEAK = 32 << 20  # bytes; the files are 0.3 MB
ODD = (0, 1, 2, 3, 7, 32, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
DECODERS = [("llama", "Q8_0"), ("gemma3", "Q4_0"), ("qwen2", "F16"), ("phi3", "Q5_1")]
Damage = tuple[float, int, int]  # where in the head, bytes (1, 4 or 8), what


@functools.cache
def whole(arch: str, quant: str) -> tuple[bytes, int, list[tuple[int, int]]]:
    """A file, where its data begins, and places and sizes of what its model's keys and its tensor table say."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.gguf"
        if "bert" in arch:
            bert_maker.write(bert_maker.random_bert(base=1000.0 if arch == "nomic-bert" else 0.0), path, quant=quant)
        else:
            make_model(path, arch, quant=quant)
        raw, gguf = path.read_bytes(), Gguf.open(path)
    places = []
    for key in gguf.metadata:
        if key.startswith((arch, "general")):
            places.append((raw.find(key.encode()) + len(key) + 4, 4))  # behind the value's type
    for name, info in gguf.tensors.items():
        at = raw.rfind(name.encode(), 0, gguf.data_offset) + len(name)
        extents = [(at + 4 + 8 * i, 8) for i in range(len(info.shape))]
        places += [(at, 4), *extents, (extents[-1][0] + 8, 4), (extents[-1][0] + 12, 8)]  # type, offset
    return raw, gguf.data_offset, places


@pytest.mark.parametrize(("arch", "quant"), [*DECODERS, ("bert", "Q8_0"), ("nomic-bert", "F16")])
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(
    damage=st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from([1, 4, 8]), st.sampled_from(ODD) | st.integers(0, 2**64 - 1)),
        min_size=1, max_size=3,
    ),
    aimed=st.booleans(),
)  # fmt: skip
def test_a_damaged_head_is_refused_or_runs(arch: str, quant: str, damage: list[Damage], aimed: bool) -> None:
    """Anywhere in the head, or aimed: at the value of a key, at the shape, type and offset of a tensor."""
    raw, end, places = whole(arch, quant)
    changed = bytearray(raw)
    for where, size, value in damage:
        at, size = places[int(where * (len(places) - 1))] if aimed else (int(where * (end - 8)), size)
        changed[at : at + size] = (value % 256**size).to_bytes(size, "little")
    tracemalloc.start()
    try:
        spec, plan, weights = load(Gguf.parse(bytes(changed)))
    except (GgufError, ArchitectureRefused) as error:
        assert str(error)
        return
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < PEAK, f"{peak >> 20} MiB"
    try:
        with Engine(plan, weights, threads=1, n_blocks=2, max_rows=8, max_seqs=1, max_outputs=1) as engine:
            start = 0 if plan.whole else BLOCK - 4
            tokens = [t % spec.vocab for t in range(8)]
            batch = Batch(
                tokens=tokens, row_start=[0, 8], start_pos=[start], blocks=[[0, 1]], out_rows=[7], want_logits=True
            )
            logits = engine.step(batch).logits
            assert logits is not None and logits.shape == (1, engine.info.width) and logits.dtype == np.float32
    except NativeError as error:
        assert str(error)
