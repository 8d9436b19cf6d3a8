"""What every route works with: one `Server`, made by `create_app`, found again with `server_of`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import Request

from manifests.name import ModelName
from manifests.store import Store
from native.record import field, record, replace
from runtime.access.visible import VisibleStore, VisibleTransfers
from runtime.api.gate import caller_of
from runtime.api.observing import denied
from runtime.card import CardBox
from runtime.manager import Manager
from runtime.metrics import Metrics
from runtime.told import Settings

if TYPE_CHECKING:
    from runtime.access.access import Access

NO_TRANSFERS = (
    "this server opens no outbound connections: bring models in with 'sealift bundle import', "
    "or start it with 'sealift serve --online' on a connected host"
)

Report = Callable[[dict[str, Any]], None]


class Transfers(Protocol):
    """Registries, for a server that may reach them. Runs in a thread; raises errors with an `http_status`.

    `report` takes Ollama's progress objects: `status`, and where known `digest`, `total` and `completed` in bytes. It
    raises when the client has gone away, and that ends the transfer.
    """

    def pull(self, name: ModelName, *, insecure: bool, report: Report) -> None: ...

    def push(self, name: ModelName, *, insecure: bool, report: Report) -> None: ...


@record(frozen=True, slots=True, kw_only=True)
class Server:
    store: Store
    box: CardBox
    manager: Manager
    transfers: Transfers | None
    settings: Settings
    access: Access | None = None  # None: nobody is asked who they are
    metrics: Metrics = field(default_factory=Metrics)


def server_of(request: Request) -> Server:
    """For a key with a list of models: the server without all others (runtime.access.visible)."""
    server = request.app.state.sealift
    assert isinstance(server, Server)
    caller = caller_of(request)
    if caller is None or not caller.models:
        return server
    store = VisibleStore(server.store, caller.may_use, refused=lambda: denied("model"))
    transfers = VisibleTransfers(server.transfers, store) if server.transfers is not None else None
    return replace(server, store=store, box=server.box.through(store), transfers=transfers)
