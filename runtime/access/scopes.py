"""What a key may be for, and which of it each route asks for.

    infer     answers, embeddings, tokens and counts; loads the model that is asked, and unloads it (`keep_alive` 0)
    read      what models there are and which are loaded
    admin     what changes the store, or reaches a registry: pull, push, create, copy, delete, blobs
    metrics   /metrics

None contains another. A route that is not in the table asks for `admin`: deny by default, and a test names it.
"""

from __future__ import annotations

from typing import Literal, get_args

Scope = Literal["infer", "read", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
USUAL: tuple[Scope, ...] = ("infer", "read")  # of a key that was made without any

OPEN = ("/", "/health")  # for GET and HEAD, without a key: clients and watchdogs ask before they have one

# by the path of a route, as the application declares it
ROUTES: dict[str, Scope] = {
    "/openapi.json": "read",
    "/api/version": "read",
    "/api/status": "read",
    "/api/ps": "read",
    "/api/tags": "read",
    "/api/show": "read",
    "/v1/models": "read",
    "/v1/models/{model:path}": "read",
    "/api/generate": "infer",
    "/api/chat": "infer",
    "/api/embed": "infer",
    "/api/embeddings": "infer",
    "/v1/chat/completions": "infer",
    "/v1/completions": "infer",
    "/v1/embeddings": "infer",
    "/v1/responses": "infer",
    "/v1/messages": "infer",
    "/v1/messages/count_tokens": "infer",
    "/v1/audio/transcriptions": "infer",
    "/v1/systemone": "infer",
    "/api/tokenize": "infer",
    "/api/detokenize": "infer",
    "/api/me": "read",
    "/api/signout": "read",
    "/api/user/keys/{key}": "read",
    "/api/experimental/web_search": "infer",
    "/api/experimental/web_fetch": "infer",
    "/api/experimental/model-recommendations": "read",
    "/api/copy": "admin",
    "/api/delete": "admin",
    "/api/create": "admin",
    "/api/blobs/{digest}": "admin",
    "/api/pull": "admin",
    "/api/push": "admin",
    "/metrics": "metrics",
}


def is_open(method: str, path: str) -> bool:
    return path in OPEN and method in ("GET", "HEAD")


def scope_of(route: str) -> Scope | None:
    """None: open to all."""
    return None if route in OPEN else ROUTES.get(route, "admin")
