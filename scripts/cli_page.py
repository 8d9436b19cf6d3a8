"""Prints docs/cli.md, made from the verbs themselves: `python -m scripts.cli_page`. See scripts/docs.

By reflection and not from the printed help, so that the page is the same with every version of typer.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.peers.verbs import arguments_of, leaves, tree

INTRODUCTION = """\
# The command line

Made by `scripts/docs` from the program's own help texts; a test fails when this page is stale.

Results go to standard output. Everything else goes to standard error, as `sealift: …`, and advice as
`sealift: hint: …`. Progress is shown on a terminal and silent when piped. `--json` prints JSON on standard output;
after an error one line there too: `error`, `hint`, `exit_code` and, where signatures were judged, `verdict`.

| exit code | meaning | example |
|---|---|---|
| 0 | done | |
| 1 | refused input | a damaged bundle, a model that is not in the store |
| 2 | usage | an unknown verb or option, a value that makes no sense |
| 3 | not trusted | too few signatures, an unknown or revoked key |
| 4 | unavailable | no server, no network, a full disk, an unreadable medium |
| 70 | a fault of sealift | please report it; `SEALIFT_DEBUG=1` shows where |
| 130 | interrupted | Ctrl-C |
| 141 | the reader of the output left | a pipe into `head -1` |

Shell completion: `sealift --install-completion` installs it for the shell that runs the command, `sealift
--show-completion` prints it.

## Settings from the environment

Every `SEALIFT_X` marked with * falls back to `OLLAMA_X`. A flag goes before the environment.

| variable | meaning |
|---|---|
| `SEALIFT_HOME` | keys, trust, policy, state and, unless told otherwise, models; `~/.sealift` |
| `SEALIFT_MODELS` * | the store; `models` in the home |
| `SEALIFT_HOST` * | where the server listens, and where `run`, `ps`, `stop` and `--version` ask; `127.0.0.1:11434` |
| `SEALIFT_API_KEY` * | sent as a bearer token by `run`, `ps` and `stop`, for a server or proxy that asks for one |
| `SEALIFT_ACCESS` | the file of those who may ask the server; `access.toml` in the home |
| `SEALIFT_CA` | a PEM file with the authority of an `https` server that they ask; else `SSL_CERT_FILE` |
| `SEALIFT_CERT`, `SEALIFT_CERT_KEY` | PEM files that they show to a server that asks for a client certificate |
| `SEALIFT_ORIGINS` * | more web pages that may ask the server: a comma list such as `http://wiki.corp:*` |
| `SEALIFT_CONTEXT_LENGTH` * | tokens of context where neither request nor Modelfile says; 4096 |
| `SEALIFT_NUM_THREADS` * | threads of each model; one a core that affinity, cpuset and CPU quota leave |
| `SEALIFT_NUM_PARALLEL` * | full contexts kept for each model; 1 to 4 as memory allows |
| `SEALIFT_BATCH_ROWS` * | tokens computed in one step, all requests of a model together; 512 |
| `SEALIFT_KV_CACHE_TYPE` * | how keys and values are kept: `f16`, or `q8_0` in about half the memory |
| `SEALIFT_KEEP_ALIVE` * | how long an idle model stays loaded; `5m`, negative for ever |
| `SEALIFT_LOAD_TIMEOUT` * | how long loading a model may take; `5m`, 0 or negative for ever |
| `SEALIFT_MAX_LOADED_MODELS` * | models loaded at once; 3 |
| `SEALIFT_MAX_QUEUE` * | requests that may wait, for a load or in a model's line; more are answered 503; 512 |
| `SEALIFT_GO_TEMPLATE` * | true: a model's Go template goes before its GGUF's Jinja; false: after it |
| `SEALIFT_EDITOR` * | the editor that Ctrl-G opens in a chat; else `VISUAL`, `EDITOR` |
| `NO_COLOR` | any value: what a model thinks is not shown in grey |
| `SEALIFT_NOHISTORY` * | true: what is typed in a chat is not remembered |
| `SEALIFT_PASSPHRASE` | the passphrase of a private key, where there is no terminal |
| `SEALIFT_IDENTITY` | the file with the identity that opens encrypted volumes |
| `SEALIFT_BUNDLE_PASSPHRASE` | the passphrase of an encrypted bundle, where there is no terminal |
| `SEALIFT_PIN`, `SEALIFT_PIN_FILE` | the PIN of a token, or a one-line file that holds it |
| `SEALIFT_NEW_PASSPHRASE` | the new one, for `sealift key passwd` |
| `SEALIFT_REGISTRY_HOST` | the one registry (`name` or `name:port`) that the next two are for |
| `SEALIFT_REGISTRY_USER`, `SEALIFT_REGISTRY_PASSWORD` | credentials for `pull` and `push` |
| `SEALIFT_NATIVE_LIBRARY` | the path of another `libsealift.so`, for development |
| `SEALIFT_DEBUG` * | 1: a fault of sealift shows where it happened, and `serve` logs at the level `debug` |
| `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY` | proxies for `pull` and `push`; nothing else uses them |
| `SOURCE_DATE_EPOCH` | the time written into a bundle, for reproducible exports |
"""


def page() -> str:
    parts = [INTRODUCTION, "## Verbs\n", *_contents()]
    groups = {name: command for name, command in tree().commands.items() if hasattr(command, "commands")}
    told: set[str] = set()
    for verb, command in leaves():
        group = verb.split()[0]
        if group in groups and group not in told:
            told.add(group)
            parts.append(f"\n{groups[group].help}\n")
        parts += _verb(verb, command)
    return "\n".join(parts).rstrip("\n") + "\n"


def _contents() -> Iterator[str]:
    yield "| verb | what it does |"
    yield "|---|---|"
    for verb, command in leaves():
        yield f"| [{verb}](#sealift-{verb.replace(' ', '-')}) | {_first_sentence(command)} |"


def _first_sentence(command: Any) -> str:
    first = " ".join(inspect.cleandoc(command.help).split("\n\n")[0].split())
    return first.split(". ")[0].rstrip(".") + "."


def _verb(verb: str, command: Any) -> Iterator[str]:
    yield f"\n## sealift {verb}\n"
    yield "```\n" + " ".join(["sealift", verb, *_usage(command)]) + "\n```\n"
    yield from _text(inspect.cleandoc(command.help))
    rows = [(_shown_argument(argument), argument) for argument in arguments_of(command)]
    rows += [
        (", ".join(f"`{name}`" for name in sorted(option.opts, key=len, reverse=True)), option)
        for option in command.params
        if option.param_type_name == "option"
    ]
    if rows:
        yield "| argument or option | meaning |"
        yield "|---|---|"
        yield from (f"| {shown} | {_cell(parameter)} |" for shown, parameter in rows)


def _usage(command: Any) -> Iterator[str]:
    for option in command.params:
        if option.param_type_name == "option" and option.required:
            yield f"{max(option.opts, key=len)} VALUE"
    if any(option.param_type_name == "option" and not option.required for option in command.params):
        yield "[OPTIONS]"
    for argument in arguments_of(command):
        shown = _name(argument) + ("..." if argument.nargs == -1 else "")
        yield shown if argument.required else f"[{shown}]"


def _name(argument: Any) -> str:
    return str(argument.metavar or argument.name).strip("[].").replace("]...", "").upper()


def _shown_argument(argument: Any) -> str:
    return f"`{_name(argument)}`"


def _cell(parameter: Any) -> str:
    words = " ".join(parameter.help.split()).replace("|", "\\|")
    if parameter.param_type_name == "option" and parameter.required:
        words += " Required."
    default = parameter.default
    if isinstance(default, (str, Path)) and str(default) and f"[{default}" not in words:
        words += f" Default: `{default}`."
    return words


def _text(text: str) -> Iterator[str]:
    """Paragraphs; one that begins with the mark of click for "as it is" becomes a block of code."""
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("\b"):
            yield "```sh\n" + inspect.cleandoc(paragraph.removeprefix("\b").strip("\n")) + "\n```\n"
        else:
            yield paragraph + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
