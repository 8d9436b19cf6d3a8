"""The options of a request: their types, ranges and defaults, and who wins (contract, 2.1).

Priority: request > Modelfile PARAMETER > environment (context length only) > default. `merge` applies the sources in
turn, so that a request's list of stops replaces the Modelfile's.
Refuses a wrong type with status 500 and Ollama's text (its clients look for it), a value out of range by name with 400.
Unknown options never fail: clients send options of other engines. Null is "not given". Integers accept a JSON float,
whose fraction is cut.
Options of other engines that Ollama still knows (num_gpu, main_gpu, use_mmap, num_batch, draft_num_predict) are typed
and checked but change nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from native.record import names, record
from runtime.errors import OptionRefused

INT32_MAX = (1 << 31) - 1
MAX_STOPS = 256  # strings
MAX_STOP_LENGTH = 4096  # characters of one stop string


@record(frozen=True, slots=True, kw_only=True)
class Options:
    """Defaults are Ollama's. num_ctx 0: the server chooses; seed -1: random; num_predict below 0: no limit."""

    num_ctx: int = 0
    num_batch: int = 512
    num_gpu: int = -1
    main_gpu: int | None = None
    use_mmap: bool | None = None
    num_thread: int = 0
    draft_num_predict: int = 0
    num_keep: int = 4
    seed: int = -1
    num_predict: int = -1
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    temperature: float = 0.8
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()


@record(frozen=True, slots=True, kw_only=True)
class _Rule:
    """`kind` is the word of Ollama's message; `also` is a value outside the range that has a meaning of its own."""

    kind: str
    low: float = -math.inf
    high: float = math.inf
    also: float | None = None


def _integer(low: float, high: float = INT32_MAX, also: float | None = None) -> _Rule:
    return _Rule(kind="integer", low=low, high=high, also=also)


def _float(low: float, high: float) -> _Rule:
    return _Rule(kind="float32", low=low, high=high)


RULES: dict[str, _Rule] = {
    "num_ctx": _integer(4, also=0),
    "num_batch": _integer(1),
    "num_gpu": _integer(-1),
    "main_gpu": _integer(0),
    "use_mmap": _Rule(kind="boolean"),
    "num_thread": _integer(0, 1024),
    "draft_num_predict": _integer(0),
    "num_keep": _integer(-1),
    "seed": _integer(-(1 << 63), (1 << 63) - 1),
    "num_predict": _integer(-INT32_MAX),
    "top_k": _integer(-INT32_MAX),
    "top_p": _float(0.0, 1.0),
    "min_p": _float(0.0, 1.0),
    "typical_p": _float(0.0, 1.0),
    "repeat_last_n": _integer(-1),
    "temperature": _float(0.0, 100.0),
    "repeat_penalty": _float(1e-3, 1e3),
    "presence_penalty": _float(-1e3, 1e3),
    "frequency_penalty": _float(-1e3, 1e3),
    "stop": _Rule(kind="array"),
}
assert set(RULES) == set(names(Options))


def merge(*sources: Mapping[str, Any]) -> Options:
    """Later sources win."""
    found: dict[str, Any] = {}
    for source in sources:
        found |= checked(source)
    return Options(**found)


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """The known options among `values`, in their own types."""
    known = {name: value for name, value in values.items() if name in RULES and value is not None}
    return {name: _value(name, RULES[name], value) for name, value in known.items()}


def _value(name: str, rule: _Rule, value: Any) -> Any:
    if rule.kind == "boolean":
        if not isinstance(value, bool):
            raise _wrong_type(name, "boolean")
        return value
    if rule.kind == "array":
        return _stops(name, value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong_type(name, rule.kind)
    return _number(name, rule, value)


def _number(name: str, rule: _Rule, value: float) -> float:
    finite = isinstance(value, int) or math.isfinite(value)
    if finite and rule.kind == "integer":
        value = int(value)
    if not finite or not (rule.low <= value <= rule.high or value == rule.also):
        extra = f" (or {rule.also:g})" if rule.also is not None else ""
        shown = f"{value:g}" if isinstance(value, float) else str(value)[:24]
        raise OptionRefused(f'option "{name}" must be {_range(rule, value)}{extra}, found {shown}', param=name)
    return value if rule.kind == "integer" else float(value)


def _range(rule: _Rule, found: float) -> str:
    """Where the upper end is merely that of a number's type, the end that `found` is beyond."""
    low, high = (str(bound) if rule.kind == "integer" else f"{bound:g}" for bound in (rule.low, rule.high))
    if rule.kind == "integer" and rule.high == INT32_MAX and math.isfinite(found):
        return f"at most {high}" if found > rule.high else f"at least {low}"
    return f"from {low} to {high}"


def _stops(name: str, value: Any) -> tuple[str, ...]:
    """Empty strings are dropped: every answer contains them."""
    if not isinstance(value, (list, tuple)):
        raise _wrong_type(name, "array")
    if not all(isinstance(stop, str) for stop in value):
        raise OptionRefused(f'option "{name}" must be of an array of strings', http_status=500, param=name)
    if len(value) > MAX_STOPS or any(len(stop) > MAX_STOP_LENGTH for stop in value):
        limits = f"at most {MAX_STOPS} strings of at most {MAX_STOP_LENGTH} characters"
        raise OptionRefused(f'option "{name}" takes {limits}', param=name)
    return tuple(stop for stop in value if stop)


def _wrong_type(name: str, kind: str) -> OptionRefused:
    return OptionRefused(f'option "{name}" must be of type {kind}', http_status=500, param=name)
