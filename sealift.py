"""The door: gathers each room's verbs and maps errors to exit codes. It decides nothing else.

A verb's own imports happen inside the verb, so that `sealift bundle verify` needs neither the server nor the engine.
Results go to stdout; everything else to stderr as `sealift: ...`, advice as `sealift: hint: ...`.
Exit codes: 0 done, 1 refused input, 2 usage, 3 not trusted, 4 unavailable, 70 our fault.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from functools import lru_cache
from typing import Any

import typer

from manifests.home import own_version

ROOMS = ("manifests", "bundler", "runtime", "signing")
EXIT_OUR_FAULT = 70
# verbs of rooms that do not know the custody log, which is the bundler's; it records its own
CUSTODY = {"rm": "remove"} | {
    f"trust {verb}": "trust"
    for verb in ("add", "remove", "revoke", "threshold", "role", "channel", "expires", "init", "import", "sign")
}
EXIT_INTERRUPTED = 130


@lru_cache(maxsize=1)
def build() -> typer.Typer:
    """All verbs. Built once: rooms add theirs to groups of their own, and must not do so twice."""
    app = typer.Typer(
        name="sealift",
        help="Sealed bundles of language models, lifted across an air gap and served on the other side.",
        epilog="A first crossing: key generate, pull or create, bundle export; "
        "then trust add, bundle import, serve, run.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback(invoke_without_command=True)
    def door(
        show_version: bool = typer.Option(
            False, "--version", "-v", help="Print the version, and whether the server's differs."
        ),
    ) -> None:
        if show_version:
            print(f"sealift version is {own_version()}", flush=True)
            importlib.import_module("runtime.commands_ask").compare_server(own_version(), say)
            raise typer.Exit

    for room in ROOMS:
        importlib.import_module(f"{room}.commands").register(app)
    _connect()
    return app


def _connect() -> None:
    """What one room may not import of another, the door hands over: `serve --online` pulls and pushes with the bundler,
    `bundle import --prepare` packs with the runtime, large content is hashed with the engine's library."""
    runtime: Any = importlib.import_module("runtime.commands")
    runtime.transfers_factory = lambda store: importlib.import_module("bundler.transfers").Transfers(store)
    hashes: Any = importlib.import_module("bundler.sha256")
    hashes.side_by_side = lambda: importlib.import_module("native.sha256").side_by_side()
    bundles: Any = importlib.import_module("bundler.commands_bundle")
    bundles.prepare_model = lambda store, name: importlib.import_module("runtime.packs").Packs(store).prepare(name)


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """One command line, to its exit code. Errors of the rooms become one line and, if there is one, a hint."""
    try:
        result = build()(args=arguments, standalone_mode=False, prog_name="sealift")
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()  # a reader that has left is found here, not when the interpreter ends
        if code == 0 and (event := CUSTODY.get(" ".join(arguments[:2])) or CUSTODY.get(" ".join(arguments[:1]))):
            _record(event, arguments)
        return code
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # the reader of our output left: not an error of ours; keep the interpreter from flushing into the closed pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return report(error, as_json="--json" in arguments)


def _record(event: str, arguments: list[str]) -> None:
    if not {"-h", "--help"} & set(arguments):
        importlib.import_module("bundler.commands_custody").recorded(event, {"words": " ".join(arguments)})


def report(error: BaseException, *, as_json: bool = False) -> int:
    """Prints an error as the conventions above say; returns its exit code.

    `as_json`: also one line for a script on stdout, with the verdict where the error carries one.
    """
    code = getattr(error, "exit_code", None)
    if not isinstance(code, int):
        if os.environ.get("SEALIFT_DEBUG"):
            raise error
        say(f"internal error: {type(error).__name__}: {error}")
        say("hint: this is a fault of sealift; SEALIFT_DEBUG=1 shows where")
        return EXIT_OUR_FAULT
    message = getattr(error, "format_message", error.__str__)()
    if type(error).__name__ == "NoArgsIsHelpError":  # a verb without its sub-verb: the message is the whole help page
        print(message, file=sys.stderr)
        return code
    if message:
        say(message)
    hint = getattr(error, "hint", None) or _help_of(error)
    if hint:
        say(f"hint: {hint}")
    if as_json:
        verdict = getattr(error, "verdict", None)
        facts: dict[str, Any] = getattr(error, "as_dict", dict)()
        print(
            json.dumps(
                {"error": message, "hint": hint, "exit_code": code}
                | facts
                | ({"verdict": verdict.as_dict()} if verdict else {})
            )
        )
    return code


def _help_of(error: BaseException) -> str | None:
    """For a usage error found by the command line's own parser: the verb whose help tells."""
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help" if context is not None else None


def say(line: str) -> None:
    """Messages may quote a file or a registry: what a terminal would obey is not printed."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else "?" for c in line)
    print(f"sealift: {shown}", file=sys.stderr)


if __name__ == "__main__":
    main()
