"""Live answers held against an OpenAPI description: the answer of a route, or of a stream each line and event."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker

from tests.conformance.probes import Answer, Probe

STREAMS = ("text/event-stream", "application/x-ndjson")


class Description:
    """`document`: OpenAPI 3.0 or 3.1. `base`: what its paths leave out of ours, such as /v1. `refusal`: its schema of a
    refusal, where its routes do not describe any."""

    def __init__(self, document: dict[str, Any], *, base: str = "", refusal: str = "") -> None:
        self._document, self._base, self._refusal = without_nullable(document), base, refusal

    def routes(self) -> set[str]:
        return {f"{method.upper()} {path}" for path, ways in self._document["paths"].items() for method in ways}

    def schema(self, probe: Probe, answer: Answer) -> dict[str, Any] | None:
        """None: no body is described. Raises KeyError where the description says nothing of such an answer."""
        if answer.status >= 400 and self._refusal:
            return {"$ref": f"#/components/schemas/{self._refusal}"}
        path = probe.path.removeprefix(self._base)
        said = self._document["paths"][path][probe.method.lower()]["responses"][str(answer.status)]
        while "$ref" in said:
            said = self._at(said["$ref"])
        content = said.get("content", {})
        if not content:
            return None
        kind = answer.kind if answer.kind in content or answer.kind not in STREAMS else "application/json"
        found: dict[str, Any] = content[kind]["schema"]  # OpenAI's completions: one schema, streamed or not
        return found

    def faults(self, probe: Probe, answer: Answer) -> Iterator[str]:
        """Nothing, when the answer is as described."""
        schema = self.schema(probe, answer)
        if schema is None:
            if answer.documents:
                yield f"{probe.name}: a body where none is described"
            return
        validator = Draft202012Validator({**self._document, **schema}, format_checker=FormatChecker())
        for document in answer.documents:
            for error in validator.iter_errors(document):
                yield f"{probe.name}: {_deepest(error)}"

    def ways(self, schema: dict[str, Any]) -> list[dict[str, Any]]:
        """A schema's alternatives, references followed."""
        while "$ref" in schema:
            schema = self._at(schema["$ref"])
        inner = schema.get("anyOf") or schema.get("oneOf")
        if inner:
            return [way for one in inner for way in self.ways(one)]
        if "allOf" in schema:
            merged: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
            for one in (way for part in schema["allOf"] for way in self.ways(part)):
                merged["properties"] |= one.get("properties", {})
                merged["required"] += one.get("required", [])
            return [merged]
        return [schema]

    def kinds(self, schema: dict[str, Any]) -> list[str]:
        told = schema.get("type", "object" if "properties" in schema else [])
        return [told] if isinstance(told, str) else list(told)

    def _at(self, pointer: str) -> Any:
        found: Any = self._document
        for key in pointer.removeprefix("#/").split("/"):
            found = found[key]
        return found


def _deepest(error: Any) -> str:
    """The fault that says most, where one of several ways should have fitted."""
    while error.context:
        error = max(error.context, key=lambda inner: len(inner.absolute_path))
    return f"{error.json_path}: {error.message[:300]}"


def without_nullable(value: Any) -> Any:
    """OpenAPI 3.0's `nullable` as JSON Schema says it."""
    if isinstance(value, list):
        return [without_nullable(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: without_nullable(item) for key, item in value.items()}
    return {"anyOf": [found, {"type": "null"}]} if found.pop("nullable", False) is True else found
