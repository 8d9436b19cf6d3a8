"""WordPiece (BERT) on the `tokenizers` library. A GGUF marks the start of a word by U+2581, not its inside by `##`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from runtime.text.errors import TokenizerError
from runtime.text.vocab import CONTROL, SPACE, UNKNOWN, Vocab, flag


def word_piece(metadata: Mapping[str, object], vocab: Vocab) -> Callable[[str], Iterable[int]]:
    """What gives a text's ids. Raises TokenizerError."""
    table = {}
    for index, text in enumerate(vocab.texts()):
        special = vocab.types[index] in (CONTROL, UNKNOWN) or (text.startswith("[") and text.endswith("]"))
        spelled = text if special else text[1:] if text.startswith(SPACE) else f"##{text}"
        table[spelled] = index
    if vocab.unk is None:
        raise TokenizerError("tokenizer.ggml.unknown_token_id: WordPiece needs one")
    machine = Tokenizer(models.WordPiece(table, unk_token=vocab.text(vocab.unk), max_input_chars_per_word=1 << 10))
    lowercase = flag(metadata, "tokenizer.ggml.normalizer.lowercase", True)
    accents = flag(metadata, "tokenizer.ggml.normalizer.strip_accents", lowercase)
    machine.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=accents)
    machine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def merge(text: str) -> Iterable[int]:
        """As a batch of one: that way the library keeps no places of characters, and lets other threads run."""
        return machine.encode_batch_fast([text], add_special_tokens=False)[0].ids

    return merge
