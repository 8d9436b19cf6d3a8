"""The sampler against exact distributions worked out here in float64, by chi-square over fixed seeds, and its laws:
random numbers depend on (seed, position) alone; temperature 0 is the largest logit; a mask is never crossed; options
out of range, NaN first, are refused. The seeds are fixed, so a frequency test gives the same verdict every time; the
limits are those a fair sampler would exceed once in a million seeds."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from native.engine import MAX_TOP, Batch, Sampling, sample
from native.errors import InputError, NativeError
from tests.peers.philox import philox
from tests.peers.tiny_plan import VOCAB, Shape, tiny

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
LOGITS = np.array([1.0, 3.0, 2.5, -1.0, 0.0, 2.9, -4.0, 1.5, 2.0, 0.5], np.float32)
DRAWS = 6000
CHI_SQUARE = {
    n: limit for n, limit in enumerate([0, 23.9, 27.6, 30.7, 33.4, 35.9, 38.3, 40.5, 42.7, 44.8])
}  # 1e-6 quantiles


def softmax(logits: Doubles) -> Doubles:
    e = np.exp(logits - logits.max())
    return np.asarray(e / e.sum())


def prefix(p: Doubles, order: list[int], mass: float) -> list[int]:
    """The shortest beginning of `order` that holds `mass` of p."""
    total, kept = 0.0, []
    for i in order:
        kept.append(i)
        total += p[i]
        if total >= mass:
            break
    return kept


def exact(logits: Floats, s: Sampling) -> Doubles:
    """The distribution sl_sampling's comment describes, stage by stage."""
    x = changed(logits, s) / s.temperature
    live = [int(i) for i in sorted(range(len(x)), key=lambda i: (-x[i], i)) if np.isfinite(x[i])]
    if s.top_k > 0:
        live = live[: s.top_k]

    def over(ids: list[int]) -> Doubles:
        p = np.zeros(len(x))
        p[ids] = softmax(x[ids])
        return p

    if s.typical_p < 1:
        p = over(live)
        surprise = {i: -np.log(p[i]) for i in live}
        entropy = sum(p[i] * surprise[i] for i in live)
        kept = set(prefix(p, sorted(live, key=lambda i: abs(surprise[i] - entropy)), s.typical_p))
        live = [i for i in live if i in kept]
    if s.top_p < 1:
        live = prefix(over(live), live, s.top_p)
    p = over(live)
    return over([i for i in live if p[i] >= s.min_p * p.max()])


def changed(logits: Floats, s: Sampling) -> Doubles:
    """Bias, mask, penalties."""
    x = logits.astype(np.float64)
    for token, bias in s.bias.items():
        x[token] += bias
    if s.mask is not None:
        bits = np.unpackbits(np.asarray(s.mask, np.uint32).view(np.uint8), bitorder="little")[: len(x)]
        x[bits == 0] = -np.inf
    for token in set(s.history):
        count = list(s.history).count(token)
        x[token] = x[token] / s.repeat_penalty if x[token] > 0 else x[token] * s.repeat_penalty
        x[token] -= count * s.frequency_penalty + s.presence_penalty
    return x


def mask_of(ids: list[int], vocab: int) -> NDArray[np.uint32]:
    bits = np.zeros((vocab + 31) // 32 * 32, np.uint8)
    bits[ids] = 1
    return np.packbits(bits, bitorder="little").view(np.uint32)


WAYS = {
    "temperature": Sampling(temperature=1.0),
    "hot": Sampling(temperature=2.5),
    "cold": Sampling(temperature=0.3),
    "top_k": Sampling(temperature=1.0, top_k=3),
    "top_p": Sampling(temperature=1.0, top_p=0.7),
    "top_p 0": Sampling(temperature=1.0, top_p=0.0),
    "min_p": Sampling(temperature=1.0, min_p=0.2),
    "typical": Sampling(temperature=1.0, typical_p=0.5),
    "top_k and min_p": Sampling(temperature=1.0, top_k=6, min_p=0.3),
    "top_p and min_p": Sampling(temperature=1.0, top_p=0.95, min_p=0.3),
    "all of them": Sampling(temperature=1.3, top_k=8, typical_p=0.95, top_p=0.9, min_p=0.15),
    "penalties": Sampling(
        temperature=0.9, repeat_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.25, history=[1, 1, 5, 3, 1, 9]
    ),
    "bias": Sampling(temperature=1.0, bias={6: 6.5, 1: -1.0}),
    "mask": Sampling(temperature=1.0, mask=mask_of([0, 4, 6, 9], 10)),
    "mask and top_p": Sampling(temperature=1.0, mask=mask_of([0, 2, 4, 6, 9], 10), top_p=0.9),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_frequencies_are_the_exact_probabilities(way: Sampling) -> None:
    expected = exact(LOGITS, way)
    assert abs(expected.sum() - 1) < 1e-12
    counts = np.zeros(len(LOGITS))
    for position in range(DRAWS):
        counts[sample(LOGITS, dataclasses.replace(way, seed=11), position)[0]] += 1
    live = expected > 0
    assert counts[~live].sum() == 0, "a token was drawn that the filters exclude"
    common = expected * DRAWS >= 5  # the test needs at least five expected draws; the rest is counted together
    rest = live & ~common
    pairs = [(counts[i], expected[i] * DRAWS) for i in np.flatnonzero(common)]
    if rest.any():
        pairs.append((counts[rest].sum(), max(expected[rest].sum() * DRAWS, 1.0)))
    statistic = sum((found - wanted) ** 2 / wanted for found, wanted in pairs)
    assert statistic <= CHI_SQUARE[len(pairs) - 1]


def test_the_generator_is_philox() -> None:
    """The authors' known answers hold for the function above, and over 4096 equal logits a draw shows the engine's
    first 12 bits: they are that function's."""
    assert philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = [0xFFFFFFFF]
    assert philox(ones * 4, ones * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    flat = np.zeros(4096, np.float32)
    for seed in (0, 1, 0x123456789ABCDEF0, 2**64 - 1):
        for position in (0, 1, 2**31 - 1):
            first = philox([position, 0, 0, 0], [seed & 0xFFFFFFFF, seed >> 32])[0]
            token, _, _ = sample(flat, Sampling(temperature=1.0, seed=seed), position)
            assert token == first >> 20


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    way = Sampling(temperature=1.5, top_p=0.95, seed=5)
    once = [sample(LOGITS, way, position)[0] for position in range(50)]
    again = [sample(LOGITS, way, position)[0] for position in reversed(range(50))]
    assert once == again[::-1]
    assert once != [sample(LOGITS, dataclasses.replace(way, seed=6), position)[0] for position in range(50)]
    assert len(set(once)) > 1


@pytest.mark.parametrize("way", [Sampling(), Sampling(temperature=1.0, top_k=1), Sampling(temperature=1e-7, top_p=0.3)])
def test_greedy_takes_the_largest_and_the_lowest_of_equals(way: Sampling) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 2, 127, 128, 129, 1000, 50000):
        logits = rng.integers(-4, 5, n).astype(np.float32)  # many ties
        assert sample(logits, way, 3)[0] == logits.argmax()


def test_greedy_after_penalties_bias_and_mask() -> None:
    rng = np.random.default_rng(1)
    for trial in range(50):
        logits = (rng.standard_normal(300) * 3).astype(np.float32)
        way = Sampling(
            repeat_penalty=1.5,
            presence_penalty=0.5,
            frequency_penalty=0.3,
            history=[int(t) for t in rng.integers(0, 300, 64)] + [int(logits.argmax())] * 3,
            bias={int(t): float(b) for t, b in zip(rng.integers(0, 300, 5), rng.standard_normal(5) * 4, strict=True)},
            mask=mask_of([int(t) for t in rng.choice(300, 200, replace=False)], 300),
        )
        assert sample(logits, way, trial)[0] == changed(logits, way).argmax()


@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0, 4.0])
def test_large_vocabularies_without_sorting_them(spread: float) -> None:
    """The nucleus is found by growing guesses: whatever its size, what is drawn lies in it, and the draws spread over
    it."""
    vocab = 50_000
    logits = (np.random.default_rng(2).standard_normal(vocab) * spread).astype(np.float32)
    way = Sampling(temperature=1.0, top_p=0.6, seed=3)
    p = exact(logits, way)
    full = softmax(logits.astype(np.float64))
    slack = full[p > 0].min() * (1 - 1e-4)  # tokens as likely as the border may fall to either side in float32
    drawn = [sample(logits, way, position)[0] for position in range(40)]
    assert all(p[token] > 0 or full[token] >= slack for token in drawn)
    assert len(set(drawn)) >= min(15, int((p > 1e-3).sum()))


@pytest.mark.parametrize("k", [2, 40, 255, 257, 5000])
def test_top_k_keeps_exactly_k(k: int) -> None:
    """Equal probability for the k best and none for the rest: over 200 draws every one lies among them, ties by id."""
    rng = np.random.default_rng(k)
    logits = np.zeros(20_000, np.float32)
    best = rng.choice(20_000, k + 50, replace=False)
    logits[best] = 5.0
    allowed = set(np.sort(best)[:k].tolist())
    drawn = {sample(logits, Sampling(temperature=1.0, top_k=k, seed=1), position)[0] for position in range(200)}
    assert drawn <= allowed and len(drawn) > min(k, 100) * 0.5


def test_log_probabilities_are_those_of_the_raw_logits() -> None:
    """Float exp within 4 eps, summed without loss, then two roundings of numbers up to 20 in size."""
    rng = np.random.default_rng(4)
    for n in (1, 5, 96, 1025, 50_000):
        logits = (rng.standard_normal(n) * 5).astype(np.float32)
        true = np.log(softmax(logits.astype(np.float64)))
        top = min(20, n)
        way = Sampling(temperature=0.7, top_p=0.9, bias={0: 100.0}, top_logprobs=top)
        token, logprob, alternatives = sample(logits, way, 9)
        limit = 2.0**-24 * (8 + 2 * np.abs(true).max())
        assert token == 0 and abs(logprob - true[0]) <= limit
        order = sorted(range(n), key=lambda i: (-logits[i], i))[:top]
        assert [i for i, _ in alternatives] == order
        assert all(abs(p - true[i]) <= limit for i, p in alternatives)


@pytest.mark.parametrize(
    "change",
    [
        *(
            {name: value}
            for name in (
                "temperature",
                "top_p",
                "min_p",
                "typical_p",
                "repeat_penalty",
                "presence_penalty",
                "frequency_penalty",
            )
            for value in (float("nan"), float("inf"))
        ),
        dict(temperature=-0.1),
        dict(top_p=1.1),
        dict(top_p=-0.1),
        dict(min_p=1.1),
        dict(typical_p=-1.0),
        dict(repeat_penalty=0.0),
        dict(top_logprobs=21),
        dict(top_logprobs=-1),
        dict(history=[10]),
        dict(history=[-1]),
        dict(bias={10: 1.0}),
        dict(bias={-1: 1.0}),
        dict(bias={1: float("nan")}),
        dict(bias={1: float("inf")}),
        dict(mask=np.zeros(1, np.uint32)),
        dict(mask=np.full(1, 1 << 10, np.uint32)),
        dict(mask=np.zeros(2, np.uint32)),
        dict(seed=-1),
        dict(seed=1 << 64),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change)).split("_")[0]):
        sample(LOGITS, dataclasses.replace(Sampling(temperature=1.0), **change), 0)


def test_a_negative_position_is_refused() -> None:
    with pytest.raises(InputError, match="position"):
        sample(LOGITS, Sampling(), -1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 5, 9])
def test_logits_that_are_not_finite(bad: float, place: int) -> None:
    logits = LOGITS.copy()
    logits[place] = bad
    with pytest.raises(NativeError, match="not finite"):
        sample(logits, Sampling(), 0)


def test_extreme_options_still_choose() -> None:
    """The largest numbers a float holds: nothing overflows into not-a-number."""
    most = float(np.finfo(np.float32).max)
    for way in (
        Sampling(temperature=most, top_k=5),
        Sampling(temperature=1e-5, min_p=1.0),
        Sampling(
            temperature=1.0, repeat_penalty=most, frequency_penalty=-most, presence_penalty=most, history=[1, 1, 2]
        ),
        Sampling(temperature=1.0, repeat_penalty=1e-37, history=list(range(10)), top_p=0.5),
    ):
        token, logprob, _ = sample(LOGITS, way, 1)
        assert 0 <= token < 10 and np.isfinite(logprob)


def test_a_step_samples_as_sample_does() -> None:
    """The position of a draw is that of the chosen token, whatever the batch."""
    model = tiny(Shape(layers=1))
    way = Sampling(temperature=1.2, top_k=20, top_p=0.95, seed=77, top_logprobs=3)
    with model.engine(threads=2) as engine:
        batch = Batch(
            tokens=[5, 6, 7, 8, 9, 10],
            row_start=[0, 4, 6],
            start_pos=[0, 0],
            blocks=[[3], [1]],
            out_rows=[0, 3, 5],
            sampling=[way, Sampling(), way],
            want_logits=True,
        )
        result = engine.step(batch)
    assert result.logits is not None
    for place, position, how in ((0, 1, way), (1, 4, Sampling()), (2, 2, way)):
        token, logprob, alternatives = sample(result.logits[place], how, position)
        assert (result.tokens[place], result.logprobs[place]) == (token, np.float32(logprob))
        assert list(result.top(place, MAX_TOP)) == alternatives
    assert all(0 <= token < VOCAB for token in result.tokens)


def test_a_step_in_two_halves_is_a_step() -> None:
    """Tokens, log probabilities and alternatives are those of a step with the same samplings; masks come in between."""
    model = tiny(Shape(layers=1))
    allowed = [3, 31, 32, VOCAB - 1]
    way = Sampling(temperature=1.2, top_p=0.95, seed=77, top_logprobs=3)
    ways = [way, Sampling(mask=mask_of(allowed, VOCAB)), dataclasses.replace(way, mask=mask_of(allowed, VOCAB))]
    batch = Batch(
        tokens=[5, 6, 7, 8, 9, 10], row_start=[0, 4, 6], start_pos=[0, 0], blocks=[[3], [1]], out_rows=[0, 3, 5],
    )  # fmt: skip
    with model.engine(threads=2) as engine:
        whole = engine.step(dataclasses.replace(batch, sampling=ways))
        assert len(engine.step(batch).tokens) == 0
        with pytest.raises(InputError, match="seed -1"):
            engine.choose([dataclasses.replace(way, seed=-1)] * 3)
        with pytest.raises(InputError, match="n_outputs is 2, the step had 3"):
            engine.choose(ways[:2])
        with pytest.raises(InputError, match="output 1: the mask allows no token"):
            engine.choose([way, Sampling(mask=mask_of([], VOCAB)), way])
        halves = engine.choose(ways)
        for name in ("tokens", "logprobs", "top_ids", "top_logprobs"):
            assert getattr(halves, name).tobytes() == getattr(whole, name).tobytes()
        assert set(halves.tokens[1:].tolist()) <= set(allowed)
        with pytest.raises(InputError, match="no step has left logits"):
            engine.choose(ways)
        engine.step(dataclasses.replace(batch, sampling=ways))
        with pytest.raises(InputError, match="no step has left logits"):
            engine.choose(ways)


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 64, 97])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_allows_what_it_says_at_every_width(vocab: int, temperature: float) -> None:
    """Also where its last word has bits past the vocabulary, and whatever the other options want."""
    rng = np.random.default_rng(vocab)
    for seed in range(40):
        logits = rng.normal(0, 3, vocab).astype(np.float32)
        allowed = sorted(set(rng.integers(0, vocab, rng.integers(1, vocab + 1)).tolist()))
        mask = mask_of(allowed, vocab)
        mask[-1] |= np.uint32(0xFFFFFFFF << (vocab % 32) & 0xFFFFFFFF) if vocab % 32 else np.uint32(0)
        for way in (
            Sampling(temperature=temperature, mask=mask, seed=seed),
            Sampling(temperature=temperature, mask=mask, seed=seed, top_k=2, min_p=0.1),
            Sampling(temperature=temperature, mask=mask, seed=seed, bias=dict.fromkeys(range(vocab), 50.0)),
            Sampling(temperature=temperature, mask=mask, seed=seed, repeat_penalty=9.0, history=allowed),
        ):
            token, logprob, _ = sample(logits, way, seed)
            assert token in allowed
            assert logprob == pytest.approx(float(logits[token]) - np.logaddexp.reduce(logits.astype(float)), abs=1e-4)
