"""A result of `sealift bench` for people, alone or beside an earlier one.

Reads only what docs/formats/bench.md promises.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from manifests.display import printable, size_text, table
from manifests.errors import FieldError
from manifests.fields import parse_json
from runtime.errors import RequestRefused

MAX_RESULT = 1 << 20  # bytes of an earlier result
SHOWN = 8  # ops of each kind of work


def text(result: dict[str, Any], earlier: dict[str, Any] | None = None) -> str:
    """Everything, as `sealift bench` prints it."""
    parts = ["\n".join(head(result)), table(*speeds(result, earlier)), table(*ops(result))]
    if result["left_out"]:
        parts.append(f"left out, for want of time: {'; '.join(result['left_out'])}")
    if earlier is not None:
        parts += differences(result, earlier)
    return "\n\n".join(parts)


def head(result: dict[str, Any]) -> list[str]:
    machine, model, limits, memory = (result[key] for key in ("machine", "model", "limits", "memory"))
    rates = [f"read {limits['read_bytes'] / 1e9:.1f} GB/s"]
    rates += (
        [f"integer {limits['integer_ops'] / 1e12:.2f} TOP/s ({limits['instruction']})"] if limits["integer_ops"] else []
    )
    names = (("float32", "float_ops"), ("bf16", "bf16_ops"))
    rates += [f"{name} {limits[key] / 1e12:.2f} TOP/s" for name, key in names if limits[key]]
    return [
        f"model      {model['name']}, {model['architecture']}, {model['format']}, {size_text(model['bytes'])}",
        f"machine    {machine['cpu']}, {machine['threads']} threads of {machine['cores']} cores, {result['isa']}",
        f"limits     {', '.join(rates)}",
        f"memory     weights {size_text(memory['weight_bytes'])}, {size_text(memory['bytes_per_token'])} a token of "
        f"context, scratch {size_text(memory['scratch_bytes'])}, resident {size_text(memory['resident_bytes'])}",
        f"loading    {result['load_seconds']:.2f} s",
    ]


def speeds(result: dict[str, Any], earlier: dict[str, Any] | None) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    header = ("WORK", "", "TOKENS/S", "LEAST", "MOST", "SPEED", "OF THE LIMIT")
    before = {key(row): row for row in earlier["rows"]} if earlier else {}
    lines = []
    for row in result["rows"]:
        rate = row["tokens_per_s"]
        what = f"{row['tokens']} tokens" if row["work"] == "prefill" else f"{row['sequences']} at once"
        cells = (row["work"], what, *(number(rate[one]) for one in ("median", "min", "max")), speed(row), share(row))
        lines.append(cells + ((ratio(row, before.get(key(row))),) if earlier else ()))
    return header + (("AGAINST EARLIER",) if earlier else ()), lines


def ops(result: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    lines: list[tuple[str, ...]] = []
    for work in ("prefill", "decode"):
        rows = [row for row in result["ops"] if row["work"] == work]
        lines += [(work, row["op"], f"{row['time_share']:.1%}", speed(row), share(row)) for row in rows[:SHOWN]]
        rest = sum(row["time_share"] for row in rows[SHOWN:])
        lines += [(work, "all others", f"{rest:.1%}", "", "")] if rest else []
    return ("WORK", "OP", "OF THE TIME", "SPEED", "OF THE LIMIT"), lines


def differences(result: dict[str, Any], earlier: dict[str, Any]) -> list[str]:
    """What makes the ratios mean less than they seem to."""
    found = []
    for name, now, then in (
        ("model", result["model"]["digest"], earlier["model"]["digest"]),
        ("processor", result["machine"]["cpu"], earlier["machine"]["cpu"]),
        ("number of threads", result["machine"]["threads"], earlier["machine"]["threads"]),
        ("instruction set", result["isa"], earlier["isa"]),
        ("version of sealift", result["sealift"], earlier["sealift"]),
    ):
        if now != then:
            found.append(f"another {name} then: {printable(str(then))[:80]}")
    return ["\n".join(found)] if found else []


def read(path: Path) -> dict[str, Any]:
    """An earlier result. Raises RequestRefused for anything that `sealift bench --json` did not write."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_RESULT + 1)
        found = parse_json(raw, limit=MAX_RESULT)
        if not isinstance(found, dict) or found.get("format") != 1:
            raise RequestRefused(f"{path} is no result of format 1", hint="sealift bench MODEL --json writes one")
        _check(found)
    except OSError as error:
        raise RequestRefused(f"{path}: cannot be read: {error.strerror or error}") from None
    except (FieldError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise RequestRefused(f"{path} is no result of sealift bench: {type(error).__name__} {error}") from None
    return found


def _check(found: dict[str, Any]) -> None:
    """Reads all that a comparison reads, as what it is, so that nothing fails after a minute of measuring."""
    for row in found["rows"]:
        key(row)
        row["tokens_per_s"]["median"] = float(row["tokens_per_s"]["median"])
    differences(found, found)


def key(row: dict[str, Any]) -> tuple[str, int]:
    """What is measured: the same in every result."""
    return str(row["work"]), int(row["tokens"] if row["work"] == "prefill" else row["sequences"])


def ratio(row: dict[str, Any], before: dict[str, Any] | None) -> str:
    if before is None or not before["tokens_per_s"]["median"]:
        return "–"
    return f"{row['tokens_per_s']['median'] / before['tokens_per_s']['median']:.2f} ×"


def speed(row: dict[str, Any]) -> str:
    if "operations_per_s" in row:
        return f"{row['operations_per_s'] / 1e12:.3f} TOP/s"
    return f"{row['bytes_per_s'] / 1e9:.2f} GB/s" if "bytes_per_s" in row else ""


def share(row: dict[str, Any]) -> str:
    return f"{row['share']:.0%}" if row.get("share") else ""


def number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
