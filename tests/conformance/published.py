"""Live answers held strictly against the descriptions that Ollama and OpenAI publish.

Those files are their makers' and are not kept here: `scripts/conformance --ollama-openapi FILE --openai-openapi FILE`
reads them. What is kept, in published.json, are facts taken from them by such a run, where all was met: for each probe
the fields that answers have, their types, and which must be there. "Strictly" means: types, formats, enumerations and
required fields hold, and of Ollama's description, which requires none, every field is there but those of CONDITIONAL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.described import Description
from tests.conformance.probes import PROBES, Answer, Probe

VECTORS = Path(__file__).with_name("published.json")
OLLAMA = tuple(probe for probe in PROBES if probe.path.startswith("/api/") and probe.status == 200)
ANTHROPIC = "/v1/messages"
OPENAI = tuple(probe for probe in PROBES if probe.path.startswith("/v1/") and not probe.path.startswith(ANTHROPIC))

# Fields that are only there when there is something to say.
CONDITIONAL = {"thinking", "images", "tool_calls", "logprobs", "top_logprobs", "remote_model", "remote_host", "digest"}
CONDITIONAL |= {"total", "completed", "parameters", "license", "description"}
UNDONE = {"done_reason", "total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration"}
UNDONE |= {"eval_count", "eval_duration"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Purpose:
    """Why a probe's answers differ from a description on purpose. `where`: an expression over the paths of the faults
    that may be found, and of no other."""

    where: str
    why: str


UNENDED = Purpose(
    where=r"choices\[(\d+|)\]\.finish_reason",
    why="a chunk that does not end its text has `finish_reason` `null`, as OpenAI's service sends it: clients take any "
    "word for the end of the answer",
)
FIRST = Purpose(
    where=r"choices\[0\]\.logprobs(\.(token|top)_logprobs\[0\])?|" + UNENDED.where,
    why="no log probability stands before the first token: `null`, as OpenAI's service and vLLM have it. A number "
    "would be counted as one, in a sum or a mean, and there is none to tell",
)
COUNTED = Purpose(
    where=r"usage|" + UNENDED.where,
    why="with `include_usage` all chunks but the last have `usage` `null`, as the description of the request says; and "
    "`finish_reason` as above",
)
BASE64 = Purpose(
    where=r"data\[(\d+|)\]\.embedding",
    why="a vector that was asked for in base64 is a text, which OpenAI's clients ask for by default and decode; the "
    "description of the answer has numbers only",
)
ON_PURPOSE = {
    "completion with echo": FIRST,
    "completion with echo, streamed": FIRST,
    "completion, streamed": UNENDED,
    "completion with log probabilities, streamed": UNENDED,
    "completion of prompts and of ids, streamed": UNENDED,
    "completion with usage": COUNTED,
    "vectors in base64": BASE64,
}


def meant(probe: Probe, path: str) -> bool:
    """Whether a fault at this path is on purpose."""
    purpose = ON_PURPOSE.get(probe.name)
    return purpose is not None and re.fullmatch(purpose.where, path.removeprefix("$.")) is not None


def read(path: Path) -> dict[str, Any]:
    """JSON, or YAML where PyYAML is here."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        found: dict[str, Any] = json.loads(text)
        return found
    import yaml

    found = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


def described(description: Description, probes: tuple[Probe, ...]) -> list[Probe]:
    """The probes whose routes a description has."""
    routes = description.routes()
    return [probe for probe in probes if probe.route in routes or probe.route.replace("/v1/", "/", 1) in routes]


TYPES = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool}


def fits(value: Any, kinds: list[str]) -> bool:
    if value is None or isinstance(value, bool):
        return ("null" if value is None else "boolean") in kinds
    return any(isinstance(value, TYPES[kind]) for kind in kinds if kind != "null")


def faults(vector: dict[str, Any], answer: Answer) -> Iterator[str]:
    """`vector`: field paths, such as `choices[].index`, to "type", "type!" (required) or several types joined by |."""
    for document in answer.documents:
        for path, told in vector.items():
            required, kinds = told.endswith("!"), told.rstrip("!").split("|")
            *parents, name = path.split(".")
            for parent in _reached(document, parents):
                if name.removesuffix("[]") not in parent:
                    if required:
                        yield f"{path} is missing"
                    continue
                for value in _values(parent, name):
                    if not fits(value, kinds):
                        yield f"{path}: expected {told}, found {json.dumps(value)[:80]}"


def _reached(document: Any, parents: list[str]) -> list[dict[str, Any]]:
    reached = [document]
    for parent in parents:
        reached = [value for one in reached if isinstance(one, dict) for value in _values(one, parent)]
    return [one for one in reached if isinstance(one, dict)]


def _values(parent: dict[str, Any], name: str) -> list[Any]:
    """One value, or those of an array."""
    value = parent.get(name.removesuffix("[]"))
    if not name.endswith("[]"):
        return [] if name not in parent else [value]
    return value if isinstance(value, list) else []


# -- facts from a published description


def vector(description: Description, probe: Probe, answer: Answer) -> dict[str, str]:
    """The fields of one probe's answer. What may be one of several objects is left to the strict check."""
    schema, found = description.schema(probe, answer), {}
    waits = not (probe.body or {}).get("stream", True) and "load" not in probe.name
    loose = CONDITIONAL if waits else CONDITIONAL | UNDONE | {"context"}

    def walk(schema: dict[str, Any], prefix: str) -> None:
        for name, inner in schema.get("properties", {}).items():
            ways = description.ways(inner)
            kinds = [kind for way in ways for kind in description.kinds(way)]
            if not kinds or inner.get("writeOnly"):
                continue
            needed = name in schema["required"] if "required" in schema else probe in OLLAMA and name not in loose
            found[prefix + name] = "|".join(dict.fromkeys(kinds)) + ("!" if needed else "")
            objects = [way for way in ways if way.get("type") == "object" or "properties" in way]
            if len(objects) == 1:
                walk(objects[0], f"{prefix}{name}.")
            arrays = [way for way in ways if way.get("type") == "array"]
            items = [one for way in arrays for one in description.ways(way.get("items", {}))]
            if len(items) == 1:
                walk(items[0], f"{prefix}{name}[].")

    ways = description.ways(schema or {})
    if len(ways) == 1:
        walk(ways[0], "")
    return {path: told for path, told in found.items() if _seen(path, told, answer)}


def _seen(path: str, told: str, answer: Answer) -> bool:
    """Is there an object that could have the field, and has it one that must be there or that is?"""
    *parents, name = path.split(".")
    reached = [one for document in answer.documents for one in _reached(document, parents)]
    return bool(reached) and (told.endswith("!") or any(name in one for one in reached))


def facts(kept: dict[str, dict[str, str]]) -> str:
    """The text of published.json: a line for each probe, in the order of the probes."""
    order = [probe.name for probe in PROBES if kept.get(probe.name)]
    lines = [f" {json.dumps(name)}: {json.dumps(kept[name])}" for name in order]
    return "{\n" + ",\n".join(lines) + "\n}\n"
