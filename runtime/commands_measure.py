"""The verbs bench and eval: arguments and printing only. Both work on a model alone: no server, no network."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from runtime.measure.perplexity import Score

JSON = typer.Option(False, "--json", help="Print JSON, for scripts.")
MODEL = typer.Argument(help="A model of the store, or the path of a file that ends in .gguf.")
THREADS = typer.Option(0, min=0, max=1024, help="Threads to compute with [one a core].")


def register(app: typer.Typer) -> None:
    app.command("bench")(bench)
    app.command("eval")(eval_)


def bench(
    model: str = MODEL,
    quick: bool = typer.Option(False, "--quick", help="Fewer rows, in about 15 seconds."),
    compare: Path | None = typer.Option(None, metavar="FILE", help="An earlier result (--json), to print ratios of."),
    threads: int = THREADS,
    as_json: bool = JSON,
) -> None:
    """Measure how fast a model runs here, beside what the machine could do at most.

    Prefill of prompts, decode of several sequences at once, memory, and where the time goes, in about a minute. The
    limits are measured in the same run: the share of them can be compared across machines, the times cannot. Quiet
    neighbours make true figures. Examples:

    \b
        sealift bench demo
        sealift bench demo --json > before.json
        sealift bench demo --compare before.json
    """
    from runtime.measure import table
    from runtime.measure.bench import bench as measure
    from runtime.measure.subject import find

    earlier = table.read(compare) if compare else None
    with line_of_progress() as tell:
        result = measure(find(model), threads=threads, quick=quick, tell=lambda what: tell(f"measuring: {what}"))
    print(json.dumps(result, indent=2) if as_json else table.text(result, earlier))


def eval_(
    model: str = MODEL,
    file: Path = typer.Argument(metavar="FILE", help="A text in UTF-8, at most 16 MiB."),
    context: int = typer.Option(512, min=8, help="Tokens of a window."),
    stride: int | None = typer.Option(
        None, min=1, help="Windows begin every so many tokens, and that many are scored [half a context]."
    ),
    windows: int | None = typer.Option(None, min=1, help="Score no more windows than this [all]."),
    reference: bool = typer.Option(False, "--reference", help="Score with the slow reference too, and compare."),
    kv_type: str = typer.Option("f16", "--kv-type", help="How keys and values are kept: f16 or q8_0."),
    isa: str = typer.Option("best", "--isa", help="The instruction set: portable, avx2, avx512-vnni or avx512-amx."),
    threads: int = THREADS,
    as_json: bool = JSON,
) -> None:
    """Tell how well a model predicts a text: its perplexity.

    Windows lie next to one another and the second half of each is scored, as llama-perplexity does. With --reference
    the same tokens are scored by plain arithmetic in float32: a ratio of 1 says that packed weights, 8-bit activations
    and few bits for keys and values cost nothing. A text of less than 20,000 tokens leaves the ratio much to chance;
    the divergence, which weighs all that could have followed, says after a few hundred what they cost. Examples:

    \b
        sealift eval demo book.txt
        sealift eval demo book.txt --windows 8 --reference
    """
    from runtime.evaluate import Asked, evaluate, read_text
    from runtime.measure.subject import find

    text = read_text(file)
    asked = Asked(
        context=context, stride=stride, windows=windows, threads=threads, kv_type=kv_type, isa=isa, reference=reference
    )
    with line_of_progress() as tell:
        result = evaluate(find(model), text, asked, lambda *now: tell(_so_far(*now)))
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for who in ("engine", "reference"):
        if who in result:
            print(_sentence(who, result[who]))
    if "ratio" in result:
        print(f"engine / reference    {result['ratio']:.5f} ± {result['ratio_error']:.5f}")
        print(f"divergence            {result['divergence']:.6f} ± {result['divergence_error']:.6f} nats a token")


def _so_far(who: str, score: Score, windows: int) -> str:
    return f"{who}: window {score.windows} of {windows}, perplexity {score.perplexity:.3f} ± {score.error:.3f}"


def _sentence(who: str, score: dict[str, Any]) -> str:
    figures = f"{score['perplexity']:.4f} ± {score['error']:.4f}"
    rest = f"{score['bits_per_byte']:.4f} bits per byte, {score['tokens']} tokens in {score['windows']} windows"
    return f"perplexity, {who:9} {figures}, {rest}, {score['seconds']:.1f} s"


@contextlib.contextmanager
def line_of_progress() -> Iterator[Callable[[str], None]]:
    """Yields a function that shows one line in place of the one before. On a terminal's stderr; silent when piped."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return

    def tell(text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()

    try:
        yield tell
    finally:
        tell("")
