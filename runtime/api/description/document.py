"""GET /openapi.json, and docs/api/openapi.json: one document, made by FastAPI from the table of routes.

FastAPI gathers paths, methods, operation ids and the words of each route's docstring; what a route takes and answers is
told by native.py, openai.py and anthropic.py. A field that is answered and not described is a mistake, of the server or
here. The answer of a stream is described by one of its lines or events.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from fastapi import FastAPI
from starlette.responses import Response

from runtime.access.scopes import scope_of
from runtime.api.anthropic.messages import ANTHROPIC
from runtime.api.app import NOT_BUILT, ROUTES, dialect_of
from runtime.api.description import anthropic, native, openai
from runtime.api.description.forms import JSON, NAME, Route, Schema, ref
from runtime.api.openai.wire import OPENAI

NOTHING: Route = ("Not built: refused by name", None, None)
DESCRIBED = native.ROUTES | openai.ROUTES | anthropic.ROUTES | {f"POST {path}": NOTHING for path in NOT_BUILT}
APIS = {"Error": "Ollama", "OpenAIError": "OpenAI", "AnthropicError": "Anthropic"}  # whose routes refuse so
PARTS: dict[str, Schema] = {  # of paths
    "digest": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
    "model": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/-]*$"},
    "key": NAME,
}
KEY: Schema = {
    "type": "http", "scheme": "bearer",
    "description": "Where the server asks for keys (--auth). Each operation names the scope that its key needs.",
}  # fmt: skip
REFUSALS = {
    400: "A field is wrong, or cannot be honoured; the text names it",
    401: "A key is asked for, and there is none, or a wrong one",
    403: "The key's scopes, the Host or the Origin do not allow it",
    404: "No such model",
    413: "A body of more than 32 MiB",
    429: "The key's limits; Retry-After says when",
    500: "The model or the store failed; also an option of a wrong type, as in Ollama",
    501: "Not built",
    503: "Too many wait, a load failed, or what is asked for needs a connection",
}


@cache
def page(*, version: str, at: str = "/") -> str:
    """The document as JSON, one line for each operation and each component. `at`: the server's address."""
    found = document(version, at)
    inner = {name: found.pop(name) for name in ("paths", "components")}
    lines = [f'"{key}": {json.dumps(value)}' for key, value in found.items()]
    for name, groups in inner.items():
        told = [
            f"{json.dumps(group)}: {{\n"
            + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in members.items())
            + "\n}"
            for group, members in groups.items()
        ]
        lines.append(f'"{name}": {{\n' + ",\n".join(told) + "\n}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def document(version: str, at: str) -> Schema:
    app = FastAPI(
        title="sealift",
        version=version,
        description="Routes of `sealift serve`: Ollama's, OpenAI's, Anthropic's; see docs/compatibility.md.",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        servers=[{"url": at}],
        openapi_url=None,
    )
    schemas = native.SCHEMAS | openai.SCHEMAS | anthropic.SCHEMAS
    for methods, path, endpoint in ROUTES:
        name = "".join(word.capitalize() for word in endpoint.__name__.split("_"))
        for method in methods.split():
            told = _told(method, path, name, schemas)
            app.add_api_route(path, endpoint, methods=[method], response_class=Response, response_model=None, **told)
    refusals = {
        f"{error}{status}": {"description": text, "content": {JSON: {"schema": ref(error)}}}
        for error in APIS
        for status, text in REFUSALS.items()
    }
    components = {"schemas": schemas, "responses": refusals, "securitySchemes": {"key": KEY}}
    return app.openapi() | {"components": components}


def _told(method: str, path: str, name: str, schemas: dict[str, Schema]) -> dict[str, Any]:
    """What FastAPI is to say of an operation. HEAD is its GET without a body, where it is not described by itself."""
    shown, error, scope = path.replace(":path", ""), _error(path), scope_of(path)
    summary, taken, given = DESCRIBED.get(f"{method} {shown}") or DESCRIBED[f"GET {shown}"]
    more: Schema = {"responses": {str(code): {"$ref": f"#/components/responses/{error}{code}"} for code in REFUSALS}}
    parts = [part[1:-1] for part in shown.split("/") if part.startswith("{")]
    if parts:
        more["parameters"] = [{"name": part, "in": "path", "required": True, "schema": PARTS[part]} for part in parts]
    if taken:
        more["requestBody"] = {"required": True, "content": _by_name(taken, f"{name}Request", schemas)}
    if scope:
        more["security"] = [{}, {"key": [scope]}]
    told = {"summary": summary, "tags": [APIS[error]], "openapi_extra": more}
    if given is None:
        return told | {"status_code": 501, "response_description": REFUSALS[501]}
    responses: dict[int, Schema] = {}
    if given and method != "HEAD":
        responses[200] = {"content": _by_name(given, f"{name}Response", schemas)}
    if (method, path) == ("POST", "/api/blobs/{digest}"):
        responses[201] = {"description": "Stored"}
    return told | {"response_description": "Done", "responses": responses}


def _by_name(content: Schema, name: str, schemas: dict[str, Schema]) -> Schema:
    """An object among the others, since whoever makes a client from this makes a type of each. FastAPI would also write
    its numbers anew, 0 as 0.0."""
    if JSON not in content or "$ref" in content[JSON]["schema"]:
        return content
    schemas[name] = content[JSON]["schema"]
    return content | {JSON: {"schema": ref(name)}}


def _error(path: str) -> str:
    """The schema of a path's errors."""
    dialect = dialect_of(path)
    return "AnthropicError" if dialect is ANTHROPIC else "OpenAIError" if dialect is OPENAI else "Error"
