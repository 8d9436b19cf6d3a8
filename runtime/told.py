"""What `sealift serve` is told: flags before environment (SEALIFT_X, then OLLAMA_X) before defaults.

Refuses, by the name of who said it, what is no number, out of its range, or a kind of keys and values that the engine
does not keep. Unlike Ollama, which passes over what it cannot read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from manifests.home import VERSION, setting
from native.record import record, replace
from runtime.address import Address, is_loopback
from runtime.api.durations import SECOND, keep_alive_setting
from runtime.errors import RequestRefused
from runtime.logs import FORMATS, LEVELS


@record(frozen=True, slots=True, kw_only=True)
class Range:
    """Of one number: its name in the environment, and what it may be. `also`: a value that stands for the default."""

    name: str
    low: int
    high: int
    default: int
    also: int | None = None


THREADS = Range(name="NUM_THREADS", low=1, high=1024, default=0, also=0)
PARALLEL = Range(name="NUM_PARALLEL", low=1, high=1024, default=0, also=0)
CONTEXT = Range(name="CONTEXT_LENGTH", low=4, high=1 << 24, default=0, also=0)
BATCH_ROWS = Range(name="BATCH_ROWS", low=32, high=8192, default=512)
KV_TYPES = ("f16", "q8_0")  # native.library.KV_TYPES, which only workers load
MAX_QUEUE = Range(name="MAX_QUEUE", low=1, high=1 << 20, default=512)
MAX_LOADED = Range(name="MAX_LOADED_MODELS", low=1, high=1024, default=0, also=0)


@record(frozen=True, slots=True, kw_only=True)
class Settings:
    """What routes must know. `listening_on`: the address given to the socket. `context_length` 0: what the model's
    loader chooses."""

    listening_on: str = "127.0.0.1"
    origins: tuple[str, ...] = ()
    context_length: int = 0
    threads: int = 0  # 0: one a core
    parallel: int = 0  # full contexts the cache of a model holds; 0: one to four, as memory allows
    batch_rows: int = 512  # rows of one step, of all sequences together
    kv_type: str = "f16"  # how keys and values are kept: f16 or q8_0
    version: str = "0"  # sealift's own, sent in a header
    share_prefixes: bool = False  # keys find each other's prompts in the cache
    read_only: bool = False  # nothing a client asks changes the store
    log_text: bool = False  # the log has the text of requests and answers too


@record(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM. `client_ca` None: clients need no certificate."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


@record(frozen=True, slots=True, kw_only=True)
class Serve:
    """Every default filled in. Times in seconds, negative for ever. `keys`: the file of those who may ask; None: nobody
    is asked who they are. `tls` None: plain HTTP."""

    address: Address
    keep_alive: float
    load_timeout: float
    max_loaded: int
    max_queue: int
    settings: Settings
    load: tuple[str, ...] = ()  # models to load at the start, as they were named
    keys: Path | None = None
    tls: TlsFiles | None = None
    log_format: str = FORMATS[0]
    log_level: str = "info"
    otel_endpoint: str = ""  # where spans are sent; "": nowhere


def number_setting(of: Range, flag: int | None = None) -> int:
    """`flag`: what the command line says, whose range the command line has checked; None: nothing."""
    if flag is not None:
        return flag
    who, text = f"SEALIFT_{of.name} (or OLLAMA_{of.name})", setting(of.name)
    if not text:
        return of.default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise RequestRefused(f"{who}: expected a whole number, found {text[:40]!r}")
    value = int(text)
    if value != of.also and not of.low <= value <= of.high:
        raise RequestRefused(f"{who}: expected a number from {of.low} to {of.high}, found {text}")
    return value


def kv_type_setting(flag: str | None = None) -> str:
    who = "--kv-cache-type" if flag is not None else "SEALIFT_KV_CACHE_TYPE (or OLLAMA_KV_CACHE_TYPE)"
    text = (setting("KV_CACHE_TYPE", KV_TYPES[0]) if flag is None else flag).lower()
    if text not in KV_TYPES:
        raise RequestRefused(f"{who}: keys and values are not kept as {text[:40]!r} here", hint="write f16 or q8_0")
    return text


def seconds_setting(name: str, default: str, flag: str | None = None) -> float:
    """`5m`, `300`; negative: for ever."""
    who = f"SEALIFT_{name} (or OLLAMA_{name})" if flag is None else f"--{name.lower().replace('_', '-')}"
    try:
        nanoseconds = keep_alive_setting(setting(name, default) if flag is None else flag)
    except RequestRefused as error:
        raise RequestRefused(f"{who}: {error}", hint="write 5m, 300 or -1") from None
    return -1.0 if nanoseconds < 0 else nanoseconds / SECOND


def resolve(
    address: Address, *, threads: int | None = None, parallel: int | None = None, context_length: int | None = None,
    batch_rows: int | None = None, kv_cache_type: str | None = None, keep_alive: str | None = None,
    load_timeout: str | None = None, max_queue: int | None = None, max_loaded: int | None = None,
    auth: bool | None = None, access_file: Path | None = None, tls_cert: Path | None = None,
    tls_key: Path | None = None, tls_client_ca: Path | None = None, read_only: bool = False,
    share_prefixes: bool = False,
    log_format: str = FORMATS[0], log_level: str | None = None, log_text: bool = False, otel_endpoint: str = "",
    load: Sequence[str] = (),
) -> Serve:  # fmt: skip
    """Arguments are the flags. `auth` None: keys are asked for where other machines can ask. Raises RequestRefused."""
    tls = tls_setting(address, tls_cert, tls_key, tls_client_ca)
    if log_level is None:  # as Ollama's users ask for it
        log_level = "info" if setting("DEBUG").lower() in ("", "0", "f", "false") else "debug"
    for flag, value, known in (("--log-format", log_format, FORMATS), ("--log-level", log_level, LEVELS)):
        if value not in known:
            raise RequestRefused(f"{flag}: unknown {value[:40]!r}", hint=f"write {', '.join(known)}")
    if access_file is not None and auth is False:
        raise RequestRefused("--no-auth and --access-file: give one of them")
    asks = auth if auth is not None else access_file is not None or not is_loopback(address.host)
    settings = Settings(
        listening_on=address.host,
        origins=parse_origins(setting("ORIGINS")),
        context_length=number_setting(CONTEXT, context_length),
        threads=number_setting(THREADS, threads),
        parallel=number_setting(PARALLEL, parallel),
        batch_rows=number_setting(BATCH_ROWS, batch_rows),
        kv_type=kv_type_setting(kv_cache_type),
        version=VERSION,
        share_prefixes=share_prefixes,
        read_only=read_only,
        log_text=log_text,
    )
    return Serve(
        address=replace(address, scheme="https" if tls else "http"),
        keep_alive=seconds_setting("KEEP_ALIVE", "5m", keep_alive),
        load_timeout=seconds_setting("LOAD_TIMEOUT", "5m", load_timeout),
        max_loaded=number_setting(MAX_LOADED, max_loaded),
        max_queue=number_setting(MAX_QUEUE, max_queue),
        settings=settings,
        load=tuple(load),
        keys=(access_file or _usual_keys()) if asks else None,
        tls=tls,
        log_format=log_format,
        log_level=log_level,
        otel_endpoint=_checked(otel_endpoint) if otel_endpoint else "",
    )


def _usual_keys() -> Path:
    from runtime.access.entries import default_path

    return default_path()


def _checked(endpoint: str) -> str:
    from runtime.telemetry import checked_endpoint

    return checked_endpoint(endpoint)


def parse_origins(text: str) -> tuple[str, ...]:
    """The comma list of SEALIFT_ORIGINS. Refuses an entry without scheme that is neither `*` nor `null`."""
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    for origin in origins:
        if (origin not in ("*", "null") and "://" not in origin and "*" not in origin) or origin.count("*") > 1:
            raise RequestRefused(
                f"bad origin {origin[:80]!r}: expected scheme://host, with at most one *",
                hint="example: http://wiki.corp:*",
            )
    return origins


def tls_setting(
    address: Address, certificate: Path | None, key: Path | None, client_ca: Path | None
) -> TlsFiles | None:
    """Certificate and key come together, and an https:// address needs them."""
    if certificate is not None and key is not None:
        return TlsFiles(certificate=certificate, key=key, client_ca=client_ca)
    hint = "give --tls-cert and --tls-key, two PEM files, or put a reverse proxy in front"
    if certificate is not None or key is not None or client_ca is not None:
        raise RequestRefused("TLS needs a certificate and its key", hint=hint)
    if address.scheme == "https":
        raise RequestRefused(f"{address.url}: TLS needs a certificate and its key", hint=hint)
    return None
