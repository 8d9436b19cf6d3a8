"""The law of batch invariance, bit for bit: "the logits of a row depend on its own sequence alone: not on other rows,
on how the prompt was cut into steps, on where its blocks lie, or on the number of threads"."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from native.engine import Batch, Engine, Sampling
from native.library import BLOCK, isa_names
from tests.peers.tiny_plan import VOCAB, Floats, Shape, Tiny, alone, bound, step, tiny

LONG = 600  # tokens: three splits of 256 keys
SHAPES = {
    "grouped": Shape(),
    "padded heads": Shape(heads=3, kv_heads=1, head_dim=40, kind="F16", pairing="adjacent"),
    "window and cap": Shape(heads=2, kv_heads=2, head_dim=48, window=70, softcap=5.0, act="gelu", kind="Q4_0"),
    "8-bit keys and values": Shape(heads=6, kv_heads=2, head_dim=40, window=300, kind="F16", kv_type="q8_0"),
    "many heads to one": Shape(heads=10, kv_heads=1, head_dim=16, kind="Q5_1", bias=True),
}


def prompt(seed: int, length: int) -> list[int]:
    return [int(t) for t in np.random.default_rng(seed).integers(0, VOCAB, length)]


def same(found: Floats, expected: Floats) -> bool:
    """Equal bits, and no NaN that could hide behind them."""
    return found.tobytes() == expected.tobytes() and bool(np.isfinite(found).all())


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def model(request: pytest.FixtureRequest) -> Tiny:
    return tiny(SHAPES[request.param])


@pytest.fixture(scope="module")
def expected(model: Tiny) -> Floats:
    """The long prompt in one step, alone, one thread."""
    with model.engine() as engine:
        return alone(engine, prompt(1, LONG))


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("chunk", [7, 100, LONG])
def test_how_the_prompt_is_cut_and_who_computes_it(model: Tiny, expected: Floats, threads: int, chunk: int) -> None:
    with model.engine(threads=threads) as engine:
        assert same(alone(engine, prompt(1, LONG), chunk=chunk), expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_token_by_token(model: Tiny, expected: Floats, threads: int) -> None:
    with model.engine(threads=threads) as engine:
        assert same(alone(engine, prompt(1, LONG), chunk=1), expected)


@pytest.mark.parametrize("isa", isa_names())
def test_every_instruction_set_keeps_the_law(model: Tiny, isa: str) -> None:
    tokens = prompt(2, 300)
    with model.engine(isa=isa) as one, model.engine(isa=isa, threads=2) as two:
        assert same(alone(two, tokens, chunk=11), alone(one, tokens))


def test_where_the_blocks_lie(model: Tiny, expected: Floats) -> None:
    table = np.random.default_rng(5).permutation(128)[: -(-LONG // BLOCK)].astype(np.int32)
    with model.engine(threads=2) as engine:
        assert same(alone(engine, prompt(1, LONG), chunk=50, table=table), expected)


@pytest.mark.parametrize("seed", range(3))
def test_who_shares_the_batch(model: Tiny, seed: int) -> None:
    """Sequences of random lengths advance by random amounts in random company, over scattered blocks."""
    rng = np.random.default_rng(seed)
    prompts = [prompt(seed * 10 + i, int(n)) for i, n in enumerate(rng.integers(1, 400, 6))]
    pool = rng.permutation(128).astype(np.int32)
    tables: list[npt.NDArray[np.int32]] = []
    for tokens in prompts:
        need = -(-len(tokens) // BLOCK)
        tables.append(pool[:need])
        pool = pool[need:]
    done, rows = [0] * len(prompts), [[] for _ in prompts]  # type: list[int], list[list[Floats]]
    with model.engine(threads=1 + seed) as engine:
        while live := [i for i, tokens in enumerate(prompts) if done[i] < len(tokens)]:
            chosen = [int(i) for i in rng.permutation(live)[: rng.integers(1, len(live) + 1)]]
            amounts = [min(len(prompts[i]) - done[i], int(rng.choice([1, 3, 33, 160]))) for i in chosen]
            parts = [
                (prompts[i][done[i] : done[i] + n], done[i], tables[i]) for i, n in zip(chosen, amounts, strict=True)
            ]
            for i, n, logits in zip(chosen, amounts, step(engine, parts), strict=True):
                rows[i].append(logits)
                done[i] += n
    with model.engine() as engine:
        for tokens, found in zip(prompts, rows, strict=True):
            assert same(np.concatenate(found), alone(engine, tokens))


def test_a_shared_prefix_is_as_good_as_ones_own(model: Tiny) -> None:
    """What the prefix cache does: the second sequence reads the first one's full blocks and computes only its own
    end."""
    prefix, ends = prompt(7, 3 * BLOCK), (prompt(8, 20), prompt(9, 45))
    with model.engine(threads=2) as engine:
        whole = [alone(engine, prefix + end) for end in ends]
        shared = np.array([40, 9, 77], np.int32)
        step(engine, [(prefix, 0, shared)])
        own = [np.concatenate([shared, np.array(t, np.int32)]) for t in ([3], [50, 2])]
        found = step(engine, [(end, len(prefix), table) for end, table in zip(ends, own, strict=True)])
    for logits, expected in zip(found, whole, strict=True):
        assert same(logits, expected[len(prefix) :])


def test_how_many_outputs_are_asked_for(model: Tiny, expected: Floats) -> None:
    table = np.arange(-(-LONG // BLOCK), dtype=np.int32)[None]
    rows = [0, 5, 255, 256, 599]
    with model.engine(threads=2) as engine:
        tokens = prompt(1, LONG)
        first = Batch(tokens=tokens[:590], row_start=[0, 590], start_pos=[0], blocks=table, out_rows=[])
        assert len(engine.step(first).tokens) == 0
        rest = Batch(
            tokens=tokens[590:], row_start=[0, 10], start_pos=[590], blocks=table, out_rows=[2, 9], want_logits=True
        )
        logits = engine.step(rest).logits
        assert logits is not None and same(logits, expected[[592, 599]])
        some = Batch(tokens=tokens, row_start=[0, LONG], start_pos=[0], blocks=table, out_rows=rows, want_logits=True)
        logits = engine.step(some).logits
        assert logits is not None and same(logits, expected[rows])


def poisoned(model: Tiny) -> Tiny:
    """The same model with a last token whose embedding overflows a float16 key or value."""
    values = {name: array.copy() for name, array in model.values.items()}
    values["embed"][-1] = 3e38
    return bound(model.plan, values, {}, model.kv_type)


def test_numbers_out_of_range_cost_only_their_own_sequence(model: Tiny) -> None:
    """Not-a-number logits give token -1; neighbours, and later owners of the blocks, never see what was there."""
    sick = poisoned(model)
    tokens = [t % (VOCAB - 1) for t in prompt(3, 90)]
    with sick.engine() as engine:
        well = alone(engine, tokens)
    with sick.engine(threads=2) as engine:
        tables = np.array([[0, 1, 2], [3, 4, 5]], np.int32)
        ill = [*tokens[:60], VOCAB - 1, *tokens[:29]]
        batch = Batch(
            tokens=[*ill, *tokens],
            row_start=[0, 90, 180],
            start_pos=[0, 0],
            blocks=tables,
            out_rows=[89, 179],
            sampling=[Sampling(), Sampling()],
            want_logits=True,
        )
        result = engine.step(batch)
        assert result.logits is not None
        assert result.tokens[0] == -1 and np.isnan(result.logprobs[0])
        assert result.tokens[1] == well[-1].argmax() and same(result.logits[1], well[-1])
        assert same(alone(engine, tokens, table=tables[0]), well)


def test_greedy_generation_repeats(model: Tiny) -> None:
    def generate(engine: Engine) -> list[int]:
        tokens, table = prompt(4, 40), np.arange(4, dtype=np.int32)[None]
        new, at = tokens, 0
        for _ in range(30):
            batch = Batch(
                tokens=new,
                row_start=[0, len(new)],
                start_pos=[at],
                blocks=table,
                out_rows=[len(new) - 1],
                sampling=[Sampling()],
            )
            at += len(new)
            new = [int(engine.step(batch).tokens[0])]
            tokens.append(new[0])
        return tokens

    with model.engine() as one, model.engine(threads=4) as four:
        assert generate(one) == generate(four)


@pytest.mark.parametrize("threads", [2, 4])
def test_one_long_sequence_among_short_ones(model: Tiny, threads: int) -> None:
    """Its last token sees eight splits of keys, theirs see one: the splits of a step are then computed one by one."""
    lengths = [2000, 5, 40, 33, 1, 64, 90, 2]
    prompts = [prompt(20 + i, n) for i, n in enumerate(lengths)]
    with model.engine(max_rows=2048) as engine:
        expected = [alone(engine, tokens)[-1:] for tokens in prompts]
    with model.engine(threads=threads, max_rows=2048) as engine:
        tables, first = [], 0
        for tokens in prompts:
            tables.append(np.arange(first, first := first + -(-len(tokens) // BLOCK), dtype=np.int32))
        for tokens, table in zip(prompts, tables, strict=True):
            if len(tokens) > 1:
                step(engine, [(tokens[:-1], 0, table)])
        parts = [(tokens[-1:], len(tokens) - 1, table) for tokens, table in zip(prompts, tables, strict=True)]
        for found, wanted in zip(step(engine, parts), expected, strict=True):
            assert same(found, wanted)
