r"""How each family of BPE vocabularies cuts text into words before merging: data, one row per family.

The name is GGUF's `tokenizer.ggml.pre`. A rule's patterns are applied one after another: each cuts what the one before
left, and both matches and gaps become pieces. The patterns are those published with each family's tokenizer.json.
A name that is not here is refused: a wrong cut gives wrong tokens without any visible error.
"""

from __future__ import annotations

from native.record import record
from runtime.text.errors import TokenizerError


@record(frozen=True, kw_only=True, slots=True)
class PreRule:
    patterns: tuple[str, ...]
    byte_level: bool = True  # False: SentencePiece spelling, spaces become U+2581 and bytes fall back to <0xXX>
    ignore_merges: bool = False  # a word that is a token is taken whole
    add_bos: bool = False  # when the GGUF has no tokenizer.ggml.add_bos_token


_CONTRACTION = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_QWEN2 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_QWEN35 = _CONTRACTION + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|" + _SPACES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(tail: str, digits: str) -> str:
    """Words cut where the case turns, as o200k and Tekken do."""
    head = r"[^\r\n\p{L}\p{N}]?"
    return (
        f"{head}{_UPPER}*{_LOWER}+{tail}|{head}{_UPPER}+{_LOWER}*{tail}|{digits}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
    )


# Letters with case, as DeepSeek LLM lists them, and CJK as both families do; escaped, because several of these
# characters change when a text tool normalizes them.
_DEEPSEEK_LETTERS = (
    "[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f"
    "\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-"
    "\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec"
    "\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-"
    "\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
    "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17"
    "\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-"
    "\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943]"
)
_DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK3_MAIN = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"""
    + _SPACES
)
_DEEPSEEK3 = (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK3_MAIN)

_DEFAULT = PreRule(patterns=(r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))
_RULE_GPT2 = PreRule(patterns=(_GPT2,))
_RULE_DIGITS = PreRule(patterns=(r"\p{N}", _GPT2))
_RULE_LLAMA3 = PreRule(patterns=(_LLAMA3,), ignore_merges=True, add_bos=True)
_RULE_LLAMA3_PLAIN = PreRule(patterns=(_LLAMA3,))
_RULE_QWEN2 = PreRule(patterns=(_QWEN2,))
_RULE_DEEPSEEK3 = PreRule(patterns=_DEEPSEEK3)
_RULE_GPT4O = PreRule(patterns=(_cased(_CONTRACTION + "?", r"\p{N}{1,3}"),))

_FAMILIES: tuple[tuple[tuple[str, ...], PreRule], ...] = (
    (("default",), _DEFAULT),
    (("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "mellum"), _RULE_GPT2),
    (("gigachat", "a.x-4.0", "modern-bert"), _RULE_GPT2),
    (("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"), _RULE_DIGITS),
    (("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"), _RULE_LLAMA3),
    (("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), _RULE_LLAMA3_PLAIN),
    (("qwen2", "deepseek-r1-qwen", "kormo", "stablelm2", "hunyuan", "megrez", "grok-2", "solar-open"), _RULE_QWEN2),
    (("qwen35",), PreRule(patterns=(_QWEN35,))),
    (("falcon",), PreRule(patterns=(r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]"))),
    (("deepseek-v3", "hunyuan-dense", "joyai-llm"), _RULE_DEEPSEEK3),
    (("gpt-4o", "llama4", "kanana2", "minimax-m2"), _RULE_GPT4O),
    (("tekken",), PreRule(patterns=(_cased("", r"\p{N}"),), ignore_merges=True, add_bos=True)),
    (("gemma4",), PreRule(patterns=(r"[^\n]+|[\n]+",), byte_level=False, add_bos=True)),
    (
        ("deepseek-llm",),
        PreRule(
            patterns=(
                r"[\r\n]",
                r"\s?" + _DEEPSEEK_LETTERS + "+",
                "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
                r"\s+$",
                _DEEPSEEK_CJK,
                r"\p{N}+",
            )
        ),
    ),
    (("deepseek-coder",), PreRule(patterns=(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, r"\p{N}"))),
)

PRE_RULES: dict[str, PreRule] = {name: rule for names, rule in _FAMILIES for name in names}


def pre_rule(name: str) -> PreRule:
    """Raises TokenizerError for a name without a row."""
    rule = PRE_RULES.get(name)
    if rule is None:
        raise TokenizerError(
            f"tokenizer.ggml.pre: unknown pre-tokenizer {name!r}",
            hint=f"known: {', '.join(sorted(PRE_RULES))}",
        )
    return rule
