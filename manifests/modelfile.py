"""Modelfile: the text a model is made from, parsed and rendered in Ollama's grammar (contract, 5.1 and 5.3).

    # comment, only where a command may start
    COMMAND value          COMMAND "value"          COMMAND \"\"\"value
    PARAMETER name value   MESSAGE role value       over lines\"\"\"

A value that begins with a quote ends at the first line whose last character closes it; there are no escapes. Command
words ignore case. UTF-8 and UTF-16 (by byte order mark), LF and CRLF.
Laws: `parse(render(m)) == m`, or `render` refuses a value that the grammar cannot hold. Unlike Ollama's parser, no
character of a value is dropped (its contract, 11.43), so texts with joined emoji or no-break spaces survive.
Refuses unknown commands and parameters, values of the wrong type, files without FROM, and files over MAX_MODELFILE.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

from manifests.errors import ModelfileError
from manifests.parameters import Value, parse_parameter

MAX_MODELFILE = 16 << 20  # bytes

COMMANDS = (
    "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", "parameter", "message",
    "requires",
)  # fmt: skip
ROLES = ("system", "user", "assistant")
ONE_OF_ROLES = 'one of "system", "user", or "assistant"'
_KEYED = ("parameter", "message")
SEMVER = re.compile(r"v?\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", re.ASCII)
NO_SEMVER = "requires must be a valid semver (e.g. 0.14.0)"
_LINE = re.compile(r"[ \t]*([A-Za-z]+)(?:[ \t]+(.*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One line: `name` in lower case; `key` is the parameter's name or the message's role, else empty."""

    name: str
    value: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelfile:
    """Commands in file order."""

    commands: tuple[Command, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Modelfile:
        if len(raw) > MAX_MODELFILE:
            raise ModelfileError(f"Modelfile of {len(raw)} bytes; at most {MAX_MODELFILE} are accepted")
        found = cls(commands=tuple(_Parser(_decode(raw)).commands()))
        if not found.all("from"):
            raise ModelfileError("no FROM line", hint="begin with FROM and a model name or the path of a GGUF file")
        return found

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(command.value for command in self.commands if command.name == name)

    def last(self, name: str) -> str | None:
        values = self.all(name)
        return values[-1] if values else None

    @property
    def parameters(self) -> dict[str, Value]:
        """Typed; `stop` gathers its values into a list, of others the last counts."""
        found: dict[str, Value] = {}
        for command in self.commands:
            if command.name != "parameter":
                continue
            value = parse_parameter(command.key, command.value)
            if value is None:
                continue
            if isinstance(value, list):
                earlier = found.get(command.key, [])
                assert isinstance(earlier, list)
                value = [*earlier, *value]
            found[command.key] = value
        return found

    @property
    def messages(self) -> tuple[tuple[str, str], ...]:
        """(role, content) pairs."""
        return tuple((command.key, command.value) for command in self.commands if command.name == "message")

    def render(self) -> str:
        return "".join(render_command(command) + "\n" for command in self.commands)


def render_command(command: Command) -> str:
    """One command as text that parses back to it; refuses a value that the grammar cannot hold."""
    head = f"{command.name.upper()} {command.key} " if command.name in _KEYED else f"{command.name.upper()} "
    for text in (command.value, f'"{command.value}"', f'"""{command.value}"""'):
        try:
            if tuple(_Parser(head + text).commands()) == (command,):
                return head + text
        except ModelfileError:
            continue
    raise ModelfileError(f"{command.name.upper()}: a Modelfile cannot hold this value: a line of it ends in a quote")


def _decode(raw: bytes) -> str:
    try:
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return raw.decode("utf-16")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelfileError(f"Modelfile is neither UTF-8 nor UTF-16: {error}") from None


class _Parser:
    """Reads line by line; `_at` is the index of the next line."""

    def __init__(self, text: str) -> None:
        self._lines = text.replace("\r\n", "\n").split("\n")
        self._at = 0

    def commands(self) -> list[Command]:
        found = []
        while self._at < len(self._lines):
            line = self._lines[self._at]
            self._at += 1
            if line.strip() and not line.lstrip().startswith("#"):
                found.append(self._command(line))
        return found

    def _command(self, line: str) -> Command:
        number = self._at
        match = _LINE.fullmatch(line)
        name = match.group(1).lower() if match else ""
        if match is None or name not in COMMANDS:
            listed = ", ".join(f'"{command}"' for command in COMMANDS[:-1])
            raise ModelfileError(f'(line {number}): command must be one of {listed}, or "{COMMANDS[-1]}"')
        rest, key = match.group(2) or "", ""
        if name in _KEYED:
            key, _, rest = rest.strip(" \t").partition(" ")
            key, tab, after = key.partition("\t")
            rest = f"{after} {rest}" if tab else rest
        value = self._value(rest, number)
        _check(name, key, value, number)
        return Command(name=name, key=key, value=value)

    def _value(self, first: str, number: int) -> str:
        """The rest of the line, or of as many lines as an opening quote asks for."""
        if not first.strip():
            raise ModelfileError(f"(line {number}): the command has no value")
        value = _unquote(first.strip())
        if value is not None:
            return value
        quote = '"""' if first.strip().startswith('"""') else '"'
        last = next((i for i in range(self._at, len(self._lines)) if self._lines[i].rstrip().endswith(quote)), None)
        if last is None:
            raise ModelfileError(
                "unexpected EOF", hint=f"the quote that opens on line {number} is never closed at a line's end"
            )
        text = "\n".join([first, *self._lines[self._at : last + 1]]).strip()
        self._at = last + 1
        return text[len(quote) : -len(quote)]


def _unquote(text: str) -> str | None:
    """The value of a stripped text; None while its quote is open."""
    for quote in ('"""', '"'):
        if text.startswith(quote):
            closed = len(text) >= 2 * len(quote) and text.endswith(quote)
            return text[len(quote) : -len(quote)] if closed else None
    return text


def _check(name: str, key: str, value: str, number: int) -> None:
    if name == "message" and key not in ROLES:
        raise ModelfileError(f"(line {number}): message role must be {ONE_OF_ROLES}")
    if name == "parameter":
        try:
            parse_parameter(key, value)
        except ModelfileError as error:
            raise ModelfileError(f"(line {number}): {error}", hint=error.hint) from None
    if name == "requires" and not SEMVER.fullmatch(value):
        raise ModelfileError(f"(line {number}): {NO_SEMVER}")
