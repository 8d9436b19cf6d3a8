"""The door: gathers each room's verbs and maps errors to exit codes. It decides nothing else.

Only the file of the verb that is asked for is imported, and its own imports happen inside the verb, so that `sealift
bundle verify` needs neither the server nor the engine. Help, completion and mistakes import all files.
Results go to stdout; everything else to stderr as `sealift: ...`, advice as `sealift: hint: ...`.
Exit codes: 0 done, 1 refused input, 2 usage, 3 not trusted, 4 unavailable, 70 our fault.
"""

from __future__ import annotations

import errno
import gc
import importlib
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

FILES = (  # and their verbs, some of them in a group of several files, in the order of the help text
    ("manifests.commands", "create list ls cp rm verify audit"),
    ("bundler.commands_export", "bundle: export"),
    ("bundler.commands_bundle", "bundle: verify inspect import"),
    ("bundler.commands_approve", "bundle: approve"),
    ("bundler.commands_seal", "bundle: identity"),
    ("bundler.commands_repair", "bundle: repair resend"),
    ("bundler.commands_transfer", "bundle: send receive"),
    ("bundler.commands_inventory", "inventory"),
    ("bundler.commands_registry", "pull push"),
    ("bundler.commands_scan", "scan"),
    ("bundler.commands_receipts", "receipt reconcile"),
    ("bundler.commands_custody", "custody"),
    ("runtime.commands_serve", "serve start"),
    ("runtime.commands_ask", "run ps stop"),
    ("runtime.commands_show", "show"),
    ("runtime.commands_measure", "bench eval"),
    ("runtime.commands_prepare", "prepare"),
    ("runtime.commands_elsewhere", "signin login signout logout launch help"),
    ("runtime.commands_access", "access"),
    ("signing.commands_key", "key"),
    ("signing.commands_trust", "trust: add list show revoke remove role channel threshold expires"),
    ("signing.commands_root", "trust: init sign discard export import history"),
)
AHEAD = {"serve": "runtime.engine.spawn", "start": "runtime.engine.spawn"}  # starts a process that the verb will need
HELP = {"-h", "--help"}
GROUPS = {
    "bundle": "Seal models into volumes, check them and bring them in.",
    "trust": "Whom this host believes: signers, roles, thresholds, revocations.",
}
EXIT_UNAVAILABLE = 4
EXIT_OUR_FAULT = 70
# verbs of rooms that do not know the custody log, which is the bundler's; it records its own
CUSTODY = {"rm": "remove"} | {
    f"trust {verb}": "trust"
    for verb in ("add", "remove", "revoke", "threshold", "role", "channel", "expires", "init", "import", "sign")
}
STORE_ONLY = (["create"], ["pull"], ["push"])  # where Ollama's command asks the server
EXIT_INTERRUPTED = 130
INTERRUPTED = {  # what was written then, and what to do: each verb's own law
    "bundle export": "the bundle is not whole; the same command finishes it",
    "bundle verify": "nothing was checked to its end, nothing was written",
    "bundle import": "models are shown only when all was checked; the same command goes on where it stopped",
    "bundle approve": "an approval is written whole or not at all; give the same command again",
    "bundle repair": "only whole volumes have their names; give the same command again",
    "bundle resend": "only whole files have their names; give the same command again",
    "bundle send": "the same command goes on; with --udp it sends all of it again",
    "bundle receive": "what was taken is kept, and the next run goes on with it",
}
EXIT_CLOSED_PIPE = 141  # as shells say of a program that SIGPIPE ends
GARBAGE = 50_000  # objects made before the collector looks for cycles: imports make 100,000, and no cycles to free


@cache
def build(verb: str = "") -> typer.Typer:
    """All verbs; or, where one is named (`list`, `bundle export`, `bundle`), those of its files."""
    import typer

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
            from manifests.home import VERSION

            print(f"sealift version is {VERSION}", flush=True)
            importlib.import_module("runtime.commands_ask").compare_server(VERSION, say)
            raise typer.Exit

    groups: dict[str, typer.Typer] = {}
    for name, verbs in FILES:
        group, names = _names(verbs)
        if verb in ("", group, *names):
            if group and group not in groups:
                groups[group] = typer.Typer(no_args_is_help=True, help=GROUPS[group], rich_markup_mode=None)
                app.add_typer(groups[group], name=group)
            file: Any = importlib.import_module(name)
            file.register(groups.get(group, app))
            _connect(name, file)
    return app


def _names(verbs: str) -> tuple[str, list[str]]:
    """Of an entry of FILES: its group or "", and its verbs as they are typed."""
    group, _, names = verbs.rpartition(": ")
    return group, [f"{group} {name}".strip() for name in names.split()]


def _connect(name: str, file: Any) -> None:
    """What one room may not import of another, the door hands over: `serve --online` pulls and pushes with the bundler,
    `bundle import --prepare` packs with the runtime, large content is hashed and parity made with the engine's library,
    `list`, `cp` and `rm` ask the server of another machine."""
    if name.startswith("bundler."):
        hashes: Any = importlib.import_module("bundler.sha256")
        hashes.side_by_side = lambda: importlib.import_module("native.sha256").side_by_side()
        sums: Any = importlib.import_module("bundler.gf256_library")
        sums.find = lambda: importlib.import_module("native.gf256").find()
    if name == "runtime.commands_serve":
        file.transfers_factory = lambda store: importlib.import_module("bundler.transfers").Transfers(store)
    elif name == "manifests.commands":
        file.elsewhere = elsewhere
    elif name == "bundler.commands_bundle":
        file.prepare_model = lambda store, name: importlib.import_module("runtime.packs").Packs(store).prepare(name)


def elsewhere() -> Any:
    """The models of another machine's server, where SEALIFT_HOST or OLLAMA_HOST names one; else None."""
    from manifests.home import setting

    return importlib.import_module("runtime.remote").remote_store() if setting("HOST") else None


def named(arguments: list[str]) -> str:
    """The verb that `build` shall make ready for these arguments; "" where that takes all of them."""
    if arguments in (["--version"], ["-v"]):
        return arguments[0]  # of no file
    known = {*GROUPS, *(name for _, verbs in FILES for name in _names(verbs)[1])} - {"help"}  # which explains any verb
    return next((words for words in (" ".join(arguments[:2]), *arguments[:1]) if words in known), "")


def main() -> None:
    gc.set_threshold(GARBAGE)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """One command line, to its exit code. Errors of the rooms become one line and, if there is one, a hint."""
    verb = named(arguments)
    if verb not in AHEAD or HELP & set(arguments):
        return _run(verb, arguments)
    other: Any = importlib.import_module(AHEAD[verb])
    other.ahead()
    try:
        return _run(verb, arguments)
    finally:
        other.leave()


def _run(verb: str, arguments: list[str]) -> int:
    import typer

    try:
        if arguments[:1] in STORE_ONLY and not HELP & set(arguments) and elsewhere() is not None:
            say(f"hint: {arguments[0]} works on the store of this host and asks no server, whatever SEALIFT_HOST names")
        result = build(verb)(args=arguments, standalone_mode=False, prog_name="sealift")
        code = result if isinstance(result, int) else 0
        if code == EXIT_INTERRUPTED:  # typer's answer to Ctrl-C
            return _interrupted(verb)
        if sys.stdout is not None:  # closed by whoever started this
            sys.stdout.flush()  # a reader that has left is found here, not when the interpreter ends
        if code == 0 and (event := CUSTODY.get(" ".join(arguments[:2])) or CUSTODY.get(" ".join(arguments[:1]))):
            _record(event, arguments)
        return code
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(verb)
    except BrokenPipeError:  # when all was done
        return _reader_left(0)
    except SystemExit as error:  # typer's answer to a closed pipe, which may come before all was done
        if isinstance(error.__context__, BrokenPipeError):
            return _reader_left(EXIT_CLOSED_PIPE)
        raise
    except Exception as error:
        return report(error, as_json="--json" in arguments)


def _interrupted(verb: str) -> int:
    if verb in INTERRUPTED:
        say(f"interrupted: {INTERRUPTED[verb]}")
    return EXIT_INTERRUPTED


def _reader_left(code: int) -> int:
    """Of our output: no error of ours. Keeps the interpreter from flushing into the closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _record(event: str, arguments: list[str]) -> None:
    if event == CUSTODY["rm"] and elsewhere() is not None:
        return  # it was removed on another host, and this log is about the models of this one
    if not HELP & set(arguments):
        importlib.import_module("bundler.commands_custody").recorded(event, {"words": " ".join(arguments)})


def report(error: BaseException, *, as_json: bool = False) -> int:
    """Prints an error as the conventions above say; returns its exit code.

    `as_json`: also one line for a script on stdout, with the verdict where the error carries one.
    """
    code = getattr(error, "exit_code", None)
    if isinstance(error, OSError) and error.filename is None and error.errno == errno.ENOSPC:
        say(f"the output could not be written: {error.strerror}")
        return EXIT_UNAVAILABLE
    if not isinstance(code, int):
        if os.environ.get("SEALIFT_DEBUG") or os.environ.get("OLLAMA_DEBUG"):
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
        import json

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
