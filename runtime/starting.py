"""The start of `sealift serve`, in the order that makes the first answer come early:

    spare worker -> what may be refused at once -> models of --load -> the first one's load -> runtime.serving

The worker loads while this process imports what answers requests, which takes longer than all before; so this file
imports little of it. Refuses, before anything is loaded, an address that is taken or not ours, keys that are asked for
and are not there, and models that are not there.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from manifests.store import Store
from native.record import record
from runtime import logs
from runtime.address import Address, is_loopback
from runtime.api import names
from runtime.card import CardBox, ModelCard
from runtime.engine.protocol import load_frame
from runtime.engine.spawn import Spare
from runtime.errors import AddressRefused, RequestRefused
from runtime.options import merge
from runtime.source import ModelSource, load_of, source_of
from runtime.told import Serve

if TYPE_CHECKING:
    from runtime.access.access import Access
    from runtime.api.state import Transfers

BACKLOG = 2048


@record(frozen=True, slots=True, kw_only=True)
class Start:
    """What the server is made of. `first`: the models to load at once; the spare worker may have begun with one."""

    store: Store
    box: CardBox
    told: Serve
    access: Access | None
    transfers: Transfers | None
    spare: Spare | None
    first: tuple[tuple[ModelCard, ModelSource], ...]


def serve(
    store: Store, told: Serve, *, transfers: Transfers | None, say: Callable[[str], None], spare: Spare | None = None
) -> None:
    """Until a signal."""
    logs.set_up(told.log_format, told.log_level)
    say = logs.sayer(told.log_format, say)
    with bind(told.address) as listener:
        access, box = keys_of(told), CardBox(store)
        first = tuple(_found(box, told, name) for name in told.load)
        if first and spare is not None:
            spare.begin(load_frame(load_of(first[0][1])))
        start = Start(
            store=store, box=box, told=told, access=access, transfers=transfers, spare=spare, first=first
        )  # fmt: skip
        from runtime import serving

        serving.run(start, listener, say)


def _found(box: CardBox, told: Serve, asked: str) -> tuple[ModelCard, ModelSource]:
    """Raises ModelNotFound, or what is wrong with a model."""
    name, card = names.chosen(box, asked)
    return card, source_of(box.store, told.settings, name, card, merge(card.params, {}))


def bind(address: Address) -> socket.socket:
    """A listening socket, or AddressRefused with what to do."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressRefused(f"cannot listen on {address.url}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        listener.listen(BACKLOG)
        listener.set_inheritable(False)
    except OSError as error:
        listener.close()
        hint = "set SEALIFT_HOST or --host and --port"
        if error.errno == errno.EADDRINUSE:
            hint = f"is a server running already? if not, {hint}"
            raise AddressRefused(f"cannot listen on {address.url}: the port is in use", hint=hint) from None
        raise AddressRefused(f"cannot listen on {address.url}: {error.strerror}", hint=hint) from None
    return listener


def keys_of(told: Serve) -> Access | None:
    """Raises RequestRefused where keys are asked for and there are none, or their file is damaged."""
    if told.keys is None:
        return None
    from runtime.access.access import Access

    access = Access(told.keys)
    if not access.entries:
        why = "other machines can reach this server" if not is_loopback(told.address.host) else "--auth was given"
        hint = "sealift access add NAME makes one; --no-auth lets everybody ask"
        raise RequestRefused(f"{why}, and there are no keys in {told.keys}", hint=hint)
    return access
