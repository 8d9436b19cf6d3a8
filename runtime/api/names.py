"""Model names in requests (contract, 1.4 and 1.5): the `:local` and `:cloud` selectors, and who exists.

`:cloud` and tags that end in `-cloud` mean a model on someone else's computer; this server opens no outbound
connection, so they are refused as Ollama does with its cloud switched off, unless a model of exactly that name is in
the store.
Each endpoint words a missing model in its own way; the callers do.
"""

from __future__ import annotations

from manifests.errors import ManifestsError, ModelNameError, NotFound
from manifests.name import ModelName
from manifests.store import REPAIR, Store
from runtime.card import CardBox, ModelCard
from runtime.errors import Forbidden, ModelNotFound, ModelRefused, RequestRefused

NO_CLOUD = "ollama cloud is disabled: "
REMOTE_MODEL = NO_CLOUD + "remote model is unavailable"
REMOTE_DETAILS = NO_CLOUD + "remote model details are unavailable"


def parse(text: str, store: Store, *, cloud_text: str = REMOTE_MODEL) -> ModelName | None:
    """The stored spelling of the name, or None where `text` is not a name. Blocks on disk."""
    text = text.strip()
    name = _parsed(text)
    if name is not None and store.has(name):
        return store.resolve(name)
    base, selector = _split(text)
    if selector and _split(base)[1] not in ("", selector):
        raise RequestRefused(f'use either :local or :cloud, not both: "{text}"')
    if selector == "cloud":
        raise Forbidden(cloud_text)
    name = _parsed(base)
    return store.resolve(name) if name is not None else None


def refuse_remote(card: ModelCard, *, text: str = REMOTE_MODEL) -> None:
    """A manifest that only names a model on another host."""
    if card.config.get("remote_host") or card.config.get("remote_model"):
        raise Forbidden(text)


def find(box: CardBox, text: str, *, invalid: str = "invalid model name") -> tuple[ModelName, ModelCard]:
    """For the endpoints that answer: 400 `invalid`, 404 `model 'x' not found`. Blocks on disk."""
    name = parse(text, box.store)
    if name is None:
        raise RequestRefused(invalid)
    card = card_of(box, name)
    refuse_remote(card)
    return name, card


def card_of(box: CardBox, name: ModelName) -> ModelCard:
    """Raises NotFound where there is no such model; where what is stored of it is damaged, that is no fault of who asks
    for it. Blocks on disk."""
    try:
        return box.card(name)
    except ManifestsError as error:
        if isinstance(error, NotFound) and not box.store.has(name):
            raise
        raise ModelRefused(f"{name.short} cannot be read: {error.plain}", hint=error.hint or REPAIR) from None


def chosen(box: CardBox, asked: str) -> tuple[ModelName, ModelCard]:
    """`find`, in the words of the endpoints that answer."""
    try:
        return find(box, asked)
    except NotFound as error:
        raise ModelNotFound(f"model '{asked}' not found", hint=error.hint, param="model") from None


def known(box: CardBox, text: str) -> tuple[ModelName, ModelCard] | None:
    """What `find` says, where that takes no more than reading one small file: a model stored in this spelling, whose
    card is at hand."""
    name = _parsed(text.strip())
    card = box.known(name) if name is not None else None
    if name is None or card is None:
        return None
    refuse_remote(card)
    return name, card


def _parsed(text: str) -> ModelName | None:
    try:
        return ModelName.parse(text)
    except ModelNameError:
        return None


def _split(text: str) -> tuple[str, str]:
    """("model:tag", "cloud") for `model:tag:cloud` and `model:tag-cloud`."""
    head, colon, tail = text.rpartition(":")
    lower = tail.lower()
    if colon and "/" not in tail:
        if lower in ("local", "cloud"):
            return head, lower
        if lower.endswith("-cloud"):
            return f"{head}:{tail[:-6]}", "cloud"
    return text, ""
