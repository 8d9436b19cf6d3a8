"""tokenizer.json (or SentencePiece's tokenizer.model) to GGUF's tables.

    BPE over bytes             gpt2    tokens, merges, and a name for the cut of words (convert.pretokenizers)
    BPE with byte fallback     llama   tokens and scores: of tokenizer.model, or the rank of the first merge that makes
                                       the token, which orders merges as SentencePiece's scores did
    WordPiece                  bert    tokens with U+2581 where a word begins

Tokens beyond the table, up to the embedding's rows, are padding that is never chosen. Special ids are those of
tokenizer_config.json, else of config.json. Refused by name: other models (unigram), normalizers and cuts of words that
are not known, ids with a gap or used twice, more tokens than the embedding has rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manifests.convert.pretokenizers import pre_name
from manifests.convert.sentencepiece import MAX_PIECES, read_pieces
from manifests.convert.tree import Tree
from manifests.errors import CreateError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # tokenizer.ggml.token_type
SPACE = "\u2581"
_PREPEND = {"type": "Prepend", "prepend": SPACE}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPECIAL = {
    "bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding", "sep_token": "seperator",
    "cls_token": "cls", "mask_token": "mask",
}  # fmt: skip

# what BERT's tokenizers call theirs where tokenizer_config.json does not say, or is not there
_BERT = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "mask_token": "[MASK]"}

Keys = dict[str, Any]


@dataclass(slots=True)
class _Table:
    """Texts and types by id, as they are gathered."""

    texts: dict[int, str] = field(default_factory=dict)
    types: dict[int, int] = field(default_factory=dict)

    def put(self, index: Any, text: Any, kind: int) -> None:
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < MAX_PIECES:
            raise CreateError(f"tokenizer.json: token {str(text)[:40]!r}: id {str(index)[:20]}")
        if not isinstance(text, str) or self.texts.get(index, text) != text:
            raise CreateError(f"tokenizer.json: id {index}: stands for two texts")
        self.texts[index], self.types[index] = text, kind

    def rows(self, count: int) -> tuple[list[str], list[int]]:
        """`count` rows, padded. Refuses gaps."""
        if len(self.texts) > count:
            raise CreateError(f"tokenizer.json: {len(self.texts)} tokens, but config.json: vocab_size is {count}")
        lost = next((index for index in range(len(self.texts)) if index not in self.texts), None)
        texts = [self.texts.get(index, f"[PAD{index}]") for index in range(count)]
        if lost is not None and max(self.texts) >= count:
            raise CreateError(f"tokenizer.json: no token has the id {lost}")
        return texts, [self.types.get(index, UNUSED) for index in range(count)]


TOOL_USE = "tool_use"


def tokenizer_keys(tree: Tree, rows: int) -> Keys:
    """All `tokenizer.*` keys for an embedding of `rows` rows. Raises CreateError."""
    document = tree.json("tokenizer.json")
    if document:
        keys, texts = _from_json(document, rows)
    elif "tokenizer.model" in tree.files:
        keys, texts = _from_pieces(tree, rows)
    else:
        raise CreateError("neither tokenizer.json nor tokenizer.model was given")
    config = tree.json("tokenizer_config.json")
    named = _BERT | config if keys["tokenizer.ggml.model"] == "bert" else config
    keys |= _special_ids(tree, named, texts) | _framing(document, config, keys["tokenizer.ggml.model"])
    return keys | _templates(tree, config)


def _from_json(document: Mapping[str, Any], rows: int) -> tuple[Keys, list[str]]:
    model = document.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise CreateError("tokenizer.json: model: expected an object with a vocab; unigram models are not converted")
    kind = model.get("type") or (
        "WordPiece" if "continuing_subword_prefix" in model and "merges" not in model else "BPE"
    )
    table = _table(document, model["vocab"])
    if kind == "WordPiece":
        return _word_piece(document, model, table, rows)
    if kind != "BPE":
        raise CreateError(f"tokenizer.json: model.type: found {kind!r:.40}; BPE and WordPiece are converted")
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(key):
            raise CreateError(f"tokenizer.json: model.{key}: found {model[key]!r:.40}; not supported")
    merges = _merges(model.get("merges"))
    texts, types = table.rows(rows)
    if not model.get("byte_fallback"):
        _normalizer(document, ({"type": "NFC"},))
        pre = pre_name(document.get("pre_tokenizer"), ignore_merges=model.get("ignore_merges") is True)
        return {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": texts,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges],
        }, texts
    types = [BYTE if _BYTE.fullmatch(text) else kind for text, kind in zip(texts, types, strict=True)]
    return _spaced(texts, _ranks(merges, texts), types, prefix=_space_prefix(document)), texts


def _spaced(texts: list[str], scores: list[float], types: list[int], *, prefix: bool) -> Keys:
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": texts,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def _table(document: Mapping[str, Any], vocab: Mapping[str, Any]) -> _Table:
    table = _Table()
    unknown = document["model"].get("unk_token")
    for text, index in vocab.items():
        table.put(index, text, UNKNOWN if text == unknown else NORMAL)
    added = document.get("added_tokens") or []
    if not isinstance(added, list):
        raise CreateError("tokenizer.json: added_tokens: expected a list")
    for token in added:
        if not isinstance(token, dict):
            raise CreateError("tokenizer.json: added_tokens: expected objects")
        kind = CONTROL if token.get("special") else USER_DEFINED
        table.put(token.get("id"), token.get("content"), UNKNOWN if token.get("content") == unknown else kind)
    return table


def _merges(found: Any) -> list[tuple[str, str]]:
    """Written as `"a b"` or `["a", "b"]`."""
    if not isinstance(found, list):
        raise CreateError("tokenizer.json: model.merges: expected a list")
    pairs = []
    for index, merge in enumerate(found):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise CreateError(f"tokenizer.json: model.merges[{index}]: expected two parts")
        pairs.append((parts[0], parts[1]))
    return pairs


def _ranks(merges: list[tuple[str, str]], texts: list[str]) -> list[float]:
    """Minus the place, among all made tokens, at which a merge first makes this one; 0 for those no merge makes."""
    places: dict[str, float] = {}
    for left, right in merges:
        places.setdefault(left + right, -1.0 - len(places))
    return [places.get(text, 0.0) for text in texts]


def _normalizer(document: Mapping[str, Any], known: tuple[dict[str, Any], ...]) -> None:
    """Refuses steps other than these, to the letter."""
    found = document.get("normalizer")
    steps = found.get("normalizers") if isinstance(found, dict) and found.get("type") == "Sequence" else [found]
    for step in steps if isinstance(steps, list) else [found]:
        if step is not None and step not in known:
            raise CreateError(f"tokenizer.json: normalizer: a step that is not known: {str(step)[:120]}")


def _space_prefix(document: Mapping[str, Any]) -> bool:
    """Whether a blank is put in front of a text; told by the normalizer or, in newer files, by Metaspace."""
    _normalizer(document, (_PREPEND, _REPLACE))
    found = document.get("normalizer")
    steps = found.get("normalizers", [found]) if isinstance(found, dict) else []
    prefix = any(step.get("type") == "Prepend" for step in steps if isinstance(step, dict))
    cut = document.get("pre_tokenizer")
    kind = cut.get("type") if isinstance(cut, dict) else None
    if isinstance(cut, dict) and kind == "Metaspace" and cut.get("replacement", SPACE) == SPACE:
        scheme = cut.get("prepend_scheme", "always" if cut.get("add_prefix_space", True) else "never")
        return prefix or scheme in ("first", "always")
    if cut is not None and not (isinstance(cut, dict) and kind == "Split" and cut.get("pattern") == {"String": " "}):
        raise CreateError(f"tokenizer.json: pre_tokenizer: a step that is not known: {str(cut)[:120]}")
    return prefix


def _word_piece(
    document: Mapping[str, Any], model: Mapping[str, Any], table: _Table, rows: int
) -> tuple[Keys, list[str]]:
    if model.get("continuing_subword_prefix", "##") != "##":
        raise CreateError("tokenizer.json: model.continuing_subword_prefix: only '##' is supported")
    normalizer = document.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        raise CreateError("tokenizer.json: normalizer: expected BertNormalizer")
    cut = document.get("pre_tokenizer")
    if not isinstance(cut, dict) or cut.get("type") != "BertPreTokenizer":
        raise CreateError("tokenizer.json: pre_tokenizer: expected BertPreTokenizer")
    texts, types = table.rows(rows)
    types = [CONTROL if kind == UNKNOWN else kind for kind in types]
    spelled = [
        text if _whole(text, kind) else text[2:] if text.startswith("##") else SPACE + text
        for text, kind in zip(texts, types, strict=True)
    ]
    keys: Keys = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "bert-bge",
        "tokenizer.ggml.tokens": spelled,
        "tokenizer.ggml.token_type": types,
    }
    lowercase = normalizer.get("lowercase") is not False
    accents = normalizer.get("strip_accents")
    if not lowercase or accents not in (None, lowercase):
        keys["tokenizer.ggml.normalizer.lowercase"] = lowercase
        keys["tokenizer.ggml.normalizer.strip_accents"] = lowercase if accents is None else bool(accents)
    return keys, texts


def _whole(text: str, kind: int) -> bool:
    """Tokens that are no part of a word: control texts, and such in brackets as [unused0]."""
    return kind in (CONTROL, UNUSED) or (text.startswith("[") and text.endswith("]"))


def _from_pieces(tree: Tree, rows: int) -> tuple[Keys, list[str]]:
    with tree.files["tokenizer.model"].open("rb") as stream:
        raw = stream.read((64 << 20) + 1)
    if len(raw) > 64 << 20:
        raise CreateError("tokenizer.model: more than 64 MiB")
    pieces = read_pieces(raw)
    table = _Table()
    for index, (text, kind) in enumerate(zip(pieces.texts, pieces.types, strict=True)):
        table.put(index, text, kind)
    for text, index in tree.json("added_tokens.json").items():
        if index not in table.texts:
            table.put(index, text, USER_DEFINED)
    texts, types = table.rows(rows)
    scores = pieces.scores + [0.0] * (rows - len(pieces.scores))
    return _spaced(texts, scores, types, prefix=pieces.space_prefix), texts


def _special_ids(tree: Tree, config: Mapping[str, Any], texts: list[str]) -> Keys:
    ids = {text: index for index, text in enumerate(texts)}
    model = tree.json("config.json")
    keys: Keys = {}
    for name, short in _SPECIAL.items():
        text = config.get(name)
        text = text.get("content") if isinstance(text, dict) else text
        index = ids.get(text) if isinstance(text, str) else None
        if index is None:
            index = model.get(f"{name}_id")
            index = index[0] if isinstance(index, list) and index else index
        if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(texts):
            keys[f"tokenizer.ggml.{short}_token_id"] = index
    return keys


def _framing(document: Mapping[str, Any], config: Mapping[str, Any], model: str) -> Keys:
    """Which of begin and end are added: as tokenizer_config.json says, else as the post-processor does."""
    template = _template_processing(document.get("post_processor"))
    known = bool(document)
    keys: Keys = {}
    for name, place, default in (("bos", 0, model in ("llama", "bert")), ("eos", -1, model == "bert")):
        told = config.get(f"add_{name}_token")
        made = bool(template) and isinstance(template[place], dict) and "SpecialToken" in template[place]
        keys[f"tokenizer.ggml.add_{name}_token"] = told if isinstance(told, bool) else made if known else default
    return keys


def _template_processing(found: Any) -> list[Any]:
    """The `single` template, where there is one."""
    if not isinstance(found, dict):
        return []
    if found.get("type") == "Sequence":
        return next((part for step in found.get("processors", []) if (part := _template_processing(step))), [])
    single = found.get("single")
    return single if found.get("type") == "TemplateProcessing" and isinstance(single, list) else []


def _templates(tree: Tree, config: Mapping[str, Any]) -> Keys:
    """chat_template.jinja, else `chat_template` of tokenizer_config.json: of several, the one named default, and beside
    it the one for conversations with tools."""
    text, found = tree.text("chat_template.jinja"), config.get("chat_template")
    if text is not None or not isinstance(found, list):
        found = [{"name": "default", "template": found if text is None else text}]
    named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
    default, for_tools = named.get("default"), named.get(TOOL_USE)
    if not isinstance(default, str) or not default:
        return {}
    keys: Keys = {"tokenizer.chat_template": default}
    if isinstance(for_tools, str) and for_tools:
        keys |= {"tokenizer.chat_templates": [TOOL_USE], f"tokenizer.chat_template.{TOOL_USE}": for_tools}
    return keys
