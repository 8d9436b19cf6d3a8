"""The errors of this room.

    ManifestsError
    ├── FieldError          a JSON or TOML document has the wrong shape; the message begins with the path
    ├── DigestError         not a digest of the form sha256:<64 hex>
    ├── ModelNameError      not a model name
    ├── ManifestError       not an image manifest
    ├── ModelfileError      a Modelfile that does not parse
    ├── CreateError         a model cannot be made from what was given
    ├── GgufError           not a GGUF file this reader accepts
    ├── StatementError      not a statement this version accepts
    └── StoreError          the store's own files cannot be used
        ├── NotFound        no such model or blob in the store
        ├── DigestMismatch  bytes that are not what their name says
        └── NoSpace         the disk is, or would be, full

Every class has an exit code and an HTTP status; an instance may carry a hint: what to do next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class ManifestsError(Exception):
    """Base of this room. `hint` is the next step for the user, or None; `path` the file or folder to blame, with which
    the message begins; `plain` the message without it, for who asks from another machine."""

    exit_code = 1
    http_status = 400

    def __init__(self, message: str, *, hint: str | None = None, path: str | Path | None = None) -> None:
        super().__init__(message if path is None else f"{path}: {message}")
        self.hint = hint
        self.plain = message


class FieldError(ManifestsError):
    """`path` names the place (`layers[3].size`), `problem` what is wrong there."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


class DigestError(ManifestsError):
    pass


class ModelNameError(ManifestsError):
    pass


class ManifestError(ManifestsError):
    pass


class ModelfileError(ManifestsError):
    pass


class CreateError(ManifestsError):
    pass


class GgufError(ManifestsError):
    pass


class StatementError(ManifestsError):
    pass


class StoreError(ManifestsError):
    http_status = 500


class NotFound(StoreError):
    http_status = 404


class DigestMismatch(StoreError):
    pass


class NoSpace(StoreError):
    exit_code = 4
    http_status = 507
