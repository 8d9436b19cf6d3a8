"""Go's fmt.Sprint and fmt.Sprintf for the values of a template: verbs v s q d t c U b o O x X e E f F g G T and %.

A wrong verb, a missing or an extra argument gives Go's own marks (`%!d(string=x)`), not an error. Widths and precisions
are bounded, because a template is data from outside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runtime.text.errors import TemplateLimitError
from runtime.text.gotemplate.values import Struct, Value, float_text, shown, type_name

MAX_WIDTH = 10_000
_VERB = re.compile(r"%([+\-# 0]*)(\*|\d+)?(?:\.(\*|\d*))?(?:\[([^\]]*)\])?(.)?", re.DOTALL)


def sprint(values: Sequence[Value]) -> str:
    """A blank between two operands when neither is a string."""
    out: list[str] = []
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            out.append(" ")
        out.append(shown(value, top=False))
    return "".join(out)


def sprintf(form: str, values: Sequence[Value]) -> str:
    queue = _Arguments(values)
    text = _VERB.sub(lambda match: _one(match, queue), form)
    rest = queue.rest()
    if rest:
        text += "%!(EXTRA " + ", ".join(_tagged(value) for value in rest) + ")"
    return text


class _Arguments:
    def __init__(self, values: Sequence[Value]) -> None:
        self._values = values
        self._next = 0
        self._reordered = False

    def take(self) -> tuple[bool, Value]:
        if self._next >= len(self._values):
            return False, None
        self._next += 1
        return True, self._values[self._next - 1]

    def go_to(self, place: str) -> bool:
        """The argument of an explicit place, from 1, is the next."""
        self._reordered = True
        if not place.isascii() or not place.isdigit() or not 0 < int(place[:9]) <= len(self._values):
            return False
        self._next = int(place) - 1
        return True

    def rest(self) -> Sequence[Value]:
        return [] if self._reordered else self._values[self._next :]


def _one(match: re.Match[str], queue: _Arguments) -> str:
    flags, width, precision, place, verb = match.groups()
    if verb is None:
        return "%!(NOVERB)"
    wide, minus = _size(width, queue, "WIDTH")
    exact, _ = (None, False) if precision is None else _size(precision or "0", queue, "PREC")
    if isinstance(wide, str) or isinstance(exact, str):
        return f"{wide if isinstance(wide, str) else ''}{exact if isinstance(exact, str) else ''}"
    if verb == "%":
        return "%"
    if place is not None and not queue.go_to(place):
        return f"%!{verb}(BADINDEX)"
    there, value = queue.take()
    if not there:
        return f"%!{verb}(MISSING)"
    text = _format(verb, value, flags, exact)
    if text is None:
        return f"%!{verb}({_tagged(value) if value is not None else '<nil>'})"
    return _pad(text, wide or 0, flags + ("-" if minus else ""), value, verb)


def _size(given: str | None, queue: _Arguments, name: str) -> tuple[int | str | None, bool]:
    if given is None:
        return None, False
    if given == "*":
        there, value = queue.take()
        if not there or isinstance(value, bool) or not isinstance(value, int):
            return f"%!(BAD{name})", False
        size, minus = abs(value), value < 0
    else:
        size, minus = int(given[:9]), False
    if size > MAX_WIDTH:
        raise TemplateLimitError(f"printf: found a width of {size}, the limit is {MAX_WIDTH}")
    return size, minus


def _pad(text: str, width: int, flags: str, value: Value, verb: str) -> str:
    if "-" in flags:
        return text.ljust(width)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and verb not in "cqU"
    if "0" in flags and number:
        sign = text[:1] if text[:1] in ("+", "-") else ""
        return sign + text[len(sign) :].rjust(width - len(sign), "0")
    return text.rjust(width)


def _tagged(value: Value) -> str:
    return "<nil>" if value is None else f"{type_name(value)}={shown(value, top=False)}"


def _format(verb: str, value: Value, flags: str, exact: int | None) -> str | None:
    """None when the verb does not fit the value."""
    if verb == "T":
        return "<nil>" if value is None else type_name(value)
    if verb == "v":
        return _verb_v(value, flags, exact)
    if isinstance(value, bool):
        return shown(value) if verb == "t" else None
    if isinstance(value, int):
        return _integer(verb, value, flags)
    if isinstance(value, float):
        return _float(verb, value, flags, exact)
    parts = _elements(verb, value, flags, exact)
    return _textual(verb, value, exact) if parts is None else parts


def _elements(verb: str, value: Value, flags: str, exact: int | None) -> str | None:
    """A verb given to a plain list or map goes to each element; None for other values."""

    def one(element: Value) -> str:
        if element is None:
            return "<nil>"
        return _format(verb, element, flags, exact) or f"%!{verb}({_tagged(element)})"

    if isinstance(value, list):
        return "[" + " ".join(map(one, value)) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{one(key)}:{one(value[key])}" for key in sorted(value)) + "]"
    return None


_NAMED = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\"}


def _quoted(text: str, quote: str) -> str:
    """A Go literal."""
    out = [quote]
    for char in text:
        code = ord(char)
        if char == quote:
            out.append("\\" + char)
        elif char in _NAMED:
            out.append(_NAMED[char])
        elif char == " " or char.isprintable():
            out.append(char)
        else:
            out.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(out) + quote


def _verb_v(value: Value, flags: str, exact: int | None) -> str:
    if "#" in flags and isinstance(value, str):
        return _quoted(value, '"')
    if isinstance(value, float) and exact is not None:
        return _float("g", value, flags, exact) or ""
    if isinstance(value, Struct) and "+" in flags and not value.as_json:
        return "{" + " ".join(f"{name}:{shown(one, top=False)}" for name, one in value.fields.items()) + "}"
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    return ("+" if "+" in flags and number else "") + shown(value, top=False)


def _integer(verb: str, value: int, flags: str) -> str | None:
    if verb in ("c", "q", "U"):
        valid = 0 <= value <= 0x10FFFF and not 0xD800 <= value < 0xE000
        char = chr(value) if valid else "\ufffd"
        if verb == "U":
            return f"U+{value:04X}"
        return char if verb == "c" else _quoted(char, "'")
    if verb == "O":
        return ("-" if value < 0 else "") + f"0o{abs(value):o}"
    if verb not in ("d", "b", "o", "x", "X"):
        return None
    prefix = {"x": "0x", "X": "0X", "o": "0", "b": "0b"}.get(verb, "") if "#" in flags else ""
    sign = "-" if value < 0 else "+" if "+" in flags else " " if " " in flags else ""
    return sign + prefix + format(abs(value), verb)


def _float(verb: str, value: float, flags: str, exact: int | None) -> str | None:
    if verb not in ("e", "E", "f", "F", "g", "G"):
        return None
    sign = "+" if "+" in flags and value >= 0 else " " if " " in flags and value >= 0 else ""
    if value != value or value in (float("inf"), float("-inf")):
        return shown(value) if value != value or value < 0 or "+" in flags else "+Inf"
    if verb in ("g", "G"):
        text = float_text(value) if exact is None else format(value, f".{exact}g")
        return sign + (text.upper() if verb == "G" else text)
    return sign + format(value, f".{6 if exact is None else exact}{verb}")


def _textual(verb: str, value: Value, exact: int | None) -> str | None:
    text = value if isinstance(value, str) else None if value is None else shown(value, top=False)
    if text is None:
        return None
    if verb == "s":
        return text if exact is None else text[:exact]
    if not isinstance(value, str):
        return None
    if verb == "q":
        return _quoted(text if exact is None else text[:exact], '"')
    if verb in ("x", "X"):
        digits = text.encode().hex()
        return digits.upper() if verb == "X" else digits
    return None
