"""The errors of registries.

BundlerError
└── RegistryError         the registry, or the way to it
    ├── RegistryRefused   it answered with an error; keeps its own words, cut short and without secrets
    │   ├── NotThere      404: no such model or blob there
    │   └── Denied        401 or 403: credentials are missing or not enough
    ├── Unreachable   4   no answer, after all retries
    ├── WrongBytes        what it sent is not what was asked for
    └── Cancelled     4   the user, or the client, stopped the transfer
"""

from __future__ import annotations

from bundler.errors import BundlerError


class RegistryError(BundlerError):
    http_status = 502


class RegistryRefused(RegistryError):
    """`status` is the registry's; `retry_after` in seconds where it asked for patience."""

    def __init__(self, message: str, status: int, *, retry_after: float | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after = retry_after

    @property
    def temporary(self) -> bool:
        """Whether asking again later can help (RFC 9110, 15.5 and 15.6)."""
        return self.status in (408, 425, 429, 500, 502, 503, 504)


class NotThere(RegistryRefused):
    http_status = 404


class Denied(RegistryRefused):
    http_status = 401


class Unreachable(RegistryError):
    """`temporary`: whether trying again can help; it cannot where a certificate is refused."""

    exit_code = 4
    http_status = 503

    def __init__(self, message: str, *, temporary: bool = True, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.temporary = temporary


class WrongBytes(RegistryError):
    pass


class Cancelled(RegistryError):
    exit_code = 4
    http_status = 499
