"""ModelName: `[scheme://][[host/]namespace/]model[:tag]`, as Ollama writes it (contract, 3.2).

Invariants: every part matches its pattern, so a path may be built from the parts; comparison ignores case, the spelling
is kept. `ModelName.parse(str(n)) == n`. Refuses digests (`@sha256:`), empty parts, and parts that begin with `.` or
`-`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from manifests.errors import ModelNameError

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_PARTS = {
    "host": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}"),
    "namespace": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}"),
    "model": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
    "tag": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelName:
    model: str
    tag: str = DEFAULT_TAG
    namespace: str = DEFAULT_NAMESPACE
    host: str = DEFAULT_HOST
    scheme: str = "https"

    def __post_init__(self) -> None:
        for part, pattern in _PARTS.items():
            value = getattr(self, part)
            if not pattern.fullmatch(value):
                raise ModelNameError(f"invalid {part} {value[:80]!r} in a model name")
        if self.scheme not in ("http", "https"):
            raise ModelNameError(f"invalid scheme {self.scheme[:20]!r} in a model name")

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Missing parts get their defaults. At most 700 characters."""
        if len(text) > 700:
            raise ModelNameError(f"model name of {len(text)} characters")
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "https", text
        head, slash, last = rest.rpartition("/")
        model, colon, tag = last.partition(":")
        parts = {"scheme": scheme, "model": model}
        if colon:
            parts["tag"] = tag
        if slash:
            host, slash, namespace = head.rpartition("/")
            parts["namespace"] = namespace
            if slash:
                parts["host"] = host
        try:
            return cls(**parts)
        except ModelNameError as error:
            raise ModelNameError(
                f"{text[:120]!r} is not a model name: {error}",
                hint="a name looks like model, model:tag or host/user/model:tag",
            ) from None

    @classmethod
    def from_path(cls, path: PurePosixPath) -> ModelName:
        """From `host/namespace/model/tag`, relative to a manifests folder."""
        if len(path.parts) != 4:
            raise ModelNameError(f"{str(path)[:120]!r} is not host/namespace/model/tag")
        host, namespace, model, tag = path.parts
        return cls(host=host, namespace=namespace, model=model, tag=tag)

    @property
    def path(self) -> PurePosixPath:
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    @property
    def short(self) -> str:
        """The shortest form people use; the tag is always shown."""
        if self._default_host and self.namespace.lower() == DEFAULT_NAMESPACE:
            return f"{self.model}:{self.tag}"
        if self._default_host:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return self.full

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def _default_host(self) -> bool:
        return self.host.lower() == DEFAULT_HOST

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Equal for names that differ in letter case or scheme only."""
        return (self.host.lower(), self.namespace.lower(), self.model.lower(), self.tag.lower())

    def __str__(self) -> str:
        return self.full if self.scheme == "https" else f"{self.scheme}://{self.full}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelName) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)
