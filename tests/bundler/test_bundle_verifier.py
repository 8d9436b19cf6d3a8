"""verify_sealift.py: one file, the standard library alone, and the same answers as the real reader."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bundler import layout
from bundler.channels import Channels
from bundler.draft import Options
from bundler.errors import BundlerError
from bundler.policy import Policy
from bundler.verify import verify
from manifests.errors import ManifestsError
from scripts.attacks.sound import Bench
from signing import pure
from signing.errors import NotTrusted, SigningError
from tests.peers.bundles import LEAF, Gap, signer, trusting, volumes
from tests.peers.forgery import flip, forge

PROGRAM = Path(layout.__file__).with_name(layout.VERIFIER)
BEGIN, END = "# === begin signing/pure.py, the same text: a test compares them ===\n", "# === end signing/pure.py ===\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Gap:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("verifier")
        patch.setenv("SEALIFT_HOME", str(root / "home"))
        gap = Gap(root)
        gap.model(rows=160)
        gap.export(options=Options(volume_size=80 << 10, leaf_size=LEAF))
    return gap


@pytest.fixture
def gap(made: Gap, tmp_path: Path) -> Gap:
    fresh = Gap(tmp_path)
    shutil.copytree(made.medium, fresh.medium, dirs_exist_ok=True)
    for name in ("alice", "mallory", "bob"):
        (tmp_path / f"{name}.pub").write_bytes(signer(name).public.encode())
    return fresh


def run(gap: Gap, *names: str, threshold: int = 1) -> subprocess.CompletedProcess[str]:
    keys = [word for name in names or ("alice",) for word in ("--pub", str(gap.root / f"{name}.pub"))]
    command = [sys.executable, "-I", "-S", str(PROGRAM), str(gap.medium), *keys, "--threshold", str(threshold)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=gap.root)


def test_the_signature_code_is_the_same_text() -> None:
    ours = PROGRAM.read_text()
    inlined = ours[ours.index(BEGIN) + len(BEGIN) : ours.index(END)].strip()
    source = Path(pure.__file__).read_text()
    assert inlined == source[source.index("# --- what is signed") :].strip()


def test_it_needs_only_python_3_8_and_its_library() -> None:
    tree = ast.parse(PROGRAM.read_text(), feature_version=(3, 8))
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name) or ""
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert imported <= set(sys.stdlib_module_names)
    assert not imported & {"socket", "urllib", "http", "subprocess", "ctypes", "tarfile"}


# -- exit codes, as docs/transfer.md lists them

CASES = {  # what is looked at, keys, approvers, expected code
    "sound": ("sound", ("alice",), (), 0),
    "approved": ("sound", ("alice",), ("bob",), 0),
    "approval missing": ("unapproved", ("alice",), ("bob",), 3),
    "approval wrong": ("misapproved", ("alice",), ("bob",), 3),
    "approval damaged": ("cut approval", ("alice",), ("bob",), 1),
    "another key": ("sound", ("mallory",), (), 3),
    "delta": ("delta", ("alice",), (), 0),
    "delta damaged": ("delta damaged", ("alice",), (), 1),
    "delta by a stranger": ("delta", ("mallory",), (), 3),
    "damaged": ("hurt", ("alice",), (), 1),
    "volume missing": ("incomplete", ("alice",), (), 1),
    "a folder for a volume": ("folder", ("alice",), (), 1),
    "another verifier beside": ("another verifier", ("alice",), (), 1),
    "two bundles": ("two", ("alice",), (), 1),
    "not there": ("nowhere", ("alice",), (), 4),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("codes")
        patch.setenv("SEALIFT_HOME", str(root / "home"))
        bench = Bench(root / "bench")
    found = {"sound": bench.sound, "delta": bench.delta, "hurt": bench.hurt, "nowhere": root / "nowhere"}
    broken = ("unapproved", "misapproved", "cut approval", "incomplete", "folder", "another verifier", "two")
    for name, of in (dict.fromkeys(broken, "sound") | {"delta damaged": "delta"}).items():
        found[name] = root / name.replace(" ", "-")
        shutil.copytree(found[of], found[name])
    (approval,) = found["unapproved"].glob("*.approval-*")
    approval.unlink()
    (approval,) = found["misapproved"].glob("*.approval-*")
    approval.write_bytes(approval.read_bytes().replace(b'"sig":"', b'"sig":"AAAA', 1))
    (approval,) = found["cut approval"].glob("*.approval-*")
    approval.write_bytes(approval.read_bytes()[:-20])
    volumes(found["incomplete"])[-1].unlink()
    volumes(found["folder"])[-1].unlink()
    (found["folder"] / volumes(found["sound"])[-1].name).mkdir()
    with (found["another verifier"] / "verify_sealift.py").open("a") as out:
        out.write("# and this\n")
    for path in volumes(found["delta"]):
        shutil.copy(path, found["two"])
    (*_, last) = volumes(found["delta damaged"])
    flip(last, last.stat().st_size - 3000)
    for name in ("alice", "bob", "mallory"):
        (root / f"{name}.pub").write_bytes(signer(name).public.encode())
    return {**found, "root": root}


@pytest.mark.parametrize("case", CASES)
def test_exit_codes_are_those_of_sealift(folders: dict[str, Path], case: str) -> None:
    folder, keys, approvers, expected = CASES[case]
    assert code_of(sys.executable, folders, case) == expected
    trust = trusting(*map(signer, keys))
    for name in approvers:
        trust = trust.add(signer(name).public, ["approver"]).with_threshold("approver", 1)
    try:
        verify(folders[folder], trust, policy=Policy(roles=("approver",) if approvers else ()),
               seen=Channels(folders["root"] / "none.json"))  # fmt: skip
        found = 0
    except (BundlerError, ManifestsError, SigningError) as error:
        found = error.exit_code
    assert found == expected


def test_one_of_two_bundles_is_chosen_by_a_volume(folders: dict[str, Path]) -> None:
    keys = ("--pub", str(folders["root"] / "alice.pub"))
    for path in [*volumes(folders["sound"])[:1], *volumes(folders["delta"])[:1]]:
        command = [sys.executable, "-I", "-S", str(PROGRAM), path.name, *keys]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folders["two"])
        assert done.returncode == 0 and f"  {path.name} ok" in done.stderr, done.stderr


def code_of(python: str, folders: dict[str, Path], case: str) -> int:
    folder, keys, approvers, _ = CASES[case]
    words = [word for name in keys for word in ("--pub", str(folders["root"] / f"{name}.pub"))]
    words += [word for name in approvers for word in ("--approver", str(folders["root"] / f"{name}.pub"))]
    command = [python, "-I", "-S", str(PROGRAM), str(folders[folder]), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def interpreters() -> list[str]:
    """Pythons from 3.8 on that are installed, of pyenv too."""
    home = Path(os.environ.get("PYENV_ROOT", "/nonexistent")) / "versions"
    found = []
    for minor in range(8, 15):
        names = [shutil.which(f"python3.{minor}"), *sorted(map(str, home.glob(f"3.{minor}.*/bin/python")))]
        found += [name for name in names if name and _is(name, minor)][:1]
    return found


def _is(python: str, minor: int) -> bool:
    code = "import sys; print(sys.version_info[1])"
    done = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() == str(minor)  # a name may be a shim that leads nowhere


def test_every_python_that_is_installed_gives_the_same_codes(folders: dict[str, Path]) -> None:
    for python in interpreters() or [sys.executable]:
        for case in ("approved", "approval missing", "delta", "delta damaged"):
            assert code_of(python, folders, case) == CASES[case][3], f"{python}: {case}"


def test_it_accepts_what_we_accept_in_the_same_words(gap: Gap) -> None:
    done = run(gap)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    verdict = gap.verify().bundle.verdict.sentences()
    assert lines[: len(verdict)] == verdict
    assert lines[-1] == "verified: every byte of every volume is as signed"
    assert any(line.startswith("not checked:") for line in lines)


def test_it_trusts_only_the_keys_it_was_given(gap: Gap) -> None:
    assert run(gap, "mallory").returncode == 3
    assert run(gap, "alice", "bob", threshold=2).returncode == 3
    forge(gap.medium, by=[signer(), signer("bob")])
    assert run(gap, "alice", "bob", threshold=2).returncode == 0
    assert run(gap, "alice", "alice", threshold=2).returncode == 3, "nobody counts twice"
    twin = (gap.root / "alice.pub").read_text().replace(" alice ", " carol ")
    (gap.root / "carol.pub").write_text(twin)
    assert run(gap, "alice", "carol", threshold=2).returncode == 1, "one key under two names"


@pytest.mark.parametrize("place", range(10))
def test_it_refuses_the_flips_that_we_refuse(gap: Gap, place: int) -> None:
    path = volumes(gap.medium)[place % len(volumes(gap.medium))]
    flip(path, [3, 700, 1100, 5000, 12_000, -3, -700, -1500, -9000, 30_000][place] % path.stat().st_size)
    with pytest.raises((BundlerError, SigningError, ManifestsError)) as caught:
        gap.verify()
    done = run(gap)
    assert done.returncode == (3 if isinstance(caught.value, NotTrusted) else 1), done.stderr
    assert "Traceback" not in done.stderr


def test_it_refuses_missing_doubled_and_lying(gap: Gap) -> None:
    from tests.bundler import test_bundle_attacks as attacks  # type: ignore[import-not-found, unused-ignore]

    copy = gap.root / "copy"
    shutil.copytree(gap.medium, copy)
    for lie in attacks.LIES:
        forge(gap.medium, lie)
        done = run(gap)
        assert done.returncode == 1 and "Traceback" not in done.stderr, (lie.__name__, done.stderr)
        shutil.rmtree(gap.medium)
        shutil.copytree(copy, gap.medium)
    shutil.copy(volumes(gap.medium)[1], gap.medium / "again.tar")
    assert run(gap).returncode == 1
    (gap.medium / "again.tar").unlink()
    volumes(gap.medium)[1].unlink()
    assert run(gap).returncode == 1
    shutil.rmtree(gap.medium)
    assert run(gap).returncode == 4
    assert trusting(signer())
