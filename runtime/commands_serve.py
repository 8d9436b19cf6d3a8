"""The verb `serve`. Arguments and printing only.

`transfers_factory` is set by the door (sealift.py): given a store, it makes what pulls and pushes for `serve --online`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from runtime.errors import RequestRefused

if TYPE_CHECKING:
    from manifests.store import Store
    from runtime.api.state import Transfers

transfers_factory: Callable[[Store], Transfers] | None = None


def register(app: typer.Typer) -> None:
    app.command("serve")(serve)
    app.command("start", hidden=True)(serve)


def serve(
    host: str = typer.Option("", help="Address to listen on [SEALIFT_HOST, 127.0.0.1]."),
    port: int | None = typer.Option(None, min=0, max=65535, help="Port to listen on, 0 for any [11434]."),
    online: bool = typer.Option(False, "--online", help="Let clients pull and push: opens outbound connections."),
    models: Path | None = typer.Option(None, help="The store to serve [SEALIFT_MODELS]."),
    threads: int | None = typer.Option(
        None, min=0, max=1024, help="Threads of each model [SEALIFT_NUM_THREADS, one a core that the system gives us]."
    ),
    parallel: int | None = typer.Option(
        None, min=1, max=1024, help="Full contexts kept for each model [SEALIFT_NUM_PARALLEL, 1 to 4 as memory allows]."
    ),
    context_length: int | None = typer.Option(
        None, min=4, max=1 << 24, help="Tokens of context where a request does not say [SEALIFT_CONTEXT_LENGTH, 4096]."
    ),
    batch_rows: int | None = typer.Option(
        None, min=32, max=8192, help="Tokens computed in one step, all requests together [SEALIFT_BATCH_ROWS, 512]."
    ),
    kv_cache_type: str | None = typer.Option(
        None, help="How keys and values are kept: f16, or q8_0 in half the memory [SEALIFT_KV_CACHE_TYPE, f16]."
    ),
    keep_alive: str | None = typer.Option(
        None, help="How long an idle model stays loaded: 5m, 1h, -1 for ever [SEALIFT_KEEP_ALIVE, 5m]."
    ),
    load_timeout: str | None = typer.Option(
        None, help="How long loading a model may take; 0 or -1: any time [SEALIFT_LOAD_TIMEOUT, 5m]."
    ),
    max_queue: int | None = typer.Option(
        None, min=1, max=1 << 20, help="Requests that may wait; more are answered 503 [SEALIFT_MAX_QUEUE, 512]."
    ),
    max_loaded: int | None = typer.Option(
        None, min=1, max=1024, help="Models loaded at once [SEALIFT_MAX_LOADED_MODELS, 3]."
    ),
    load: list[str] = typer.Option(
        [], metavar="MODEL", show_default=False, help="Load this model at the start. May be given several times."
    ),
    auth: bool | None = typer.Option(
        None, "--auth/--no-auth", help="Ask for keys [only where other machines can reach the server]."
    ),
    access_file: Path | None = typer.Option(
        None, help="The file of keys; implies --auth [SEALIFT_ACCESS, access.toml in the home]."
    ),
    tls_cert: Path | None = typer.Option(None, help="Speak TLS with this certificate, a PEM file with its chain."),
    tls_key: Path | None = typer.Option(None, help="The certificate's private key, a PEM file."),
    tls_client_ca: Path | None = typer.Option(
        None, help="Let in only clients whose certificate this authority signed."
    ),
    read_only: bool = typer.Option(False, "--read-only", help="Refuse every request that would change the store."),
    log_format: str = typer.Option("text", show_default=False, help="Form of the log: text or json [text]."),
    log_level: str | None = typer.Option(
        None, help="Least level logged: debug, info, warning or error [info; debug with SEALIFT_DEBUG]."
    ),
    log_text: bool = typer.Option(False, "--log-text", help="Log the text of requests and answers too."),
    otel_endpoint: str = typer.Option(
        "", help="Send OpenTelemetry spans there, such as http://collector:4318: an outbound connection [nowhere]."
    ),
) -> None:
    """Serve the models of the store over the Ollama, OpenAI and Anthropic APIs.

    Opens no outbound connection, ever, unless --online or --otel-endpoint is given. A setting with a name in brackets
    may also come from the environment, as SEALIFT_X or, but for SEALIFT_ACCESS, OLLAMA_X. On SIGHUP keys and
    certificate are read again.
    Example:

    \b
        sealift serve
        curl http://localhost:11434/api/tags
    """
    from contextlib import closing
    from dataclasses import replace

    from manifests.store import Store
    from runtime.address import configured_address, parse_address
    from runtime.engine import spawn

    address = parse_address(host) if host else configured_address()
    if port is not None:
        address = replace(address, port=port)
    if online and transfers_factory is None:
        raise RequestRefused("--online: this installation has no part that pulls and pushes")
    with closing(spawn.first()) as spare:
        from runtime import starting, told

        what = told.resolve(
            address, threads=threads, parallel=parallel, context_length=context_length, batch_rows=batch_rows,
            kv_cache_type=kv_cache_type, keep_alive=keep_alive, load_timeout=load_timeout, max_queue=max_queue,
            max_loaded=max_loaded, auth=auth, access_file=access_file, tls_cert=tls_cert, tls_key=tls_key,
            tls_client_ca=tls_client_ca, read_only=read_only, log_format=log_format, log_level=log_level,
            log_text=log_text, otel_endpoint=otel_endpoint, load=load,
        )  # fmt: skip
        store = Store(models)
        transfers = transfers_factory(store) if online and transfers_factory is not None else None
        starting.serve(store, what, transfers=transfers, say=_say, spare=spare)


# -- helpers


def _say(line: str) -> None:
    print(f"sealift: {line}", file=sys.stderr, flush=True)
