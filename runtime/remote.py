"""What list, show, cp and rm do where SEALIFT_HOST or OLLAMA_HOST names another machine: they ask the server there, as
Ollama's do. Where it names this one, or nothing, they work on the store and need no server.

Never both: a server that does not answer is an error, and the store of this host stays as it is.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from runtime.address import Address, configured_address
from runtime.client import Client
from runtime.errors import ServerRefused, ServerUnreachable

HERE = "SEALIFT_HOST=localhost before the command means the store of this host"


def remote_store() -> RemoteStore | None:
    """None where this host's own store is meant. Raises RequestRefused for an address that is none."""
    address = configured_address()
    return None if address.here else RemoteStore(address)


class RemoteStore:
    """The models of the server at `url`. Every method raises ServerUnreachable, and ServerRefused with its words."""

    def __init__(self, address: Address) -> None:
        self.url = address.url
        self._address = address

    def models(self) -> list[dict[str, Any]]:
        """`name`, `digest` (64 hex digits), `size` in bytes, `modified` (a datetime)."""
        try:
            return [_row(model) for model in self._ask("GET", "/api/tags")["models"]]
        except (LookupError, TypeError, ValueError) as error:
            raise ServerRefused(f"the server at {self.url} answered with no list of models") from error

    def show(self, model: str, *, verbose: bool = False) -> dict[str, Any]:
        return self._ask("POST", "/api/show", {"model": model, "verbose": verbose})

    def copy(self, source: str, destination: str) -> None:
        self._ask("POST", "/api/copy", {"source": source, "destination": destination})

    def remove(self, model: str) -> None:
        self._ask("DELETE", "/api/delete", {"model": model})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            with Client(self._address) as client:
                return client.ask(method, path, body)
        except ServerUnreachable as error:
            raise ServerUnreachable(str(error), hint=f"{error.hint}; {HERE}" if error.hint else HERE) from error


def _row(model: dict[str, Any]) -> dict[str, Any]:
    from runtime.chat.commands import short_fraction

    modified = datetime.fromisoformat(short_fraction(model["modified_at"]))
    return {
        "name": str(model["name"]),
        "digest": str(model["digest"]),
        "size": int(model["size"]),
        "modified": modified,
    }
