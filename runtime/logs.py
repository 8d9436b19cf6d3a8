"""What the server writes to standard error: one line an event, as text or as JSON.

    text    sealift: 2026-11-26T12:00:00.123Z info request id=… route=/api/chat status=200 …
    json    {"time":"…","level":"info","event":"request","id":"…","route":"/api/chat","status":200,…}

Much of what is logged was chosen by a client. So a value has at most MAX_VALUE characters, nothing of it breaks a line
or reaches a terminal as it is, and whatever looks like a key of ours is struck out.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from runtime.access import PREFIX

FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")
MAX_VALUE = 200  # characters
MAX_TEXT = 1 << 16  # characters of a text that --log-text asks for
_KEY = re.compile(PREFIX + r"[A-Za-z0-9_-]{8,}")
_PLAIN = re.compile(r"[A-Za-z0-9_./:@{}+*-]+")


def event(logger: logging.Logger, level: int, name: str, fields: Mapping[str, Any]) -> None:
    """`fields` whose value is None or "" are left out."""
    logger.log(level, name, extra={"fields": {key: v for key, v in fields.items() if v is not None and v != ""}})


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, Any] | None = getattr(record, "fields", None)
        if fields is None:
            return struck("sealift: " + "\n".join([_printable(record.getMessage()), *_trace(self, record)]))
        pairs = [f"{key}={_shown(value)}" for key, value in fields.items()]
        return struck(" ".join([f"sealift: {_time(record)} {record.levelname.lower()} {record.getMessage()}", *pairs]))


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, Any] | None = getattr(record, "fields", None)
        line: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower()}
        if fields is None:
            line |= {"event": "message", "logger": record.name, "message": record.getMessage()[:MAX_TEXT]}
            line |= {"trace": trace} if (trace := _trace(self, record)) else {}
        else:
            line |= {"event": record.getMessage(), **{key: _bounded(value) for key, value in fields.items()}}
        return struck(json.dumps(line))


class Text(str):
    """A value that --log-text asks for: as long as MAX_TEXT."""


def set_up(form: str, level: str) -> None:
    """For the whole process. uvicorn's own lines are left out: ours say the same."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("sealift").setLevel(level.upper())


def sayer(form: str, say: Callable[[str], None]) -> Callable[[str], None]:
    """What the server says about itself at its start: to people as it is, else as a line of the log."""
    if form == "text":
        return say
    return lambda line: print(json.dumps({"time": _now(), "event": "message", "message": line}), file=sys.stderr)


def struck(line: str) -> str:
    return _KEY.sub(PREFIX + "***", line)


def _bounded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    limit = MAX_TEXT if isinstance(value, Text) else MAX_VALUE
    return str(value) if len(value) <= limit else value[:limit] + "…"


def _shown(value: Any) -> str:
    """A plain word as it is, any other text as a JSON string in ASCII."""
    value = _bounded(value)
    if isinstance(value, float):
        return f"{value:.6f}"
    return value if isinstance(value, str) and _PLAIN.fullmatch(value) else json.dumps(value)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:MAX_TEXT])


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    lines = formatter.formatException(record.exc_info).splitlines() if record.exc_info else []
    return [_printable(line) for line in lines]


def _time(record: logging.LogRecord) -> str:
    return _rfc3339(datetime.fromtimestamp(record.created, timezone.utc))


def _now() -> str:
    return _rfc3339(datetime.now(timezone.utc))


def _rfc3339(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"
