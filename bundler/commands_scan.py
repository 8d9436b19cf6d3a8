"""`sealift scan`: arguments and printing only."""

from __future__ import annotations

import typer

from bundler.inputs import JSON, load_policy
from bundler.printing import print_finding, print_json


def register(app: typer.Typer) -> None:
    app.command("scan")(scan_)


def scan_(
    target: str = typer.Argument(
        metavar="MODEL|PATH", help="A model of the store; or a GGUF file, or the folder of a Hugging Face model."
    ),
    as_json: bool = JSON,
) -> None:
    """Look into a model as an import would: structure, templates, licences, files that do not belong there.

    Nothing is loaded or run. policy.toml decides what is refused. Exit code 1 if anything would be.

    \b
        sealift scan llama3.2:1b
        sealift scan ./model.gguf --json
    """
    from bundler.scan import scan
    from manifests.store import Store

    report = scan(target, Store(), load_policy().gate)
    if as_json:
        print_json({"ok": not report.refused} | report.as_dict())
    else:
        for finding in report.findings:
            print_finding(finding)
        for item in report.not_checked:
            print(f"not checked: {item}")
        print(f"{len(report.findings)} finding(s), {len(report.refused)} would be refused")
    if report.refused:
        raise typer.Exit(1)
