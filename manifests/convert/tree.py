"""Tree: the files of a Hugging Face model, opened and bounded; nothing of them is run.

Weights are safetensors only. Refused by name: pickles (`*.bin`, `*.pt`, `*.pth`, `*.ckpt`: loading one runs what it
says), an index that names a file that is not there or a tensor in the wrong file, a tensor in two files, JSON over its
limit. Of several sets of weights the first counts: `model*.safetensors`, `consolidated*.safetensors`, any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from manifests.errors import CreateError, FieldError
from manifests.fields import parse_json
from manifests.safetensors import SafeTensor, Safetensors

MAX_JSON = 64 << 20  # bytes of one JSON file; a tokenizer of 262,144 tokens has 33 MB
MAX_FILES = 4096
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PICKLED = "weights in a pickle are refused: loading one runs the code in it"
_WEIGHTS = (re.compile(r"model[^/]*\.safetensors"), re.compile(r"consolidated[^/]*\.safetensors"), re.compile(r".*"))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tree:
    """`files`: relative name to path; `tensors`: name to the file that holds it."""

    files: Mapping[str, Path]
    tensors: Mapping[str, Safetensors]

    @classmethod
    def open(cls, files: Mapping[str, Path]) -> Tree:
        """Raises CreateError."""
        if len(files) > MAX_FILES:
            raise CreateError(f"{len(files)} files; at most {MAX_FILES} are taken")
        shards = weights(files)
        if not shards:
            raise CreateError(_no_weights(files), hint="weights are read from safetensors and GGUF files only")
        tensors: dict[str, Safetensors] = {}
        index = _index(files)
        for name in shards:
            if index and PurePosixPath(name).name not in index.values():
                continue
            opened = _open(name, files[name])
            for tensor in opened.tensors:
                if tensor in tensors:
                    raise CreateError(f"{name}: tensor {tensor[:80]} is in another file too")
                if index and index.get(tensor) != PurePosixPath(name).name:
                    raise CreateError(f"{name}: the index has no tensor {tensor[:80]} in this file")
                tensors[tensor] = opened
        lost = next((tensor for tensor in index if tensor not in tensors), None)
        if lost is not None:
            raise CreateError(f"tensor {lost[:80]}: the index places it in {index[lost][:80]}, where it is not")
        return cls(files=files, tensors=tensors)

    def info(self, tensor: str) -> SafeTensor:
        return self.tensors[tensor].tensors[tensor]

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file; an empty one where there is no such file. Raises CreateError."""
        return read_json(self.files, name)

    def text(self, name: str) -> str | None:
        path = self.files.get(name)
        if path is None:
            return None
        try:
            return _read(name, path).decode()
        except UnicodeDecodeError as error:
            raise CreateError(f"{name}: not UTF-8: {error}") from None


def read_json(files: Mapping[str, Path], name: str) -> dict[str, Any]:
    path = files.get(name)
    if path is None:
        return {}
    try:
        found = parse_json(_read(name, path), limit=MAX_JSON)
    except FieldError as error:
        raise CreateError(f"{name}: {error}") from None
    if not isinstance(found, dict):
        raise CreateError(f"{name}: expected a JSON object, found {type(found).__name__}")
    return found


def weights(files: Mapping[str, Path]) -> list[str]:
    """The names of the safetensors files that count."""
    every = sorted(name for name in files if name.lower().endswith(".safetensors"))
    for pattern in _WEIGHTS:
        chosen = [name for name in every if pattern.fullmatch(PurePosixPath(name).name)]
        if chosen:
            return chosen
    return []


def _no_weights(files: Mapping[str, Path]) -> str:
    pickles = sorted(name for name in files if name.lower().endswith(PICKLES))
    if pickles:
        return f"{pickles[0]}: {PICKLED}"
    return "no safetensors file was given"


def _index(files: Mapping[str, Path]) -> dict[str, str]:
    """Tensor to file name, of `model.safetensors.index.json`; empty where there is none."""
    found = read_json(files, "model.safetensors.index.json").get("weight_map", {})
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise CreateError("model.safetensors.index.json: weight_map: expected an object of file names")
    return found


def _open(name: str, path: Path) -> Safetensors:
    try:
        return Safetensors.open(path)
    except FieldError as error:
        raise CreateError(f"{name}: {error}") from None
    except OSError as error:
        raise CreateError(f"{name}: {error.strerror}") from None


def _read(name: str, path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_JSON + 1)
    except OSError as error:
        raise CreateError(f"{name}: {error.strerror}") from None
    if len(raw) > MAX_JSON:
        raise CreateError(f"{name}: more than {MAX_JSON} bytes")
    return raw


class Config:
    """A JSON object's typed getters; errors name file and key. `path` is the file's name."""

    def __init__(self, values: Mapping[str, Any], path: str = "config.json") -> None:
        self.values, self.path = values, path

    def raw(self, key: str) -> Any:
        """None where it is absent or null."""
        return self.values.get(key)

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = 1 << 31) -> int:
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value < high:
            raise self.wrong(key, f"expected an integer from {low} to {high - 1}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.raw(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 1e-30 < value < 1e30:
            raise self.wrong(key, "expected a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "expected true or false")
        return value

    def part(self, key: str) -> Config:
        value = self.raw(key)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(key, "expected an object")
        return Config(value or {}, f"{self.path}: {key}")

    def only(self, key: str, *allowed: object) -> None:
        """A key that is understood with these values alone; absent and null pass where None is among them."""
        if self.raw(key) not in allowed:
            words = " or ".join(repr(value) for value in allowed if value is not None) or "nothing"
            raise self.wrong(key, f"only {words} is supported")

    def wrong(self, key: str, problem: str) -> CreateError:
        return CreateError(f"{self.path}: {key}: found {self.raw(key)!r:.60}; {problem}")
