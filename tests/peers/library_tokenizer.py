"""The oracle of BPE: the same families built on the `tokenizers` library, from the tables of a GGUF as lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from runtime.text.pretokenize import PreRule, pre_rule

CONTROL, UNKNOWN, BYTE = 3, 2, 6


def library_machine(metadata: Mapping[str, Any], rule: PreRule | None = None) -> Callable[[str], list[int]]:
    """Ids of a text without control tokens, blanks already spelled as the family spells them."""
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    table = {text: index for index, text in enumerate(tokens) if types[index] not in (CONTROL, UNKNOWN)}
    family = metadata["tokenizer.ggml.model"]
    if family == "llama":
        scores = metadata["tokenizer.ggml.scores"]
        machine = Tokenizer(models.BPE(table, merges_by_score(table, scores, types), byte_fallback=True))
        return lambda text: machine.encode(text, add_special_tokens=False).ids
    rule = rule or pre_rule("gemma4" if family == "gemma4" else metadata["tokenizer.ggml.pre"])
    merges = [(merge[: (cut := merge.find(" ", 1))], merge[cut + 1 :]) for merge in metadata["tokenizer.ggml.merges"]]
    options = {"ignore_merges": rule.ignore_merges} if rule.byte_level else {"byte_fallback": True}
    machine = Tokenizer(models.BPE(table, merges, **options))
    steps: list[Any] = [pre_tokenizers.Split(Regex(one), behavior="isolated") for one in rule.patterns]
    if rule.byte_level:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
    machine.pre_tokenizer = pre_tokenizers.Sequence(steps)
    return lambda text: machine.encode(text, add_special_tokens=False).ids


def merges_by_score(table: Mapping[str, int], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """Every split of every token into two tokens, highest score of the whole first."""
    words = {text: index for text, index in table.items() if types[index] != BYTE}
    return [
        (head, tail)
        for text in sorted(words, key=lambda text: -scores[words[text]])
        for cut in range(1, len(text))
        if (head := text[:cut]) in words and (tail := text[cut:]) in words
    ]
