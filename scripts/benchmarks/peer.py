"""llama.cpp under measurement: run by the peer's own interpreter, orders and answers as lines of JSON (see player.py).

    PEER_PYTHON peer.py MODEL.gguf THREADS SEQUENCES

Through the C API (llama_decode), as llama-bench does: no sampling, no copy of logits, one batch built once. Contexts:
one of its own for each number of sequences, f16 keys and values, n_batch = n_ubatch = 512, everything else by default.
Imports nothing of this repository.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from typing import Any

import llama_cpp as llama  # type: ignore[import-not-found]

BATCH = 512  # tokens
TOKENS_EACH = 1024  # context of one sequence, at least
STRIDE = 7919  # a prime: token ids spread over the vocabulary, the same ones for every player


class Peer:
    def __init__(self, path: str, threads: int) -> None:
        self._threads = threads
        self._model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not self._model:
            sys.exit(f"llama.cpp cannot load {path}")
        self._vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self._model))
        self._contexts: dict[int, Any] = {}
        self._batch = llama.llama_batch_init(BATCH, 0, 1)

    def facts(self) -> dict[str, Any]:
        features = (llama.llama_print_system_info() or b"").decode()
        return {"name": f"llama-cpp-python {llama.__version__}", "features": features, "resident": resident()}

    def prefill(self, tokens: int) -> float:
        context = self._context(1, tokens)
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        started = time.perf_counter()
        self._feed(context, sequences=1, position=0, each=tokens)
        llama.llama_synchronize(context)
        return time.perf_counter() - started

    def decode(self, prompt: int, tokens: int, sequences: int) -> float:
        """Seconds for `tokens` steps of `sequences` tokens each; the prompts are not counted."""
        context = self._context(sequences)
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        self._feed(context, sequences=sequences, position=0, each=prompt)
        llama.llama_synchronize(context)
        started = time.perf_counter()
        for position in range(prompt, prompt + tokens):
            self._feed(context, sequences=sequences, position=position, each=1)
            llama.llama_synchronize(context)
        return time.perf_counter() - started

    def _feed(self, context: Any, *, sequences: int, position: int, each: int) -> None:
        """`each` tokens for every sequence, in as many calls as BATCH needs; logits for each sequence's last one."""
        rows = [(seq, position + n, n == each - 1) for seq in range(sequences) for n in range(each)]
        for first in range(0, len(rows), BATCH):
            part = rows[first : first + BATCH]
            batch = self._batch
            batch.n_tokens = len(part)
            for row, (seq, pos, last) in enumerate(part):
                batch.token[row] = (pos + 37 * seq + 1) * STRIDE % self._vocab
                batch.pos[row] = pos
                batch.n_seq_id[row] = 1
                batch.seq_id[row][0] = seq
                batch.logits[row] = last
            status = llama.llama_decode(context, batch)
            if status:
                sys.exit(f"llama_decode says {status}")

    def _context(self, sequences: int, tokens: int = 0) -> Any:
        """One that holds `tokens` in each sequence; a larger one takes the place of a smaller one."""
        size = max(TOKENS_EACH, tokens) * sequences
        if sequences not in self._contexts or size > llama.llama_n_ctx(self._contexts[sequences]):
            if sequences in self._contexts:
                llama.llama_free(self._contexts.pop(sequences))
            params = llama.llama_context_default_params()
            params.n_ctx = size
            params.n_batch = params.n_ubatch = BATCH
            params.n_seq_max = sequences
            params.n_threads = params.n_threads_batch = self._threads
            self._contexts[sequences] = llama.llama_init_from_model(self._model, params)
        return self._contexts[sequences]


def resident() -> int:
    """Bytes of memory this process holds, file pages included."""
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))


@llama.llama_log_callback  # type: ignore[untyped-decorator]
def silent(level: int, text: bytes, data: ctypes.c_void_p) -> None:
    """Its own log would mix with ours."""


def main() -> None:
    llama.llama_log_set(silent, ctypes.c_void_p())
    llama.llama_backend_init()
    peer = Peer(sys.argv[1], int(sys.argv[2]))
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        work = order.pop("work")
        answer = peer.facts() if work == "facts" else {"seconds": getattr(peer, work)(**order)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
