"""The start of `sealift serve`, in the order that makes the first answer come early:

    spare worker -> what may be refused at once -> models of --load -> the first one's load -> HTTP (runtime.serving)

The worker loads while this process imports what speaks HTTP, which takes longer than all before. Refuses, before
anything is loaded, an address that is taken or not ours, keys that are asked for and are not there, and models that are
not there.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import socket
from collections.abc import Callable, Sequence

from manifests.digest import Digest
from manifests.store import Store
from runtime import logs
from runtime.access.access import Access
from runtime.address import Address
from runtime.api.asking import Choice, find_model, source_of
from runtime.api.guard import is_loopback
from runtime.api.state import Server, Transfers
from runtime.card import CardBox
from runtime.engine.link import load_frame
from runtime.engine.spawn import Spare
from runtime.errors import AddressRefused, RequestRefused
from runtime.loaded import ModelSource, load_model, load_of
from runtime.manager import Manager
from runtime.metrics import Metrics
from runtime.options import merge
from runtime.packs import Packs
from runtime.told import Serve

BACKLOG = 2048


def serve(
    store: Store, told: Serve, *, transfers: Transfers | None, say: Callable[[str], None], spare: Spare | None = None
) -> None:
    """Until a signal."""
    logs.set_up(told.log_format, told.log_level)
    say = logs.sayer(told.log_format, say)
    with bind(told.address) as listener:
        packs = Packs(store)
        server = _server(store, told, transfers, packs, spare)
        first = _sources(server, told.load)
        if first and spare is not None:
            spare.begin(load_frame(load_of(first[0])))
        from runtime import serving

        asyncio.run(serving.serve(server, told, listener, packs=packs, first=first, say=say))


def _server(store: Store, told: Serve, transfers: Transfers | None, packs: Packs, spare: Spare | None) -> Server:
    metrics, access = Metrics(), keys_of(told)
    manager = Manager(
        keep_alive=told.keep_alive,
        max_loaded=told.max_loaded,
        max_queue=told.max_queue,
        load_timeout=told.load_timeout,
        load=metrics.timed(functools.partial(load_model, spare=spare)),
        # a pack is written beside the store: a server that writes nothing there uses those that are there
        prepare=None if told.settings.read_only else lambda one: packs.prepare_quietly(Digest.parse(one.weights)),
    )
    return Server(
        store=store, box=CardBox(store), manager=manager, transfers=transfers, settings=told.settings, access=access,
        metrics=metrics,
    )  # fmt: skip


def _sources(server: Server, names: Sequence[str]) -> list[ModelSource]:
    """Raises ModelNotFound, or what is wrong with a model."""
    found = [find_model(server, name) for name in names]
    return [source_of(server, Choice(name, card, merge(card.params, {}))) for name, card in found]


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
    access = Access(told.keys)
    if not access.entries:
        why = "other machines can reach this server" if not is_loopback(told.address.host) else "--auth was given"
        hint = "sealift access add NAME makes one; --no-auth lets everybody ask"
        raise RequestRefused(f"{why}, and there are no keys in {told.keys}", hint=hint)
    return access
