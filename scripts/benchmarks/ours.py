"""Our engine under measurement: orders and answers as lines of JSON (see player.py).

    python -m scripts.benchmarks.ours MODEL.gguf THREADS SEQUENCES [TOKENS_EACH]

The work is that of `sealift bench` (runtime/measure/work.py): every step samples its token, which the peer is spared.
`generate` is the work a server's clients ask for: prompts and answers, all counted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from runtime.measure.machine import resident
from runtime.measure.subject import find
from runtime.measure.work import EACH, Work, costs


def main() -> None:
    subject = find(sys.argv[1])
    cost = {"context": subject.spec.context, **costs(subject.plan, subject.weights)}
    threads, sequences, each = (int(word) for word in [*sys.argv[2:], str(EACH)][:3])
    ours = Work(subject, threads=threads, sequences=sequences, each=min(each, subject.spec.context))
    del subject  # the engine has its own copy: the file's pages go, as they do in a server's worker
    works: dict[str, Callable[..., float]] = {
        "prefill": ours.prefill,
        "decode": ours.decode,
        "generate": ours.generate,
    }
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        work = order.pop("work")
        answer = facts(ours, cost) if work == "facts" else {"seconds": works[work](**order)}
        print(json.dumps(answer), flush=True)


def facts(work: Work, cost: dict[str, Any]) -> dict[str, Any]:
    info = work.engine.info
    return {
        "name": "sealift",
        "isa": info.isa,
        "threads": info.threads,
        "vocab": info.vocab,
        "weight_bytes": info.weight_bytes,
        "resident": resident(),
        **cost,
    }


if __name__ == "__main__":
    main()
