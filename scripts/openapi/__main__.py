"""docs/api/openapi.json: what the server's routes take and answer, as OpenAPI 3.1. `scripts/docs` writes it.

A field that is answered and not described is a mistake, of the server or here:
tests/conformance/test_description.py holds live answers against it. The answer of a stream is described by one of its
lines or events.
"""

from __future__ import annotations

import json

from runtime.api.anthropic.messages import ANTHROPIC
from runtime.api.app import NOT_BUILT, ROUTES, dialect_of
from runtime.api.openai.wire import OPENAI
from scripts.openapi import anthropic, native, openai
from scripts.openapi.forms import NAME, Route, Schema, ref

NOTHING: Route = ("Not built: refused by name", None, None)
DESCRIBED = native.ROUTES | openai.ROUTES | anthropic.ROUTES | {f"POST {path}": NOTHING for path in NOT_BUILT}
REFUSALS = {
    "400": "A field is wrong, or cannot be honoured; the text names it",
    "401": "A key is asked for, and there is none, or a wrong one",
    "403": "The key's scopes, the Host or the Origin do not allow it",
    "404": "No such model",
    "413": "A body of more than 32 MiB",
    "429": "The key's limits; Retry-After says when",
    "500": "The model or the store failed; also an option of a wrong type, as in Ollama",
    "501": "Not built",
    "503": "Too many wait, a load failed, or what is asked for needs a connection",
}


def document() -> Schema:
    paths: dict[str, Schema] = {}
    for methods, path, _ in ROUTES:
        shown = path.replace(":path", "")
        for method in methods.split():
            paths.setdefault(shown, {})[method.lower()] = _operation(method, shown)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sealift",
            "version": "1",  # of this description
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "Routes of `sealift serve`: Ollama's, OpenAI's, Anthropic's; see docs/compatibility.md.",
        },
        "servers": [{"url": "http://127.0.0.1:11434"}],
        "paths": paths,
        "components": {
            "schemas": native.SCHEMAS | openai.SCHEMAS | anthropic.SCHEMAS,
            "responses": _refusals(),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "Where the server asks for keys"}
            },
        },
        "security": [{}, {"key": []}],
    }


def _operation(method: str, path: str) -> Schema:
    """HEAD is its GET without a body, where it is not described by itself."""
    summary, taken, given = DESCRIBED.get(f"{method} {path}") or DESCRIBED[f"GET {path}"]
    found: Schema = {"operationId": f"{method.lower()} {path}", "summary": summary}
    where = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    if where:
        schemas = {
            "digest": {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"},
            "model": {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._:/-]*$"},
        }
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": schemas.get(name, NAME)} for name in where
        ]
    if taken:
        found["requestBody"] = {"required": True, "content": taken}
    found["responses"] = ({} if given is None else _success(method, path, given)) | _failures(path)
    return found


def _success(method: str, path: str, content: Schema) -> Schema:
    said: Schema = {"description": "Done"} | ({"content": content} if content and method != "HEAD" else {})
    made = {"201": {"description": "Stored"}} if (method, path) == ("POST", "/api/blobs/{digest}") else {}
    return {"200": said} | made


def _failures(path: str) -> Schema:
    return {status: {"$ref": f"#/components/responses/{_error(path)}{status}"} for status in REFUSALS}


def _error(path: str) -> str:
    """The schema of a path's errors."""
    dialect = dialect_of(path)
    return "AnthropicError" if dialect is ANTHROPIC else "OpenAIError" if dialect is OPENAI else "Error"


def _refusals() -> Schema:
    return {
        f"{name}{status}": {"description": text, "content": {"application/json": {"schema": ref(name)}}}
        for name in ("Error", "OpenAIError", "AnthropicError")
        for status, text in REFUSALS.items()
    }


def page() -> str:
    """One line for each operation and each component."""
    found = document()
    inner = {name: found.pop(name) for name in ("paths", "components")}
    lines = [f'"{key}": {json.dumps(value)},' for key, value in found.items()]
    for name, groups in inner.items():
        told = []
        for group, members in groups.items():
            told.append(
                f"{json.dumps(group)}: {{\n"
                + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in members.items())
                + "\n}"
            )
        lines.append(f'"{name}": {{\n' + ",\n".join(told) + "\n}" + ("," if name == "paths" else ""))
    return "{\n" + "\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    print(page(), end="")
