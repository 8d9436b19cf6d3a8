"""What /api/show and `sealift show` say about a model (contract, 3.5), as one JSON object.

Unlike Ollama's, the parameters keep the order they are stored in, and `template` is the text that is used.
"""

from __future__ import annotations

import math
from typing import Any

from manifests.errors import NotFound
from manifests.gguf import Gguf
from manifests.store import Store
from runtime.api import names
from runtime.api.durations import rfc3339
from runtime.card import CardBox, ModelCard
from runtime.errors import ModelNotFound, RequestRefused


def describe(box: CardBox, asked: str, *, verbose: bool = False, system: str = "") -> dict[str, Any]:
    """`verbose` adds the contents of long arrays; `system` stands in for the model's own. Blocks on disk."""
    name = names.parse(asked, box.store, cloud_text=names.REMOTE_DETAILS)
    if name is None:
        raise RequestRefused("invalid model name")
    try:
        card = names.card_of(box, name)
        modified = box.store.modified(name).timestamp()
    except NotFound:
        raise ModelNotFound(f"model '{name.short}' not found") from None
    names.refuse_remote(card, text=names.REMOTE_DETAILS)
    facts: dict[str, Any] = {}
    texts = {
        "license": "\n".join(card.licenses),
        "modelfile": card.modelfile(name, box.store),
        "parameters": card.parameters_text,
        "template": card.shown_template,
        "system": system or card.system,
        **{key: str(card.config.get(key) or "") for key in ("renderer", "parser")},
    }
    facts |= {key: text for key, text in texts.items() if text}
    facts["details"] = card.details
    if card.messages:
        facts["messages"] = [{"role": role, "content": content} for role, content in card.messages]
    facts["model_info"] = _model_info(box.store, card, verbose=verbose)
    if card.gguf:
        facts["tensors"] = [{"name": t.name, "type": t.type, "shape": list(t.shape)} for t in card.gguf.tensors]
    facts["capabilities"] = list(card.capabilities)
    facts["modified_at"] = rfc3339(round(modified * 1e9))
    if card.config.get("requires"):
        facts["requires"] = str(card.config["requires"])
    return facts


def _model_info(store: Store, card: ModelCard, *, verbose: bool) -> dict[str, Any]:
    if not card.gguf:
        return {}
    info = Gguf.head(store.blob_path(card.weights.digest)).describe(verbose=True) if verbose else card.gguf.info
    return {key: _finite(value) for key, value in info.items()}


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity; a GGUF's float may be one."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list) and value and isinstance(value[0], float):
        return [_finite(item) for item in value]
    return value
