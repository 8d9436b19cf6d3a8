"""How far two computations of one model agree, teacher-forced on the same tokens.

    python scripts/agreement.py MODEL.gguf                                  our engine against our reference
    python scripts/agreement.py MODEL.gguf --peer /path/to/venv/bin/python  also llama.cpp (that Python has llama_cpp)
    python scripts/agreement.py MODEL.gguf --peer … --text FILE             the perplexity llama.cpp gives a text

Prints, for each pair, the share of positions with the same top token, the mean and largest KL divergence of the
second's next-token distribution from the first's (nats), and the mean absolute difference of the log-probability of the
token that really follows. The reference computes in float64 on exactly dequantized weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1]))

from manifests.gguf import Gguf
from native.engine import BLOCK, Batch, Engine
from native.plan import Plan
from native.reference import reference
from native.weight import Weight
from runtime.evaluate import read_text
from runtime.measure.perplexity import windows
from runtime.models import load
from runtime.text.tokenizer import Tokenizer

Doubles = npt.NDArray[np.float64]
TEXT = (
    "The lighthouse keeper wrote in his log every evening: the wind, the ships that passed, the state of the lamp. "
    "One night in November the lamp would not light. He climbed the stairs with a can of oil and found that a bird had "
    "built its nest in the lens. He thought about it for a while, and then he went down to ring the bell until dawn."
)
PEER = """
import json, sys
import numpy as np
from llama_cpp import Llama
path, out, ask, threads = sys.argv[1:5]
model = Llama(path, n_ctx=4096, logits_all=True, verbose=False, n_threads=int(threads))
ask = json.loads(ask)
tokens = ask["tokens"] or model.tokenize(ask["text"].encode(), add_bos=ask["bos"])[: ask["most"]]
model.eval(tokens)
np.savez(out, tokens=np.array(tokens), logits=np.array(model.scores[: len(tokens)]))
"""


WINDOWS = """
import json, sys
import numpy as np
from llama_cpp import Llama
path, threads = sys.argv[1:3]
losses = []
for tokens, scored in json.load(sys.stdin):
    if not losses:
        model = Llama(path, n_ctx=len(tokens), logits_all=True, verbose=False, n_threads=int(threads))
    model.reset()
    model.eval(tokens)
    for row in range(len(tokens) - 1 - scored, len(tokens) - 1):
        logits = model.scores[row].astype(np.float64)
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[tokens[row + 1]])
print(json.dumps(losses))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="How far two computations of one model agree.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer", help="a Python interpreter that can import llama_cpp")
    parser.add_argument("--tokens", type=int, default=64, help="how many tokens (default 64)")
    parser.add_argument("--random", action="store_true", help="random token ids instead of a text")
    parser.add_argument("--no-engine", action="store_true", help="leave our native engine out")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--text", type=Path, help="a text whose perplexity under llama.cpp is asked for")
    parser.add_argument("--context", type=int, default=512, help="tokens of its windows")
    parser.add_argument("--windows", type=int, help="the most that are scored")
    ask = parser.parse_args()
    if ask.text:
        if not ask.peer:
            parser.error("--text is for llama.cpp: name a --peer; for ours: sealift eval MODEL TEXT")
        print(json.dumps(peer_perplexity(ask)))
        return
    model = Gguf.open(ask.model)
    spec, plan, weights = load(model)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, spec.vocab, ask.tokens).tolist() if ask.random or not ask.peer else []
    runs: dict[str, Doubles] = {}
    if ask.peer:
        bos = bool(model.metadata.get("tokenizer.ggml.add_bos_token", True))
        tokens, runs["llama.cpp"] = run_peer(ask, tokens, bos=bos)
    runs = {"reference": reference(plan, {name: exact(weight) for name, weight in weights.items()}, tokens), **runs}
    if not ask.no_engine:
        runs["engine"] = run_engine(plan, weights, tokens, ask.threads)
    pairs = [(a, b) for n, a in enumerate(runs) for b in list(runs)[n + 1 :]]
    results = [{"pair": f"{a} / {b}", **compare(runs[a], runs[b], tokens)} for a, b in pairs]
    if ask.json:
        print(json.dumps({"model": str(ask.model), "tokens": len(tokens), "results": results}))
        return
    print(f"{ask.model.name}: {len(tokens)} tokens")
    for result in results:
        numbers = "  ".join(f"{key} {value:.3g}" for key, value in result.items() if key != "pair")
        print(f"  {result['pair']:24} {numbers}")


def exact(weight: Weight) -> npt.NDArray[np.float32]:
    """[rows, cols] by the gguf package's dequantization, which shares no code with ours."""
    raw = np.frombuffer(weight.buffer, np.uint8).reshape(weight.rows, -1)
    kind = gguf.GGMLQuantizationType(weight.type)
    if kind is gguf.GGMLQuantizationType.F32:
        return raw.view(np.float32)
    if kind is gguf.GGMLQuantizationType.F16:
        return raw.view(np.float16).astype(np.float32)
    return gguf.quants.dequantize(raw, kind)


def run_peer(ask: argparse.Namespace, tokens: list[int], *, bos: bool) -> tuple[list[int], Doubles]:
    """Tokens (the peer's, of TEXT, if none are given) and logits [tokens, vocab]."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peer.npz"
        question = json.dumps({"tokens": tokens, "text": TEXT, "most": ask.tokens, "bos": bos})
        command = [ask.peer, "-c", PEER, str(ask.model), str(out), question, str(ask.threads)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        with np.load(out) as saved:
            return saved["tokens"].tolist(), saved["logits"].astype(np.float64)


def peer_perplexity(ask: argparse.Namespace) -> dict[str, Any]:
    """llama.cpp on the very tokens that `sealift eval` scores."""
    tokenizer = Tokenizer.from_gguf(Gguf.open(ask.model).metadata)
    tokens = tokenizer.encode(read_text(ask.text), special=False)
    bos = tokenizer.bos if tokenizer.add_bos else None
    many = windows(tokens, context=ask.context, stride=None, bos=bos)[: ask.windows]
    question = json.dumps([(window.tokens, window.scored) for window in many])
    command = [ask.peer, "-c", WINDOWS, str(ask.model), str(ask.threads)]
    done = subprocess.run(command, check=True, input=question, stdout=subprocess.PIPE, text=True)
    losses = np.array(json.loads(done.stdout))
    return {"model": ask.model.name, "perplexity": float(np.exp(losses.mean())), "tokens": len(losses)}


def run_engine(plan: Plan, weights: dict[str, Weight], tokens: list[int], threads: int) -> Doubles:
    """Logits [tokens, vocab] of one prefill."""
    n = len(tokens)
    blocks = -(-n // BLOCK)
    size: dict[str, Any] = {"n_blocks": blocks, "max_rows": n, "max_seqs": 1, "max_outputs": n}
    with Engine(plan, weights, threads=threads, **size) as engine:
        batch = Batch(
            tokens=tokens,
            row_start=[0, n],
            start_pos=[0],
            blocks=np.arange(blocks).reshape(1, -1),
            out_rows=list(range(n)),
            want_logits=True,
        )
        logits = engine.step(batch).logits
    assert logits is not None
    return logits.astype(np.float64)


def compare(a: Doubles, b: Doubles, tokens: list[int]) -> dict[str, Any]:
    """Of distributions [tokens, vocab]; KL(a || b) in nats."""
    a, b = log_softmax(a), log_softmax(b)
    divergence = np.sum(np.exp(a) * (a - b), axis=-1)
    rows, following = np.arange(len(tokens) - 1), np.array(tokens[1:])
    return {
        "same_top": float(np.mean(a.argmax(-1) == b.argmax(-1))),
        "mean_kl": float(divergence.mean()),
        "max_kl": float(divergence.max()),
        "mean_logprob_difference": float(np.mean(np.abs(a[rows, following] - b[rows, following]))),
    }


def log_softmax(logits: Doubles) -> Doubles:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True)))


if __name__ == "__main__":
    main()
