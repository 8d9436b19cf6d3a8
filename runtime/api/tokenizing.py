"""/api/tokenize and /api/detokenize, and the side of a model that only knows text: nothing is loaded but its tokenizer.

Ours: Ollama has no such routes. The field names are those of its proposals and of llama.cpp's server.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from runtime.api.asking import model_of
from runtime.api.gojson import Body
from runtime.api.prompts import MAX_IDS
from runtime.api.state import Server, server_of
from runtime.api.store_routes import body_of
from runtime.api.transport import json_response
from runtime.card import ModelCard
from runtime.errors import RequestRefused
from runtime.loaded import read_text_side
from runtime.text.tokenizer import Tokenizer

KEPT = 4  # tokenizers of models that may not be loaded


class TextSide:
    """What a question can be made for without an engine. `n_ctx`: no bound, so that nothing is dropped to fit."""

    n_ctx = 1 << 31

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer


_sides: OrderedDict[str, TextSide] = OrderedDict()


async def text_side(server: Server, card: ModelCard) -> TextSide:
    """Read from the file's head once, and kept while it is one of the last KEPT that were asked for."""
    digest = str(card.weights.digest)
    side = _sides.get(digest)
    if side is None:
        side = await asyncio.to_thread(_read, server.store.blob_path(card.weights.digest))
    _sides[digest] = side
    _sides.move_to_end(digest)
    while len(_sides) > KEPT:
        _sides.popitem(last=False)
    return side


def _read(path: Path) -> TextSide:
    return TextSide(read_text_side(path)[0])


async def tokenize(request: Request) -> Response:
    """`content` to `tokens`. `add_special` (false): with the begin and end tokens the model wants; `parse_special`
    (true): control texts become control tokens; `with_pieces`: each token with its text."""
    body = await body_of(request, "TokenizeRequest")
    tokenizer, asked = await _tokenizer(request, body)
    text = body.text("content") or body.text("text") or body.text("prompt")
    special = body.flag("parse_special", True)
    whole = None if body.flag("add_special") else False
    ids = await asyncio.to_thread(lambda: tokenizer.encode(text, special=special, bos=whole))
    tokens: list[Any] = ids
    if body.flag("with_pieces"):
        tokens = [{"id": token, "piece": tokenizer.token_bytes(token).decode("utf-8", "replace")} for token in ids]
    return json_response({"model": asked, "tokens": tokens})


async def detokenize(request: Request) -> Response:
    """`tokens` to `content`; control tokens by name."""
    body = await body_of(request, "DetokenizeRequest")
    tokenizer, asked = await _tokenizer(request, body)
    ids = body.array("tokens", int, "int", most=MAX_IDS)
    if ids and not 0 <= min(ids) <= max(ids) < tokenizer.vocab_size:
        token = next(token for token in ids if not 0 <= token < tokenizer.vocab_size)
        raise RequestRefused(
            f"token {str(token)[:24]} is not in the model's vocabulary of {tokenizer.vocab_size}", param="tokens"
        )
    content = await asyncio.to_thread(lambda: tokenizer.decode(ids, special=True))
    return json_response({"model": asked, "content": content})


async def _tokenizer(request: Request, body: Body) -> tuple[Tokenizer, str]:
    server, asked = server_of(request), (body.text("model") or body.text("name")).strip()
    if not asked:
        raise RequestRefused("model is required", param="model")
    _, card = await model_of(server, asked)
    return (await text_side(server, card)).tokenizer, asked
