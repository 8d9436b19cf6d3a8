"""Options of requests: types, ranges, who wins (contract, 2.1)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.record import values
from runtime.errors import OptionRefused
from runtime.options import RULES, Options, checked, merge

# "wrong type -> 500 `option "x" must be of type ...`"
WRONG = [
    ("num_ctx", "big", 'option "num_ctx" must be of type integer'),
    ("seed", True, 'option "seed" must be of type integer'),
    ("temperature", "warm", 'option "temperature" must be of type float32'),
    ("top_p", [], 'option "top_p" must be of type float32'),
    ("use_mmap", 1, 'option "use_mmap" must be of type boolean'),
    ("stop", "END", 'option "stop" must be of type array'),
    ("stop", ["a", 1], 'option "stop" must be of an array of strings'),
]


@pytest.mark.parametrize(("name", "value", "text"), WRONG)
def test_a_wrong_type_is_a_500_in_the_words_clients_look_for(name: str, value: Any, text: str) -> None:
    with pytest.raises(OptionRefused) as caught:
        merge({name: value})
    assert (str(caught.value), caught.value.http_status) == (text, 500)


OUTSIDE = [
    ("temperature", -0.1),
    ("temperature", float("nan")),
    ("top_p", 1.5),
    ("top_p", float("inf")),
    ("min_p", -1),
    ("num_ctx", 3),
    ("num_ctx", -4096),
    ("repeat_penalty", 0),
    ("repeat_last_n", -2),
    ("num_thread", -1),
    ("seed", 1 << 64),
    ("num_ctx", 1 << 40),
]


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(OptionRefused, match=f'option "{name}" must be') as caught:
        merge({name: value})
    assert caught.value.http_status == 400


def test_the_later_source_wins_and_a_list_of_stops_replaces_the_earlier() -> None:
    options = merge({"temperature": 0.5, "stop": ["A", "B"], "top_k": 7}, {"stop": ["C"], "temperature": 0})
    assert (options.temperature, options.stop, options.top_k) == (0.0, ("C",), 7)


def test_unknown_options_and_nulls_never_fail_and_change_nothing() -> None:
    # langchain-ollama sends thirteen keys, most of them null
    assert merge({"mirostat": 1, "tfs_z": None, "num_gpu": None, "banana": [1], "temperature": None}) == Options()


def test_integers_accept_json_floats_and_cut_the_fraction() -> None:
    assert merge({"num_predict": 12.9, "seed": 4e2}).num_predict == 12
    assert merge({"seed": 4e2}).seed == 400


def test_empty_stop_strings_are_dropped() -> None:
    assert merge({"stop": ["", "x"]}).stop == ("x",)


def test_every_option_has_one_rule_and_a_default_inside_it() -> None:
    defaults = values(Options())
    assert set(RULES) == set(defaults)
    assert checked({name: list(v) if isinstance(v, tuple) else v for name, v in defaults.items()}) == {
        name: value for name, value in defaults.items() if value is not None
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*RULES, "other"]), JSON, max_size=4))
def test_whatever_json_holds_the_result_is_in_range_or_a_refusal(values: dict[str, Any]) -> None:
    try:
        options = merge(values)
    except OptionRefused as error:
        assert error.http_status in (400, 500)
        return
    assert 0 <= options.top_p <= 1 and options.temperature >= 0 and (options.num_ctx == 0 or options.num_ctx >= 4)
