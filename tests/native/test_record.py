"""A record is a dataclass: every law below is asked of both, made of the same lines by either decorator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from native import record as r


def classes(decorate: Callable[..., Any], field: Callable[..., Any]) -> tuple[type[Any], type[Any], type[Any]]:
    @decorate(frozen=True, kw_only=True, slots=True)
    class Base:
        CODE: ClassVar[int] = 0

        out: int

        def __post_init__(self) -> None:
            object.__setattr__(self, "out", self.out + self.CODE)

    @decorate(frozen=True, kw_only=True, slots=True)
    class Derived(Base):
        CODE = 100

        name: str
        extra: dict[str, int] = field(default_factory=dict)
        scale: float = 1.0

        @property
        def loud(self) -> str:
            return str(self.name).upper()

    @decorate(kw_only=True, slots=True, eq=False)
    class Open:
        count: int
        table: list[int] = field(default_factory=list)

    return Base, Derived, Open


RECORDS, STANDARD = classes(r.record, r.field), classes(dataclasses.dataclass, dataclasses.field)
both = pytest.mark.parametrize(
    ("made", "replace"), [(RECORDS, r.replace), (RECORDS, dataclasses.replace), (STANDARD, dataclasses.replace)]
)


@both
def test_what_is_given_is_there_and_the_rest_is_as_it_was_written(made: Any, replace: Callable[..., Any]) -> None:
    _, derived, opened = made
    one, two = derived(name="x", out=1), derived(out=2, name="x", extra={"a": 1}, scale=0.5)
    assert (one.out, one.name, one.extra, one.scale, one.loud) == (101, "x", {}, 1.0, "X")
    assert (two.out, two.extra, two.scale) == (102, {"a": 1}, 0.5)
    assert one.extra is not derived(name="x", out=1).extra
    assert replace(two, scale=3.0, out=5) == derived(out=5, name="x", extra={"a": 1}, scale=3.0)
    assert repr(two).endswith("Derived(out=102, name='x', extra={'a': 1}, scale=0.5)")
    assert [field.name for field in dataclasses.fields(derived)] == ["out", "name", "extra", "scale"]
    assert dataclasses.asdict(two) == {"out": 102, "name": "x", "extra": {"a": 1}, "scale": 0.5}
    assert opened(count=1).table == []


@both
def test_equal_are_those_of_one_class_with_equal_fields(made: Any, replace: Callable[..., Any]) -> None:
    base, derived, opened = made
    assert base(out=1) == base(out=1) != base(out=2)
    assert hash(base(out=1)) == hash(base(out=1))
    assert base(out=101) != derived(out=1, name="x") and base(out=1) != 1
    assert opened(count=1) != opened(count=1) and len({opened(count=1), opened(count=1)}) == 2


@both
def test_what_is_missing_unknown_or_frozen_is_refused(made: Any, replace: Callable[..., Any]) -> None:
    base, derived, opened = made
    for wrong in ({"out": 1}, {"name": "x"}, {"out": 1, "name": "x", "other": 2}, {"out": 1, "other": 2}):
        with pytest.raises(TypeError):
            derived(**wrong)
    with pytest.raises(TypeError):
        base(1)
    with pytest.raises(TypeError):
        replace(base(out=1), other=2)
    one = derived(out=1, name="x")
    for name in ("out", "other"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(one, name, 2)
    with pytest.raises(AttributeError):
        del one.name
    free = opened(count=1)
    free.count = 2
    assert free.count == 2
    with pytest.raises(AttributeError):
        free.other = 1


def test_names_and_values() -> None:
    _, derived, opened = RECORDS
    assert r.names(derived) == ("out", "name", "extra", "scale")
    table = [1]
    assert r.values(opened(count=1, table=table))["table"] is table
