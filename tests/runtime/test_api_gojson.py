"""JSON as Go reads and writes it (contract, 1.1)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.api.gojson import MAX_DEPTH, dump, read_object
from runtime.errors import RequestRefused

# What Go 1.2x's encoding/json says about each of these bodies.
MESSAGES = [
    (b"", "missing request body"),
    (b"  \n", "missing request body"),
    (b"xyz", "invalid character 'x' looking for beginning of value"),
    (b"{", "unexpected EOF"),
    (b'{"a"', "unexpected EOF"),
    (b'{"a":"b', "unexpected EOF"),
    (b'{"a":1', "unexpected EOF"),
    (b'{"a":}', "invalid character '}' looking for beginning of value"),
    (b"{a:1}", "invalid character 'a' looking for beginning of object key string"),
    (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
    (b'{"a" 1}', "invalid character '1' after object key"),
    (b'{"a":1 "b":2}', "invalid character '\"' after object key:value pair"),
    (b'{"a":[1 2]}', "invalid character '2' after array element"),
    (b'{"a":"x\ny"}', "invalid character '\\n' in string literal"),
    (b'{"a":"\\q"}', "invalid character 'q' in string escape code"),
    (b'{"a":"\\u00zz"}', "invalid character 'z' in \\u hexadecimal character escape"),
    (b"[1]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
    (b'"hi"', "json: cannot unmarshal string into Go value of type api.ChatRequest"),
    (b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "exceeded max depth"),
]


@pytest.mark.parametrize(("raw", "text"), MESSAGES)
def test_bad_json_is_told_in_gos_words(raw: bytes, text: str) -> None:
    with pytest.raises(RequestRefused) as caught:
        read_object(raw, "ChatRequest")
    assert (str(caught.value), caught.value.http_status) == (text, 400)


FIELDS = [
    ({"model": 1}, "json: cannot unmarshal number into Go struct field ChatRequest.model of type string"),
    ({"stream": "no"}, "json: cannot unmarshal string into Go struct field ChatRequest.stream of type bool"),
    (
        {"messages": "hi"},
        "json: cannot unmarshal string into Go struct field ChatRequest.messages of type []api.Message",
    ),
    (
        {"messages": ["hi"]},
        "json: cannot unmarshal string into Go struct field ChatRequest.messages of type api.Message",
    ),
    ({"top": 1.5}, "json: cannot unmarshal number 1.5 into Go struct field ChatRequest.top of type int"),
    ({"top": True}, "json: cannot unmarshal bool into Go struct field ChatRequest.top of type int"),
]


@pytest.mark.parametrize(("values", "text"), FIELDS)
def test_a_field_of_the_wrong_type_is_told_in_gos_words(values: dict[str, Any], text: str) -> None:
    body = read_object(json.dumps(values).encode(), "ChatRequest")
    with pytest.raises(RequestRefused) as caught:
        body.text("model"), body.flag("stream"), body.structs("messages", "Message"), body.integer("top")
    assert str(caught.value) == text


def test_keys_ignore_case_nulls_are_defaults_and_trailing_bytes_do_not_matter() -> None:
    body = read_object(b'\xef\xbb\xbf {"MODEL":"m","Stream":null,"other":{}} trailing', "X")
    assert (body.text("model"), body.flag("stream", True), body.has("other")) == ("m", True, True)


def test_broken_text_becomes_replacement_characters() -> None:
    body = read_object(b'{"model":"a\xffb","prompt":"\\ud800x \\ud83d\\ude00"}', "X")
    assert (body.text("model"), body.text("prompt")) == ("a\ufffdb", "\ufffdx \U0001f600")


def test_output_is_compact_and_html_escaped() -> None:
    assert dump({"a": "<b>&\u2028", "n": [1, None]}) == b'{"a":"\\u003cb\\u003e\\u0026\\u2028","n":[1,null]}'


def test_depth_is_counted_outside_strings_only() -> None:
    assert read_object(json.dumps({"a": "[" * 1000}).encode(), "X").text("a") == "[" * 1000
    deep = b'{"a":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert read_object(deep, "X").has("a")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 60), 1 << 60) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(VALUES)
def test_what_is_written_is_read_again(value: Any) -> None:
    text = dump({"v": value})
    assert read_object(text, "X").raw("v") == value
    assert not set(text) & set(b"<>&")


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_refusal(raw: bytes) -> None:
    try:
        read_object(raw, "X")
    except RequestRefused as error:
        assert str(error)


@given(st.dictionaries(st.sampled_from("ab"), st.text(max_size=5), min_size=1), st.data())
def test_a_cut_body_is_always_refused(value: dict[str, str], data: st.DataObject) -> None:
    raw = json.dumps(value).encode()
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(RequestRefused, match=r"unexpected EOF|missing request body"):
        read_object(raw[:cut], "X")
