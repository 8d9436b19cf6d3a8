"""Every architecture through the native engine, beside the reference: where spec, plan, weights and kernels meet."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from manifests.gguf import Gguf
from native.engine import BLOCK, Batch, Engine
from native.reference import Reference
from runtime.models import load
from tests.peers.model_maker import ARCHITECTURES, make_model

TOKENS = 70  # crosses two block borders and every made model's window


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_engine_means_what_the_reference_means(arch: str, tied: bool, tmp_path: Path) -> None:
    """Float32 weights, float16 cache on both sides. The engine sums in float32: 2^-24 of each of a few hundred terms of
    size 1, through two layers. A value may round to the other float16 neighbour, which moves its key by 2^-11; a wrong
    fact of the model moves logits by more than 1e-2 (see test_models)."""
    gguf = Gguf.open(make_model(tmp_path / "m.gguf", arch, tied=tied))
    spec, plan, weights = load(gguf)
    tokens = np.random.default_rng(3).integers(0, spec.vocab, TOKENS).tolist()
    exact = {name: np.frombuffer(one.buffer, np.float32).reshape(one.rows, one.cols) for name, one in weights.items()}
    expected = Reference(plan, exact, cache_type="f16").step(tokens)
    found = []
    blocks = -(-TOKENS // BLOCK)
    with Engine(plan, weights, threads=1, n_blocks=blocks, max_rows=40, max_seqs=1, max_outputs=40) as engine:
        for first, last in ((0, 40), (40, 41), (41, TOKENS)):
            batch = Batch(
                tokens=tokens[first:last],
                row_start=[0, last - first],
                start_pos=[first],
                blocks=np.arange(blocks)[::-1].reshape(1, -1),
                out_rows=list(range(last - first)),
                want_logits=True,
            )
            found.append(engine.step(batch).logits)
    np.testing.assert_allclose(np.concatenate([part for part in found if part is not None]), expected, atol=3e-3)


def test_a_step_without_outputs_only_fills_the_cache(tmp_path: Path) -> None:
    spec, plan, weights = load(Gguf.open(make_model(tmp_path / "m.gguf", "qwen3", quant="Q8_0")))
    tokens = np.random.default_rng(3).integers(0, spec.vocab, 20).tolist()
    logits = []
    for cut in ([0, 20], [0, 7, 19, 20]):
        with Engine(plan, weights, threads=1, n_blocks=1, max_rows=20, max_seqs=1, max_outputs=1) as engine:
            for first, last in pairwise(cut):
                batch = Batch(
                    tokens=tokens[first:last],
                    row_start=[0, last - first],
                    start_pos=[first],
                    blocks=[[0]],
                    out_rows=[last - first - 1] if last == 20 else [],
                    want_logits=True,
                )
                result = engine.step(batch).logits
        assert result is not None
        logits.append(result)
    np.testing.assert_array_equal(logits[0], logits[1])
