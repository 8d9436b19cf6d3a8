"""The worked examples of docs/transfer.md run as they are printed, on small models, from one side to the other.

Each test walks through one section: its blocks, in order, each on the side that the page says. Only places change
(/media, /srv, /archive lie in a temporary folder), and a watch ends when all was dealt with. The section on UDP is run
by tests/bundler/test_udp.py and test_udp_namespaces.py, between two real hosts' worth of network.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

import sealift
from manifests.store import Store
from tests.peers.bundles import put_model, small_gguf, volumes
from tests.peers.forgery import flip

PAGE = Path(__file__).parents[2] / "docs" / "transfer.md"
NOT_RUN = {"By a network diode"}


def sections() -> dict[str, list[list[str]]]:
    """Of each section the blocks that hold commands: their lines."""
    found: dict[str, list[list[str]]] = {}
    for text in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        blocks = [block.splitlines() for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)]
        lines = [[line.removeprefix("$ ") for line in block if "sealift " in line] for block in blocks]
        if any(lines):
            found[text.splitlines()[0]] = [block for block in lines if block]
    return found


class Crossing:
    """Two homes and the page's places."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self._patch, self._capsys = root, patch, capsys
        patch.chdir(root)
        patch.delenv("SEALIFT_BUNDLE_PASSPHRASE", raising=False)
        weights = small_gguf(root / "w.gguf", rows=200).read_bytes()
        for name in ("llama3.2:1b", "llama3.3:70b", "mine"):
            put_model(Store(root / "near" / "models"), name, weights)
        self.run("near", "sealift key generate alice --no-passphrase")
        self.run("far", "sealift trust add near/keys/alice.pub --role publisher")
        self.blocks: list[list[str]] = []

    def place(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def run(self, side: str, line: str, code: int = 0, **words: str) -> str:
        """One command of the page on one side; what it printed. `words` stand in for what the page leaves open."""
        self._patch.setenv("SEALIFT_HOME", str(self.root / side))
        self._patch.setenv("OLLAMA_MODELS", str(self.root / side / "models"))
        given, _, out = shlex.join(shlex.split(line, comments=True)).partition(" '>' ")
        for old, new in words.items():
            given = given.replace({"age": "age1..."}.get(old, old), new)
        arguments = [re.sub(r"^/(media|srv|archive)/", f"{self.root}/\\1/", word) for word in shlex.split(given)[1:]]
        if "--watch" in arguments and "--once" not in arguments:
            arguments.append("--once")
        found = sealift.run(arguments)
        printed, said = self._capsys.readouterr()
        assert found == code, f"{line}\n{printed}{said}"
        if out:
            (self.root / out).write_text(printed)
        return printed

    def block(self, side: str, code: int = 0, **words: str) -> str:
        """The next block of the section."""
        return "".join(self.run(side, line, code, **words) for line in self.blocks.pop(0))


@pytest.fixture
def crossing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Crossing:
    return Crossing(tmp_path, monkeypatch, capsys)


def carry(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        shutil.copy(path, target)


def by_stick(c: Crossing) -> None:
    c.block("near")
    assert "imported llama3.2:1b" in c.block("far")
    shutil.rmtree(c.root / "far" / "models")
    shutil.rmtree(c.root / "far" / "state", ignore_errors=True)
    data = volumes(c.place("/media/usb"))[-1]
    flip(data, data.stat().st_size - 9000)
    out = c.block("far")
    assert "repaired" in out and "imported" in out


def by_discs(c: Crossing) -> None:
    c.block("near")
    carry(c.place("/srv/out"), c.place("/srv/discs"))
    volumes(c.place("/srv/discs"))[-1].unlink()
    assert "imported" in c.block("far")


def by_a_guard(c: Crossing) -> None:
    c.block("near")
    carry(c.place("/srv/guard/in"), c.place("/srv/guard/out"))
    assert "imported" in c.block("far")


def only_what_changed(c: Crossing) -> None:
    c.run("near", "sealift bundle export mine -o /archive/mine-0001 --sign alice")
    c.run("far", "sealift bundle import /archive/mine-0001")
    changed = (c.root / "w.gguf").read_bytes()[:-4000] + bytes(4000)
    put_model(Store(c.root / "near" / "models"), "mine", changed)
    assert "only what changed since" in c.block("near")
    assert "replaced" in c.run("far", "sealift bundle import /media/usb")
    shutil.rmtree(c.place("/media/usb"))
    c.run("far", "sealift key generate receiver --no-passphrase")
    c.run("near", "sealift trust add far/keys/receiver.pub --role receiver")
    first, second, third = c.blocks.pop(0)
    c.run("far", first)
    assert "mine" in c.run("far", second)
    put_model(Store(c.root / "near" / "models"), "mine", changed, layers=(("template", b"{{ .Prompt }} again"),))
    c.run("near", third)
    assert "replaced" in c.run("far", "sealift bundle import /media/usb")


def hidden(c: Crossing) -> None:
    pytest.importorskip("pyrage", reason="needs the extra `encrypt`")
    recipient = c.block("far").split()[-1]
    c.block("near", age=recipient)
    assert "imported" in c.block("far")
    export, repair = c.blocks.pop(0)
    c.run("near", export.replace("age1...", recipient))
    carry(c.place("/srv/out"), c.place("/srv/discs"))
    sorted(c.place("/srv/discs").glob("*.age"))[0].unlink()
    assert "restored" in c.run("far", repair)
    c.blocks.pop(0)  # through a diode: tests/bundler/test_udp_namespaces.py
    assert "verified" in c.run("far", "sealift bundle verify /srv/discs --identity enclave.identity")


def missing(c: Crossing) -> None:
    c.run("near", "sealift bundle export mine -o /srv/out --sign alice")
    carry(c.place("/srv/out"), c.place("/media/usb"))
    data = volumes(c.place("/media/usb"))[-1]
    flip(data, data.stat().st_size - 9000)
    assert c.block("far", code=1).startswith("SEALIFT SLIP 1 mine-") and (c.root / "slip.svg").exists()
    c.block("near")
    carry(c.place("/media/again"), c.place("/media/usb"))
    c.block("far")
    assert "imported" in c.run("far", "sealift bundle import /media/usb")


def arrived(c: Crossing) -> None:
    first, second = c.blocks.pop(0)
    c.run("far", first.partition("#")[0] + " --no-passphrase")  # the page's key has one, asked for
    shutil.copy(c.root / "far" / "keys" / "receipt.pub", c.root)
    c.run("near", second)
    c.run("near", "sealift bundle export mine -o /media/usb --sign alice")
    first, second = c.blocks.pop(0)
    c.run("far", first)
    assert "arrived" in c.run("near", second)


def in_hand(c: Crossing) -> None:
    exported, handed, imported = c.blocks.pop(0)
    c.run("near", exported)
    c.run("near", handed)
    c.run("far", imported)
    c.run("far", "sealift key generate receipt --no-passphrase")
    for note in ("one", "two", "three"):
        c.run("far", f"sealift custody add --medium {note} --from anna --to ben")
    c.block("far")


WALKS = {
    "By stick": by_stick,
    "By discs": by_discs,
    "By a file diode or guard": by_a_guard,
    "Send only what changed": only_what_changed,
    "When nobody on the way may know what it is": hidden,
    "When something is missing": missing,
    "Show that it arrived": arrived,
    "Who had it in hand": in_hand,
}


def test_every_section_with_commands_is_walked_through() -> None:
    assert set(sections()) == set(WALKS) | NOT_RUN


@pytest.mark.parametrize("title", WALKS)
def test_the_examples_run_as_printed(crossing: Crossing, title: str) -> None:
    crossing.blocks = sections()[title]
    WALKS[title](crossing)
    assert not crossing.blocks, "the page has a block that this walk does not know"
