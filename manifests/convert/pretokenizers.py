r"""How tokenizer.json cuts words, told by GGUF's name for it: data. What is not here is refused.

A cut is the list of regular expressions that tokenizer.json applies, in its order; `GPT2` stands for the one that is
built into its `ByteLevel` step, `DIGITS` for `Digits` with single digits. The patterns are those of the published
tokenizers; a difference of one character is another cut, and gives other tokens without any error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manifests.errors import CreateError

GPT2, DIGITS = "<byte level>", "<single digits>"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LETTERS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_MARKS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|"
_PATHS = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|"


def _cased(tail: str, digits: str) -> str:
    head = r"[^\r\n\p{L}\p{N}]?"
    return f"{head}{_UPPER}*{_LOWER}+{tail}|{head}{_UPPER}+{_LOWER}*{tail}|{digits}{_PATHS}{_SPACES}"


# cut -> GGUF's name where whole words that are tokens are taken first (`ignore_merges`), and where not
_CUTS: dict[tuple[str, ...], tuple[str | None, str | None]] = {
    (GPT2,): (None, "gpt-2"),
    (DIGITS, GPT2): (None, "smollm"),
    (_SUFFIX + _LETTERS + r"\p{N}{1,3}" + _MARKS + _SPACES,): ("llama-bpe", "dbrx"),
    (_SUFFIX + _LETTERS + r"\p{N}" + _MARKS + _SPACES,): (None, "qwen2"),
    (_cased("", r"\p{N}"),): ("tekken", None),
    (_cased(_SUFFIX + "?", r"\p{N}{1,3}"),): (None, "gpt-4o"),
}


def pre_name(step: Mapping[str, Any] | None, *, ignore_merges: bool) -> str:
    """`tokenizer.ggml.pre` of a byte-level `pre_tokenizer`. Raises CreateError for one that is not known."""
    steps = tuple(_cuts(step))
    found = _CUTS.get(steps, (None, None))[0 if ignore_merges else 1]
    if found is None:
        shown = ", ".join(steps) or "none"
        raise CreateError(
            f"tokenizer.json: pre_tokenizer: a cut of words that is not known: {shown[:200]}",
            hint=f"known: {', '.join(sorted(name for names in _CUTS.values() for name in names if name))}",
        )
    return found


def _cuts(step: Any) -> list[str]:
    kind = step.get("type") if isinstance(step, Mapping) else None
    if kind == "Sequence" and isinstance(step.get("pretokenizers"), list):
        return [cut for part in step["pretokenizers"] for cut in _cuts(part)]
    if kind == "ByteLevel" and step.get("add_prefix_space") is False:
        return [GPT2] if step.get("use_regex", True) else []
    if kind == "Digits" and step.get("individual_digits") is True:
        return [DIGITS]
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        pattern = step.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, Mapping) else None
        if isinstance(regex, str):
            return [regex]
    raise CreateError(f"tokenizer.json: pre_tokenizer: a step that is not known: {str(step)[:200]}")
