"""The verbs of this room: create, list, cp, rm, verify, audit. Arguments and printing only.

`elsewhere` is set by the door (sealift.py): it gives what list, cp and rm ask where another machine's models are meant.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from manifests.errors import ManifestsError, ModelfileError

if TYPE_CHECKING:
    from manifests.audit import Audit
    from manifests.name import ModelName

elsewhere: Callable[[], Any] | None = None
JSON = typer.Option(False, "--json", help="Print JSON, for scripts.")


def register(app: typer.Typer) -> None:
    app.command("create")(create_)
    app.command("list")(list_)
    app.command("ls", hidden=True)(list_)
    app.command("cp")(copy)
    app.command("rm")(remove)
    app.command("verify")(verify)
    app.command("audit")(audit_)


def create_(
    name: str = typer.Argument(help="The model to make, such as mine or mine:v2."),
    file: Path = typer.Option(Path("Modelfile"), "--file", "-f", help="The Modelfile; - reads standard input."),
    quantize: str = typer.Option(
        None, "--quantize", "-q", metavar="FORMAT", help="Store F32, F16 or BF16 weights as FORMAT, such as q4_K_M."
    ),
) -> None:
    """Make a model from a Modelfile.

    A Modelfile begins with FROM and the path of a GGUF file, the folder of a Hugging Face model (safetensors) or the
    name of a model in the store; ADAPTER names a LoRA in either form. Example:

    \b
        printf 'FROM ./model.gguf\\nSYSTEM You are brief.\\n' > Modelfile
        sealift create mine -f Modelfile
    """
    from manifests.create import create
    from manifests.create_request import request_from_modelfile
    from manifests.display import progress_bar
    from manifests.modelfile import MAX_MODELFILE, Modelfile
    from manifests.name import ModelName
    from manifests.store import Store

    target = ModelName.parse(name)
    try:
        raw = sys.stdin.buffer.read(MAX_MODELFILE + 1) if str(file) == "-" else _read(file, MAX_MODELFILE + 1)
    except OSError as error:
        raise ModelfileError(f"{file}: {error.strerror}", hint="name the Modelfile with -f") from None
    store = Store()
    _status("gathering model components")
    request = request_from_modelfile(Modelfile.parse(raw), file.parent, quantize)
    manifest = create(store, target, request, _status, progress_bar)
    print(f"created '{target.short}' {manifest.digest.short}")


def list_(
    prefix: str = typer.Argument("", help="Only models whose name begins with this."),
    as_json: bool = JSON,
) -> None:
    """List the models of the store, newest first; of the server's, where SEALIFT_HOST names another machine."""
    from manifests import display

    there = _elsewhere()
    rows = there.models() if there else _stored()
    rows = [row for row in rows if row["name"].lower().startswith(prefix.lower())]
    rows.sort(key=lambda row: row["modified"], reverse=True)
    if as_json:
        _print_json([row | {"modified": row["modified"].isoformat()} for row in rows])
        return
    lines = [
        (row["name"], row["digest"][:12], display.size_text(row["size"]), display.time_text(row["modified"]))
        for row in rows
    ]
    print(display.printable(display.table(("NAME", "ID", "SIZE", "MODIFIED"), lines)))


def _stored() -> list[dict[str, Any]]:
    from manifests.store import Store

    store = Store()
    rows: list[dict[str, Any]] = []
    for name in store.names():
        try:
            manifest, modified = store.manifest(name), store.modified(name)
        except ManifestsError as error:
            _say(f"{name.short}: {error}")
            continue
        rows.append({"name": name.short, "digest": manifest.digest.hex, "size": manifest.size, "modified": modified})
    return rows


def copy(
    source: str = typer.Argument(help="A model of the store."),
    destination: str = typer.Argument(help="Its second name; a model of that name is replaced."),
) -> None:
    """Give a model a second name. No data is copied. Where SEALIFT_HOST names another machine: on its server."""
    from manifests.name import ModelName
    from manifests.store import Store

    if there := _elsewhere():
        there.copy(source, destination)
    else:
        Store().copy(ModelName.parse(source), ModelName.parse(destination))
    print(f"copied '{source}' to '{destination}'")


def remove(
    names: list[str] = typer.Argument(None, metavar="MODEL", help="Models of the store, one or more."),
    unused: bool = typer.Option(
        False, "--unused", help="Also remove what abandoned transfers left, an hour after the last byte."
    ),
) -> None:
    """Remove models, and the data that no other model uses. Where SEALIFT_HOST names another machine: on its server."""
    from manifests.display import size_text
    from manifests.name import ModelName
    from manifests.prune import prune
    from manifests.store import Store

    if not names and not unused:
        raise typer.BadParameter("name a model, or give --unused")

    there = _elsewhere()
    if there and unused:
        raise typer.BadParameter("--unused is for the store of this host, and SEALIFT_HOST names another machine")
    for name in [ModelName.parse(text) for text in names or []]:
        if there:
            there.remove(name.short)
        else:
            Store().remove(name)
        print(f"deleted '{name.short}'")
    if unused:
        pruned = prune(Store())
        print(f"removed {pruned.files} unused files, {size_text(pruned.bytes)}")


def verify(
    names: list[str] = typer.Argument(None, metavar="MODEL", help="All models where none is named."),
    as_json: bool = JSON,
) -> None:
    """Hash every blob again and compare it with its name. Exit code 1 if anything differs.

    What fails is repaired by pulling the model, or importing its bundle, again.
    """
    result = _audit(names)
    problems: list[dict[str, str | None]] = [
        {"model": model.name, "blob": blob.digest, "kind": blob.kind, "problem": blob.problem}
        for model in result.models
        for blob in model.blobs
        if blob.problem
    ]
    problems += [
        {"model": model.name, "blob": None, "kind": "manifest", "problem": model.problem}
        for model in result.models
        if model.problem
    ]
    if as_json:
        _print_json({"ok": not problems, "models": [model.name for model in result.models], "problems": problems})
    else:
        for problem in problems:
            print(f"BAD  {problem['model']}  {problem['kind']}  {problem['problem']}")
        for model in result.models:
            if not any(problem["model"] == model.name for problem in problems):
                size = sum(blob.size for blob in model.blobs)
                print(f"ok   {model.name}  {len(model.blobs)} blobs, {size:,} bytes hashed")
    if problems:
        raise typer.Exit(1)


def audit_(
    names: list[str] = typer.Argument(None, metavar="MODEL", help="All models where none is named."),
    out: Path = typer.Option(None, "--out", "-o", help="Also write audit.json and audit.txt into this folder."),
    as_json: bool = JSON,
) -> None:
    """Print the evidence for every model: digests computed again, source, licences, signers, when and how it came.

    Exit code 1 if a blob does not match its digest.
    """
    result = _audit(names)
    document = dataclasses.asdict(result) | {"ok": result.ok}
    text = _audit_text(result)
    if out:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "audit.json").write_text(_json(document) + "\n", encoding="utf-8")
            (out / "audit.txt").write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise ManifestsError(f"{out}: {error.strerror}") from None
    print(_json(document) if as_json else text)
    if not result.ok:
        raise typer.Exit(1)


def _elsewhere() -> Any:
    """Also says where, since it is not here."""
    there = elsewhere() if elsewhere is not None else None
    if there:
        _say(f"asks the server at {there.url}")
    return there


def _audit(names: list[str] | None) -> Audit:
    from manifests.audit import audit, bytes_to_hash
    from manifests.display import progress_bar
    from manifests.name import ModelName
    from manifests.store import Store

    store = Store()
    wanted: list[ModelName] = [ModelName.parse(text) for text in names or []]
    for name in wanted:
        store.manifest(name)  # an unknown name is the user's error, not a finding
    with progress_bar("hashing", bytes_to_hash(store, wanted)) as progress:
        return audit(store, wanted, progress=progress)


def _audit_text(result: Audit) -> str:
    from manifests.display import printable

    lines = [f"audit of {result.store}", f"at {result.time}", ""]
    for model in result.models:
        lines.append(f"{model.name}  {'ok' if model.ok else 'NOT OK'}")
        lines.append(f"  manifest    {model.manifest or model.problem}")
        for blob in model.blobs:
            lines.append(
                f"  {blob.kind:<10}  {blob.digest}  {blob.size:>13,} bytes  {blob.problem or 'hashed, matches'}"
            )
        for text in model.licenses or ():
            lines.append(f"  licence     {text['title']}")
        if not model.licenses:
            lines.append("  licence     none in the model")
        lines += [f"  {line}" for record in model.records for line in _record_lines(record)]
        if model.records_problem:
            lines.append(f"  records     {model.records_problem}")
        if not model.records and not model.records_problem:
            lines.append("  origin      no record: sealift did not bring this model here")
        lines.append("")
    lines += [f"not checked: {reason}" for reason in result.not_checked]
    bad = sum(not model.ok for model in result.models)
    lines.append(f"{len(result.models)} models, {bad} not ok")
    return printable("\n".join(lines))


def _record_lines(record: dict[str, Any]) -> list[str]:
    """One event: its kind and time, then its facts, nested ones indented."""
    lines = [f"{record.get('kind', '?'):<10}  {record.get('time', '')}".rstrip()]
    for key, value in record.items():
        if key not in ("kind", "time", "manifest"):
            lines += _fact_lines(key, value, 2)
    return lines


def _fact_lines(key: str, value: Any, indent: int) -> list[str]:
    space = " " * indent
    if isinstance(value, dict):
        return [f"{space}{key}:", *(line for k, v in value.items() for line in _fact_lines(k, v, indent + 2))]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return [
            f"{space}{key}:",
            *(line for i, item in enumerate(value) for line in _fact_lines(f"{i + 1}", item, indent + 2)),
        ]
    if isinstance(value, list):
        value = ", ".join(str(item) for item in value) or "none"
    return [f"{space}{key}: {value}"]


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(limit)


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


def _print_json(document: Any) -> None:
    print(_json(document))


def _status(line: str) -> None:
    _say(line)


def _say(line: str) -> None:
    print(f"sealift: {line}", file=sys.stderr)
