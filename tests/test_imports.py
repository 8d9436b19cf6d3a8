"""Who may import whom (docs/ARCHITECTURE.md). A wrong import is named with its line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAY: dict[str, tuple[str, ...]] = {
    "manifests": (),
    "signing": (),
    "native": (),
    "bundler": ("manifests", "signing"),
    "runtime": ("manifests", "native"),
}
STANDALONE = ("bundler/verify_sealift.py", "signing/pure.py")  # run without anything installed


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield ("." * node.level + (node.module or ""), node.lineno)


def test_rooms_only_look_down() -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for room, may in MAY.items()
        for path in sorted((ROOT / room).rglob("*.py"))
        for name, line in imports(path)
        if name.startswith(".") or (name.split(".")[0] in {*MAY, "sealift", "tests"} - {room, *may})
    ]
    assert not bad, "\n".join(bad)


def test_standalone_files_need_the_standard_library_only() -> None:
    import sys

    for name in STANDALONE:
        foreign = [module for module, _ in imports(ROOT / name) if module.split(".")[0] not in sys.stdlib_module_names]
        assert not foreign, f"{name} imports {foreign}"


def test_this_test_sees_a_wrong_import(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("import os\nfrom runtime.api import app\nfrom . import y\n")
    assert list(imports(path)) == [("os", 1), ("runtime.api", 2), (".", 3)]
