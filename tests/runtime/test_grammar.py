"""Grammars: whatever a model would like to say, what it may say belongs to the language.

The model here is a generator of random numbers over all bytes, some longer tokens and some that are no text; it sees
the masks alone. Judges are other people's: `jsonschema`, `json`, `re`.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.engine.constraint import MAX_TEXT, Constraint, Kind, prepared
from runtime.engine.grammar import Grammars, Matcher
from runtime.engine.grammar_schema import FORMATS, MAX_DEPTH, MAX_PROPERTIES, MAX_SCHEMAS
from runtime.engine.vocabulary import MARK, Vocabulary
from runtime.errors import RequestRefused

WORDS = [
    '{"',
    '": ',
    '", "',
    "],",
    '"]',
    "true",
    "null",
    "00",
    "  ",
    "\n  ",
    "ab",
    "é",
    "日本",
    ".5",
    "e+",
    "-1",
    '\\"',
]
CROSSING = ["</think>", "</", "k>{", "> ", "</think>\n", ">\n\n"]
NAMES = ["<s>", "</s>", "<|im_end|>", "<end-of-thought>"]
TOKENS = (*(bytes([byte]) for byte in range(256)), *(word.encode() for word in (*WORDS, *CROSSING, *NAMES)))
SPECIAL = frozenset(range(len(TOKENS) - len(NAMES), len(TOKENS)))
ENDS = frozenset({len(TOKENS) - 3, len(TOKENS) - 2})
VOCABULARY = Vocabulary.of(TOKENS, special=SPECIAL, ends=ENDS)
N_VOCAB = len(TOKENS) + 37  # a model whose logits are wider than its tokenizer's table
CLOSING = b'"}],'  # a random model must like these, or it never comes to an end

grammars = Grammars(VOCABULARY, N_VOCAB, 2)


def matcher(kind: Kind, text: str = "", after: str = "") -> Matcher:
    return grammars.compile(prepared(Constraint(kind=kind, text=text, after=after))).result(30)


def allowed(one: Matcher) -> list[int]:
    mask = one.mask()
    assert mask is not None
    found: list[int] = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")).tolist()
    return found


def speak(one: Matcher, rng: random.Random, limit: int = 300) -> bytes | None:
    """What a random model says; None if it does not come to an end."""
    said = b""
    for _ in range(limit):
        ids = allowed(one)
        assert ids and max(ids) < len(TOKENS), "a token that the vocabulary does not have"
        if ENDS.intersection(ids) and (len(ids) == len(ENDS) or rng.random() < 0.5):
            return said
        ids = [id for id in ids if id not in ENDS]
        token = rng.choices(ids, [30 if TOKENS[id][-1] in CLOSING else 1 for id in ids])[0]
        said += TOKENS[token]
        one.advance(token)
        if one.complete:
            return said
    return None


def takes(one: Matcher, text: str | bytes) -> int:
    """How many bytes of `text`, said byte by byte, the masks allow."""
    whole = text.encode() if isinstance(text, str) else text
    for place, byte in enumerate(whole):
        if one.complete or byte not in allowed(one):
            return place
        one.advance(byte)
    return len(whole)


# -- JSON schemas

scalars = st.one_of(
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {}, True, {"type": ["string", "null"], "maxLength": 4}]),
    st.sampled_from([1, "x", None, [1, "a"], {"a": 1}, 1.5, True]).map(lambda value: {"const": value}),
    st.permutations(["a", "b\n", "é", 1, 2.5, None, {"k": [1]}]).map(lambda values: {"enum": values[:3]}),
    st.tuples(st.integers(0, 5), st.integers(0, 5)).map(
        lambda pair: {"type": "string", "minLength": pair[0], "maxLength": sum(pair)}
    ),
    st.sampled_from(["^a+$", "b", "^[A-Z]{2}\\d{3}$", "^(foo|bar)", "\\.com$", "[^a]{2}", "a|b$", "^.{1,3}$"]).map(
        lambda pattern: {"type": "string", "pattern": pattern}
    ),
    st.sampled_from(FORMATS).map(lambda form: {"type": "string", "format": form}),
    st.tuples(
        st.sampled_from(["integer", "number"]), st.sampled_from(["minimum", "exclusiveMinimum"]),
        st.sampled_from([-1000, -5, -2.75, 0, 0.5, 3]), st.sampled_from(["maximum", "exclusiveMaximum"]),
        st.sampled_from([2, 10, 99.5]),
    ).map(lambda five: {"type": five[0], five[1]: five[2], five[3]: five[2] + five[4]}),
    st.sampled_from([1, 2, 7, 0.25, 10]).map(lambda step: {"type": "number", "multipleOf": step}),
)  # fmt: skip


def compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    names = st.sampled_from(["a", "b", "c d", "é", 'x"y'])
    listed = st.dictionaries(names, inner, max_size=3)
    return st.one_of(
        st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
            lambda three: {"type": "array", "items": three[0], "minItems": three[1], "maxItems": sum(three[1:])}
        ),
        st.tuples(st.lists(inner, min_size=1, max_size=2), st.one_of(st.just(False), inner)).map(
            lambda pair: {"type": "array", "prefixItems": pair[0], "items": pair[1]}
        ),
        st.tuples(listed, st.integers(0, 3)).map(
            lambda pair: {"type": "object", "properties": pair[0], "required": list(pair[0])[: pair[1]]}
        ),
        st.tuples(listed, st.one_of(st.booleans(), inner)).map(
            lambda pair: {"type": "object", "properties": pair[0], "additionalProperties": pair[1]}
        ),
        st.lists(inner, min_size=1, max_size=2).map(lambda several: {"anyOf": several}),
        st.tuples(inner, inner).map(lambda pair: {"oneOf": [tagged("a", pair[0]), tagged("b", pair[1])]}),
        st.tuples(inner, inner).map(
            lambda pair: {"allOf": [{"type": "object", "properties": {"a": pair[0]}}, {"properties": {"b": pair[1]}}]}
        ),
        inner.map(
            lambda one: {
                "$defs": {
                    "n": {**tagged("n", one), "properties": {"v": one, "k": {"$ref": "#/$defs/n"}}, "required": []}
                },
                "anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}],
            }
        ),
    )


def tagged(name: str, value: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"k": {"const": name}, "v": value}, "required": ["k"]}


schemas = st.recursive(scalars, compound, max_leaves=6).filter(lambda schema: isinstance(schema, dict))
CHECKER = jsonschema.FormatChecker(("ipv4", "ipv6", "uuid", "email"))  # its dates know no year 0, its times no zone


@settings(max_examples=80, deadline=None)
@given(schemas, st.randoms(use_true_random=False))
@example({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a", "b"]}, random.Random(1))
def test_an_answer_that_ends_satisfies_its_schema(schema: dict[str, Any], rng: random.Random) -> None:
    try:
        one = matcher("schema", json.dumps(schema))
    except RequestRefused:
        return  # by name; test_schemas_that_are_kept says which are not
    said = speak(one, rng)
    if said is not None:
        jsonschema.validate(json.loads(said.decode()), schema, jsonschema.Draft202012Validator, format_checker=CHECKER)


KEPT: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "string"}, "n": {"type": "integer", "minimum": 0}}},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/t"}}, "$defs": {"t": {"enum": ["x", "y"]}}},
    {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 3},
    {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}}},
    {
        "oneOf": [tagged("a", {"type": "null"}), tagged("b", {"type": "boolean"})],
        "discriminator": {"propertyName": "k"},
    },
    {"type": "array", "items": {"type": "string", "format": "date-time"}, "uniqueItems": False, "title": "Times"},
    {
        "type": "object",  # formats of OpenAPI and of pydantic, which JSON Schema does not define
        "properties": {"n": {"type": "integer", "format": "int64"}, "key": {"type": "string", "format": "password"}},
        "required": ["n", "key"],
    },
    {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"type": "null"}]},
    {"allOf": [{"type": "object", "properties": {"a": {"type": "null"}}}, {"required": ["a"]}], "x-guidance": {"a": 1}},
    {"type": "string", "maxLength": 10**9},
    {"type": "array", "minItems": 1, "maxItems": 10**9, "items": {"type": "null"}},
]


@pytest.mark.parametrize("schema", KEPT, ids=str)
def test_schemas_that_are_kept(schema: dict[str, Any]) -> None:
    one = matcher("schema", json.dumps(schema))
    found = [
        said
        for said in (
            speak(one if n == 0 else matcher("schema", json.dumps(schema)), random.Random(n)) for n in range(8)
        )
        if said
    ]
    assert found
    for said in found:
        jsonschema.validate(json.loads(said.decode()), schema)


REFUSED: list[tuple[Any, str]] = [
    ({"properties": {"a": {"items": {"not": {}}}}}, r'schema\.properties\.a\.items: the keyword "not"'),
    ({"anyOf": [{}, {"if": {}, "then": {}}]}, r'schema\.anyOf\[1\]: the keyword "if"'),
    ({"$defs": {"x": {"uniqueItems": True}}}, r'schema\.\$defs\.x: the keyword "uniqueItems"'),
    ({"dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    ({"type": "object", "unevaluatedProperties": False}, "unevaluatedProperties"),
    ({"properties": {"to": {"format": "iri"}}}, r'schema\.properties\.to\.format is "iri"; known are date'),
    ({"properties": {"to": {"format": 7}}}, r"schema\.properties\.to\.format is 7; known are date"),
    ({"properties": []}, r"schema\.properties is a list; expected an object"),
    ({"anyOf": {}}, r"schema\.anyOf is an object; expected a list of schemas"),
    ({"items": 3}, r"schema\.items is a number; expected a schema"),
    ([], "is a list; expected an object"),
    ({"$ref": "#/nowhere"}, "/nowhere"),
    ({"$ref": "http://example.org/schema"}, "example.org"),
    ({"$ref": "#"}, "cannot be kept"),
    ({"enum": []}, "cannot be kept: Unsatisfiable"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, r"minimum \(5\) is greater than maximum \(3\)"),
    ({"oneOf": [{"type": "string"}, {"minLength": 3}]}, "oneOf"),
    ({"type": "string", "pattern": "(?=a)b"}, "look"),
    ({"type": "frob"}, "frob"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "said"), REFUSED, ids=str)
def test_schemas_that_are_refused_by_name(schema: Any, said: str) -> None:
    with pytest.raises(RequestRefused, match=said):
        matcher("schema", json.dumps(schema))


@pytest.mark.parametrize("text", ["", "{", "nonsense", '{"a": NaN}', "[" * 100000, '{"maximum": ' + "9" * 5000 + "}"])
def test_what_is_no_json_is_no_schema(text: str) -> None:
    with pytest.raises(RequestRefused):
        matcher("schema", text)


LISTED: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "null"}}}


@pytest.mark.parametrize(
    ("schema", "more"),
    [
        (LISTED, False),
        ({"anyOf": [LISTED, {"type": "null"}]}, False),
        ({**LISTED, "additionalProperties": True}, True),
        ({"type": "object"}, True),
        ({**LISTED, "required": ["a", "b"]}, True),
        ({"allOf": [LISTED, {"properties": {"b": {"type": "null"}}}]}, True),
        ({**LISTED, "anyOf": [{"properties": {"b": {"type": "null"}}}]}, True),
        ({**LISTED, "patternProperties": {"^b$": {"type": "null"}}}, True),
    ],
)
def test_an_object_that_lists_its_properties_has_no_others_unless_its_schema_says_so(
    schema: dict[str, Any], more: bool
) -> None:
    whole = '{"a":null,"b":null}'
    assert (takes(matcher("schema", json.dumps(schema)), whole) == len(whole)) is more


def test_white_space_has_an_end() -> None:
    pretty = '{"a": [1, 2],\r\n    "b" :\n{ } }'
    assert takes(matcher("json"), pretty) == len(pretty)
    for blanks, most in ((" " * 99, 1), ("\n" * 99, 1), ("\n" + "\t" * 99, 33), ("\n" + " " * 99, 33)):
        assert takes(matcher("json"), "{" + blanks) == 1 + most
    assert takes(matcher("json"), " {") == 0
    assert matcher("json").complete is False


def test_json_is_an_object_of_anything() -> None:
    for text in ('{"a":[{"b":-1.5e3},"\\n\\u0001",null,true]}', "{}"):
        one = matcher("json")
        assert takes(one, text) == len(text) and one.complete
    for text in ("[]", "1", '"a"'):
        assert takes(matcher("json"), text) == 0


# -- regular expressions and grammars


PATTERNS = [r"\d{4}-\d{2}-\d{2}", "a/b|[x-z]{2,4}", 'say "\\w+"\n', "(é|日本){1,3}", "[^a-z]?", "(ab)*", ""]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_answer_matches_its_expression_in_full(pattern: str) -> None:
    found = [speak(matcher("regex", pattern), random.Random(seed)) for seed in range(12)]
    texts = [said.decode() for said in found if said is not None]
    assert texts
    assert all(re.fullmatch(pattern, text) for text in texts)


def test_an_answer_parses_by_its_grammar() -> None:
    sums = 'start: product ("+" product)*\nproduct: NUMBER ("*" NUMBER)*\nNUMBER: /[1-9][0-9]{0,2}/'
    for seed in range(12):
        said = speak(matcher("lark", sums), random.Random(seed))
        assert said is None or re.fullmatch(rb"[1-9]\d{0,2}([+*][1-9]\d{0,2})*", said)
    one = matcher("lark", sums)
    assert takes(one, "12+3*450") == 8 and not one.complete
    assert set(allowed(one)) >= ENDS, "the answer may end here"


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("regex", "(a", "unclosed group"), ("regex", "(?=a)b", "look"), ("lark", "", "no start"),
        ("lark", "start: nowhere", 'unknown name: "nowhere"'), ("lark", 'start: "a', "lexer error"),
        ("lark", "start: start", "cannot be kept"),
    ],
)  # fmt: skip
def test_what_is_no_grammar_is_refused(kind: Kind, text: str, said: str) -> None:
    with pytest.raises(RequestRefused, match=said):
        matcher(kind, text)


# -- text before the language


def test_before_the_language_anything_may_be_said_but_no_end() -> None:
    one = matcher("regex", "yes|no", after="</think>")
    thoughts = "hm {} </thin\n</thi é日 <think>"
    assert takes(one, thoughts) == len(thoughts.encode())
    assert not ENDS.intersection(allowed(one))
    assert takes(one, "</think>no") == 10 and one.complete


@pytest.mark.parametrize("kind", ["json", "schema"])
def test_json_may_begin_on_a_new_line_after_the_text(kind: Kind) -> None:
    text = "" if kind == "json" else '{"type":"object"}'
    for gap in ("", "\n", "\n\n", " "):
        one = matcher(kind, text, after="</think>")
        assert takes(one, f"x</think>{gap}{{}}") == 9 + len(gap) + 2 and one.complete
    assert takes(matcher(kind, text, after="</think>"), "x</think>" + "\n" * 9) == 13


def test_a_token_that_crosses_the_border_is_allowed_only_where_it_goes_on_as_the_language_does() -> None:
    crossing = {word: TOKENS.index(word.encode()) for word in CROSSING}
    one = matcher("regex", "yes|no", after="</think>")
    for byte in b"</thin":
        one.advance(byte)
    ids = allowed(one)
    assert crossing["k>{"] not in ids and ord("k") in ids
    one = matcher("json", after="</think>")
    for byte in b"</thin":
        one.advance(byte)
    if crossing["k>{"] in allowed(one):
        one.advance(crossing["k>{"])
        assert takes(one, "}") == 1 and one.complete
    for seed in range(20):
        one = matcher("json", after="</think>")
        said = speak(one, random.Random(seed), limit=4000)
        if said is not None:
            assert isinstance(json.loads(said.decode().split("</think>", 1)[1]), dict)


def test_the_text_before_may_be_a_token_of_its_own() -> None:
    one = matcher("regex", "yes", after="<end-of-thought>")
    assert takes(one, "hm <end-of-thought") == 18
    assert ord(">") not in allowed(one), "the same text in other tokens would be a second border"
    one.advance(TOKENS.index(b"<end-of-thought>"))
    assert takes(one, "yes") == 3 and one.complete
    with pytest.raises(RequestRefused, match="special token '<s>' and more"):
        matcher("regex", "yes", after="<s>now")
    with pytest.raises(RequestRefused, match="at most"):
        matcher("regex", "yes", after="x" * 65)


# -- hostile ones


def nasty() -> dict[str, Constraint]:
    """Each as large as it may be, or nearly."""
    schemas: dict[str, Any] = {
        "a long enum": {"enum": [f"value{n}" for n in range(9000)]},
        "recursion without end": {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        },
        "alternatives that multiply": {
            "allOf": [{"anyOf": [{"properties": {f"k{n}": {"const": v}}} for v in range(4)]} for n in range(18)]
        },
        "definitions that multiply": {
            "$ref": "#/$defs/d0",
            "$defs": {
                **{f"d{n}": {"type": "array", "prefixItems": [{"$ref": f"#/$defs/d{n + 1}"}] * 8} for n in range(12)},
                "d12": {"type": "null"},
            },
        },
        "a chain of references": {
            "$ref": "#/$defs/a0",
            "$defs": {**{f"a{n}": {"anyOf": [{"$ref": f"#/$defs/a{n + 1}"}]} for n in range(2000)}, "a2000": {}},
        },
        "a catastrophic expression": {"type": "string", "pattern": "^(a+)+(b|a*)*c$"},
        "an expression that repeats": {"type": "string", "pattern": "^((a{1,1000}){1,1000}){1,1000}$"},
        "an expression with many states": {"type": "string", "pattern": "(.*a.{200}){3}|(.*b.{100}){3}"},
        "many options": {"type": "string", "pattern": "(?:a|b)?" * 250},
        "many such": {"anyOf": [{"type": "string", "pattern": f"(?:a|{n}|b)?" * 150} for n in range(9)]},
        "a great length": {"type": "string", "minLength": 10**9, "maxLength": 10**9},
        "many items": {"type": "array", "minItems": 10**7},
        "many properties": {
            "type": "object",
            "properties": {f"p{n}": {"type": "string"} for n in range(MAX_PROPERTIES)},
        },
        "many alternatives": {"anyOf": [tagged(f"p{n}", {"type": "null"}) for n in range(900)]},
        "a large factor": {"type": "integer", "multipleOf": 99991},
        "a wide range": {"type": "number", "minimum": -1e300, "maximum": 1e300},
        "deep": json.loads('{"items":' * MAX_DEPTH + "{}" + "}" * MAX_DEPTH),
    }
    larks = {
        "parentheses": "start: " + "(" * 15000 + '"a"' + ")" * 15000,
        "parentheses in an expression": "start: /" + "(" * 15000 + "a" + ")" * 15000 + "/",
        "repetition": 'start: (("a" | "b"){1,100000}){1,100000}',
        "ambiguity": 'start: start start | "a" | ""',
        "complements": "start: A\nA: ~(~(~(/(.*a.{30})*/) & /(.*b.{30})*/))",
        "rules that multiply": "start: a0\n" + "\n".join(f"a{n}: a{n + 1} a{n + 1}" for n in range(60)) + '\na60: "x"',
        "terminals that multiply": "start: A0\n" + "\n".join(f"A{n}: A{n + 1}{{2}}" for n in range(40)) + "\nA40: /x/",
        "a chain of rules": "start: a0\n" + "\n".join(f"a{n}:a{n + 1}" for n in range(2500)) + '\na2500: "x"',
        "a chain of terminals": "start: A0\n" + "\n".join(f"A{n}:A{n + 1}" for n in range(2500)) + '\nA2500: "x"',
        "a schema that is deep": "start: %json " + '{"items":' * 3000 + "{}" + "}" * 3000,
        "letters": "start: /(\\p{L}|\\p{N}){50,5000}(\\w\\d){1000}/",
    }  # fmt: skip
    found = {name: Constraint(kind="schema", text=json.dumps(schema)) for name, schema in schemas.items()}
    return found | {name: Constraint(kind="lark", text=text) for name, text in larks.items()}


NASTY = nasty()


@pytest.mark.parametrize("name", NASTY)
def test_a_hostile_constraint_costs_little_and_never_breaks_its_language(name: str) -> None:
    """Megabytes are the order of magnitude that an unbounded one would leave far behind; it would take minutes too."""
    before = memory()
    try:
        one = grammars.compile(prepared(NASTY[name])).result(60)
    except RequestRefused as error:
        assert str(error)
        return
    rng = random.Random(1)
    for _ in range(60):
        if (mask := one.mask()) is None:
            break
        ids = np.flatnonzero(np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little"))
        one.advance(int(rng.choice(ids)))
        if one.complete:
            break
    assert memory() - before < 300 << 20


def memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("json", "x", "at most 0"),
        ("schema", '{"title":"' + "x" * MAX_TEXT["schema"] + '"}', "bytes; at most"),
        ("regex", "a" * (MAX_TEXT["regex"] + 1), "the regular expression has 4097 bytes; at most 4096"),
        ("lark", "//" + "a" * MAX_TEXT["lark"], "the grammar has"),
        ("schema", '{"items":' * (MAX_DEPTH + 1) + "{}" + "}" * (MAX_DEPTH + 1), "nested deeper than 64"),
        ("schema", json.dumps({"anyOf": [{}] * MAX_SCHEMAS}), "more than 4096 schemas"),
        ("schema", json.dumps({"required": ["x"] * (MAX_PROPERTIES + 1)}), "schema.required has 513 names"),
        ("schema", json.dumps({"pattern": "a" * 2049}), "schema.pattern has 2049 characters"),
        ("schema", json.dumps({"anyOf": [{"pattern": "a" * 2048}] * 9}), "patterns have 18432 characters"),
    ],
)  # fmt: skip
def test_limits_come_before_work(kind: Kind, text: str, said: str) -> None:
    with pytest.raises(RequestRefused, match=re.escape(said) if "." not in said else said):
        prepared(Constraint(kind=kind, text=text))


def test_what_cannot_be_told_any_more_is_no_mask() -> None:
    """llguidance answers its own failures with a mask of end tokens, as if the answer were whole."""
    one = matcher("schema", json.dumps({"type": "string", "pattern": "(?:a|b)?" * 255}))
    one.advance(ord('"'))
    one.advance(ord("x"))
    assert one.mask() is None and not one.complete


@given(st.lists(st.binary(max_size=5), min_size=1), st.integers(1, 12), st.data())
def test_a_vocabulary_travels_as_json_and_is_told_as_llguidance_wants_it(
    tokens: list[bytes], n_vocab: int, data: st.DataObject
) -> None:
    ids = st.frozensets(st.integers(0, len(tokens) - 1))
    sent = Vocabulary.of(tokens, special=data.draw(ids), ends=data.draw(ids))
    assert Vocabulary.from_json(json.loads(json.dumps(sent.to_json()))) == sent
    assert sent.names() == {id: tokens[id] for id in sent.special}
    wanted = [(MARK if id in sent.special else b"") + token for id, token in enumerate(tokens[:n_vocab])]
    wanted += [b""] * (n_vocab - len(wanted))
    text, lengths = sent.marked(n_vocab)
    assert (text, list(lengths)) == (b"".join(wanted), list(map(len, wanted)))
