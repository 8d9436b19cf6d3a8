r"""Python's `re` for the patterns of a rule, which name classes of Unicode that `re` does not know.

Of a character that is not ASCII, a pattern asks only which of its classes it is in. So a text is cut with each such
character replaced by one that stands for all of its kind: lengths are the same, and `re` needs to know few characters.
The kinds are those of Unicode as Python has it. What is unassigned there may be in a later Unicode: the `tokenizers`
library is asked for its class, so that the same text is cut alike under every Python.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

# Unicode's classes as they are among ASCII characters, for use inside brackets.
_ASCII = {
    "L": "A-Za-z", "Lu": "A-Z", "Ll": "a-z", "Lt": "", "Lm": "", "Lo": "", "M": "", "N": "0-9",
    "P": r"!-#%-*,-/:;?@\[-\]_{}", "S": r"$+<->\^`|\~", "s": r"\s",
}  # fmt: skip
_KINDS = ("Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "P", "S", "s", "")  # "s": white space; "": all others
_NAMED = re.compile(r"\\p\{(\w+)\}|\\([sS])|\\.|[\[\]]")
_FOREIGN = re.compile("\\[([^]\\\\]*[^\\x00-\\x7f][^]\\\\]*)\\]")  # a class that lists characters that are not ASCII
_RANGE = re.compile(r"(?s).-.|.")
_FIRST = 0xE000  # stand-ins are for private use: nothing but these patterns sees them
_MOST = 1 << 14  # characters remembered


class Alphabet(dict[int, int]):
    """For `str.translate`: the stand-in of each character."""

    def __init__(self, patterns: Sequence[str]) -> None:
        super().__init__((code, code) for code in range(128))
        self._foreign = list(dict.fromkeys(found for one in patterns for found in _FOREIGN.findall(one)))
        self._listed = [re.compile(f"[{one}]") for one in self._foreign]
        self.patterns = [re.compile(f"({self._rewritten(one)})", re.ASCII) for one in patterns]

    def __missing__(self, code: int) -> int:
        char = chr(code)
        lists = sum(1 << index for index, listed in enumerate(self._listed) if listed.match(char))
        stand_in = self._stand_in(_KINDS.index(_kind(char)), lists)
        if len(self) < _MOST:
            self[code] = stand_in
        return stand_in

    def _stand_in(self, kind: int, lists: int) -> int:
        return _FIRST + (kind << len(self._foreign)) + lists

    def _rewritten(self, pattern: str) -> str:
        for index, found in enumerate(self._foreign):
            pattern = pattern.replace(f"[{found}]", f"[{self._list(index)}]")
        inside = False

        def spelled(match: re.Match[str]) -> str:
            nonlocal inside
            found, named, blank = match.group(), match[1], match[2]
            if named or blank:
                members = self._class(named or "s")
                assert not (inside and blank == "S")
                return members if inside else f"[^{members}]" if blank == "S" else f"[{members}]"
            inside = found == "[" or (inside and found != "]")
            return found

        return _NAMED.sub(spelled, pattern)

    def _class(self, name: str) -> str:
        kinds = [index for index, kind in enumerate(_KINDS) if kind.startswith(name)]
        last = (1 << len(self._foreign)) - 1
        spans = (f"{chr(self._stand_in(kind, 0))}-{chr(self._stand_in(kind, last))}" for kind in kinds)
        return _ASCII[name] + "".join(spans)

    def _list(self, index: int) -> str:
        """One of `_foreign`: its ASCII characters, and all stand-ins of characters that it lists."""
        own = "".join(part for part in _RANGE.findall(self._foreign[index]) if part.isascii())
        lists = [lists for lists in range(1 << len(self._foreign)) if lists >> index & 1]
        return own + "".join(chr(self._stand_in(kind, one)) for kind in range(len(_KINDS)) for one in lists)


def _kind(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cn":
        return _later_kind(char)
    if category[0] == "Z" or char == "\x85":
        return "s"
    return category if category[0] == "L" else category[0] if category[0] in "MNPS" else ""


def _later_kind(char: str) -> str:
    return next((kind for kind, remover in _removers() if not remover.normalize_str(char)), "")


@functools.cache
def _removers() -> list[tuple[str, Any]]:
    from tokenizers import Regex, normalizers

    return [(kind, normalizers.Replace(Regex(rf"\p{{{kind}}}"), "")) for kind in _KINDS if kind not in ("s", "")]
