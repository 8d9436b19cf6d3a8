"""The architectures this version can run: GGUF's name -> the function that reads its facts."""

from __future__ import annotations

from collections.abc import Callable

from runtime.models.bert import bert, nomic_bert
from runtime.models.gemma import gemma, gemma2, gemma3
from runtime.models.llama import llama
from runtime.models.phi3 import phi3
from runtime.models.qwen import qwen2, qwen3
from runtime.models.source import Source
from runtime.models.spec import ModelSpec

ARCHITECTURES: dict[str, Callable[[Source], ModelSpec]] = {
    "bert": bert,
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "llama": llama,
    "nomic-bert": nomic_bert,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen3": qwen3,
}
