"""Typed getters and canonical JSON: errors name their place, canonical bytes are the only bytes."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import canonical
from manifests.errors import FieldError
from manifests.fields import MAX_DEPTH, Fields, parse_json, text_item

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_canonical_form_is_a_fixed_point(value: object) -> None:
    raw = canonical.encode(value)
    assert canonical.decode(raw, limit=1 << 20) == value
    assert json.loads(raw) == value


@pytest.mark.parametrize(
    "raw",
    [
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b'{"a":1}\n',
        b'{"a":1,"a":1}',
        b"1.0",
        b"1e3",
        b"NaN",
        b'"\\u0041"',
        b"-0",
        b"[1,]",
    ],
)
def test_other_forms_of_json_are_refused(raw: bytes) -> None:
    with pytest.raises(FieldError):
        canonical.decode(raw, limit=1 << 20)


@pytest.mark.parametrize(
    "raw", [b'"' + b'\\"' * (1 << 21), b'"' * (1 << 21), b'"' + b"\\" * (1 << 21), b'["' + b'\\"[' * (1 << 20)]
)
def test_a_string_that_never_ends_is_refused_at_once(raw: bytes) -> None:
    """Looking for its end again from each quote would take hours: the time of this test is its point."""
    with pytest.raises(FieldError):
        parse_json(raw, limit=1 << 24)


def test_keys_sort_by_utf16_units() -> None:
    # RFC 8785, 3.2.3: U+1F600 (a surrogate pair, D83D...) sorts before U+FB33
    assert canonical.encode({"\ufb33": 1, "\U0001f600": 2}).decode() == '{"\U0001f600":2,"\ufb33":1}'


@pytest.mark.parametrize("value", [1.5, 2**53, {"a": [object()]}, "\ud800", {1: 2}])
def test_values_without_canonical_form(value: object) -> None:
    with pytest.raises(FieldError):
        canonical.encode(value)


def test_deep_and_large_documents_are_refused_before_parsing() -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, limit=1000) is not None
    for raw in (b"[" * 100_000, b'{"a":' * 100_000, b'"' + b"x" * 2_000_000):
        with pytest.raises(FieldError):
            parse_json(raw, limit=1 << 20)
    assert parse_json(b'"[[[[' + b"[" * 500 + b'"', limit=1000)  # brackets inside a string are text


CASES = [
    ({"size": True}, "a.size: expected int, found bool"),
    ({"size": "1"}, "a.size: expected int, found str"),
    ({"size": -1}, "a.size: expected 0 to 4611686018427387904, found -1"),
    ({}, "a.size: missing"),
    ({"size": 1, "other": 2}, "a.other: unknown field"),
]


@pytest.mark.parametrize(("value", "message"), CASES)
def test_errors_name_their_place(value: dict[str, object], message: str) -> None:
    with pytest.raises(FieldError, match=re.escape(message)):
        fields = Fields.of(value, "a")
        fields.integer("size")
        fields.done()


def test_arrays_name_their_index() -> None:
    with pytest.raises(FieldError, match=re.escape("files[1]: expected str, found int")):
        Fields.of({"files": ["x", 3]}).array("files", text_item)
    with pytest.raises(FieldError, match="at most 1"):
        Fields.of({"files": ["x", "y"]}).array("files", text_item, maximum=1)
