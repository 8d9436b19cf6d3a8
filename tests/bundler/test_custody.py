"""The custody log: every edit is found, at its entry; crashes are mended and told; two writers do not mix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

import sealift
from bundler import custody, paper
from bundler.commands_custody import recorded
from bundler.custody import MAX_FACTS, MAX_LINE, Entry, Log
from bundler.custody_head import TITLE, Head, Keys, read_head
from bundler.custody_verify import check_proof, prove, verify
from bundler.errors import BadRequest, BundlerError, CustodyRefused, MediumUnavailable
from manifests import canonical
from manifests.errors import FieldError
from signing import custody_tree
from signing.errors import WrongPassphrase
from signing.keys import Signer, generate
from tests.peers.bundles import signer, small_gguf

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
KEYS: Keys = {key.id: ("rita", key) for key in signer("rita").public.keys}


@pytest.fixture
def log(tmp_path: Path) -> Log:
    made = Log(tmp_path / "custody")
    made.append("export", {"bundle": "6ce66eb50c25992dd64c1baef7966056", "sequence": 1}, now=NOW)
    made.append("handover", {"medium": "USB 7", "from": "anna", "to": "ben"}, signer("rita"), now=NOW)
    made.append("import", {"medium": "USB 7"}, now=NOW)
    return made


def problems(log: Log, **more: object) -> tuple[str, ...]:
    return verify(log, KEYS, **more).problems  # type: ignore[arg-type]


def test_a_sound_log(log: Log) -> None:
    found = verify(log, KEYS)
    assert found.problems == () and found.entries == 4 and found.signed_by == ("rita",)
    assert "2 of 3 heads are not signed" in found.not_checked[0] and "kept elsewhere" in found.not_checked[1]
    assert [entry.event for entry in log.read().entries] == ["begin", "export", "handover", "import"]


@pytest.mark.parametrize("name", ["path", "heads"])
def test_every_mangled_byte_is_found(log: Log, name: str) -> None:
    path: Path = getattr(log, name)
    good = path.read_bytes()
    places = range(len(good)) if name == "path" else [*range(0, len(good), 11), *range(len(good) - 250, len(good))]
    for at in places:
        mangled = bytearray(good)
        mangled[at] ^= 1
        path.write_bytes(bytes(mangled))
        assert problems(log), f"byte {at}: {good[max(0, at - 20) : at + 20]!r}"
    path.write_bytes(good)
    assert not problems(log)


def test_cut_swapped_inserted_and_repeated_lines_are_found_with_their_entry(log: Log) -> None:
    lines = log.path.read_bytes().splitlines(keepends=True)
    for changed, said in (
        (lines[:2] + lines[3:], "entry 2"),
        ([lines[0], lines[2], lines[1], lines[3]], "entry 1"),
        ([*lines[:3], lines[2], lines[3]], "entry 3"),
        (lines[1:], "entry 0"),
        (lines[:3], "entries 3 to 3 are gone"),
        ([], "entries 0 to"),
        ([*lines[:3], lines[3][:-1]], "entry 3: the last line is torn"),
    ):
        log.path.write_bytes(b"".join(changed))
        assert any(said in line for line in problems(log)), (said, problems(log))
        assert changed == [*lines[:3], lines[3][:-1]] or not _appends(log), "nothing is buried"


def _appends(log: Log) -> bool:
    try:
        log.append("export", {})
    except CustodyRefused:
        return False
    return True


def test_an_entry_that_is_rewritten_with_all_that_follow_is_found_by_the_heads(log: Log) -> None:
    entries = list(log.read().entries)
    entries[1] = replace(entries[1], facts={"sequence": 9})
    for i in (2, 3):
        old = entries[i]
        previous = entries[i - 1].hash.hex()
        entries[i] = Entry(index=i, time=old.time, event=old.event, facts=old.facts, previous=previous)
    log.path.write_bytes(b"".join(entry.encode() + b"\n" for entry in entries))
    assert any("one of the entries 0 to 1" in line for line in problems(log))


def test_a_log_that_was_cut_with_its_heads_is_found_by_a_kept_head_only(log: Log) -> None:
    kept = read_head(paper.text(TITLE, log.head().short(signer("rita"))).encode())
    assert not problems(log, kept=[kept])
    for path in (log.path, log.heads):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:-1]))
    assert not problems(log) and verify(log, KEYS).not_checked
    assert any("entries 3 to 3 are gone" in line for line in problems(log, kept=[kept]))
    log.append("export", {})
    assert any("one of the entries" in line for line in problems(log, kept=[kept]))


def test_another_log_is_not_this_one(log: Log, tmp_path: Path) -> None:
    other = Log(tmp_path / "other")
    other.append("export", {})
    assert any("it is of the log" in line for line in problems(log, kept=[read_head(other.head().encode())]))


def test_a_key_that_signs_nothing_for_paper_is_told(log: Log) -> None:
    """A head that says it is signed and is not would be found out by the auditor, a visit later."""
    with pytest.raises(BadRequest, match="rita has no Ed25519 key"):
        log.head().short(generate("rita", ["ecdsa-p384", "ml-dsa-87"]))


def test_a_head_signed_by_nobody_we_know(log: Log) -> None:
    assert any("not known here" in line for line in verify(log, {}).problems)


# -- crashes


class Refusing:
    """Of a key whose PIN is wrong."""

    scheme = "ed25519"

    def sign(self, message: bytes) -> bytes:
        raise WrongPassphrase("the PIN does not open it")


def refusing() -> Signer:
    made = Signer("rita", signer("rita").private)
    object.__setattr__(made, "private", tuple(Refusing() for _ in made.private))
    return made


@pytest.mark.parametrize("name", ["path", "heads"])
def test_who_cannot_sign_changes_nothing(log: Log, name: str) -> None:
    path: Path = getattr(log, name)
    path.write_bytes(path.read_bytes()[:-5])  # a torn line is still to be mended, and told by an entry
    before = log.path.read_bytes(), log.heads.read_bytes()
    if name == "path":
        log.heads.write_bytes(b"".join(log.heads.read_bytes().splitlines(keepends=True)[:-1]))
        before = log.path.read_bytes(), log.heads.read_bytes()
    with pytest.raises(WrongPassphrase):
        log.append("handover", {"medium": "USB 8"}, refusing())
    assert (log.path.read_bytes(), log.heads.read_bytes()) == before


def test_what_is_done_is_recorded_by_who_cannot_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path))
    recorded("import", {"medium": "USB 8"}, refusing())
    assert "not signed: the PIN" in capsys.readouterr().err
    assert [entry.event for entry in Log().read().entries] == ["begin", "import"] and not problems(Log())


def test_a_crash_between_entry_and_head(log: Log) -> None:
    heads = log.heads.read_bytes()
    log.append("export", {})
    log.heads.write_bytes(heads)
    found = verify(log, KEYS)
    assert not found.problems and any("no head is of them yet" in line for line in found.not_checked)
    log.append("export", {})
    assert not problems(log) and len(log.read().entries) == 6


@pytest.mark.parametrize("left", [1, 40, -1, 0])
def test_a_torn_last_line_is_completed_or_cut_and_an_entry_says_so(log: Log, left: int) -> None:
    good, heads = log.path.read_bytes(), log.heads.read_bytes()
    log.append("refusal", {"reason": "damaged"}, now=NOW)
    line = log.path.read_bytes()[len(good) :]
    torn = line[:left] if left > 0 else line[: len(line) - 1 + left]
    log.path.write_bytes(good + torn)
    log.heads.write_bytes(heads)
    assert any("torn" in found for found in problems(log))
    log.append("import", {})
    events = [(entry.event, entry.facts.get("torn_line")) for entry in log.read().entries[4:]]
    whole = [("refusal", None)] if left == 0 else []
    assert events == [*whole, ("repaired", "completed" if left == 0 else "cut"), ("import", None)]
    assert not problems(log)


def test_a_torn_head_is_cut_and_an_entry_says_so(log: Log) -> None:
    log.heads.write_bytes(log.heads.read_bytes()[:-5])
    assert any("torn" in found for found in problems(log))
    log.append("import", {})
    assert log.read().entries[4].facts["torn_head"] == "cut" and not problems(log)


def test_a_first_line_that_was_torn(tmp_path: Path) -> None:
    log = Log(tmp_path / "custody")
    log.folder.mkdir()
    log.path.write_bytes(b'{"event":"beg')
    log.append("import", {})
    assert [entry.event for entry in log.read().entries] == ["begin", "repaired", "import"] and not problems(log)


def test_processes_that_append_at_once(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from bundler.custody import Log\n"
        "log = Log(Path(sys.argv[1]))\n"
        "for i in range(10): log.append('export', {'by': sys.argv[2], 'number': i})\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "c"), name], cwd=ROOT)
        for name in ("one", "two", "three")
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    log = Log(tmp_path / "c")
    entries = log.read().entries
    assert len(entries) == 31 and not problems(log)
    assert {(e.facts["by"], e.facts["number"]) for e in entries[1:]} == {
        (name, i) for name in ("one", "two", "three") for i in range(10)
    }


# -- limits


def test_a_log_that_may_not_be_read_is_said_to_be_one(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    for asked in ("open", "exists"):  # Python up to 3.13 raises for both, in a folder of others
        monkeypatch.setattr(Path, asked, denied)
    with pytest.raises(MediumUnavailable, match="Permission denied") as found:
        log.read()
    assert "may this user" in (found.value.hint or "")


def test_what_an_entry_may_hold(log: Log) -> None:
    for facts in ({"note": "x" * 501}, {"note": "a\x1b[2J"}, {"Bad Key": "x"}, {"number": 1 << 60}, {"note": "a\nb"}):
        with pytest.raises(FieldError):
            log.append("export", facts)
    with pytest.raises(FieldError):
        log.append("export", {f"k{i}": i for i in range(MAX_FACTS + 1)})
    with pytest.raises(BundlerError):
        log.append("export", {f"k{i}": "x" * 500 for i in range(MAX_FACTS)})
    assert len(log.read().entries) == 4
    log.path.write_bytes(log.path.read_bytes() + b"x" * (MAX_LINE + 1) + b"\n")
    assert "entry 4" in problems(log)[0]


def test_a_log_that_is_too_large_is_not_read(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custody, "MAX_LOG", 100)
    with pytest.raises(CustodyRefused, match="more than 100 bytes"):
        log.read()


# -- heads and proofs


def test_every_mangled_byte_of_a_short_head_counts_for_nothing(log: Log) -> None:
    raw = log.head().short(signer("rita"))
    for at in range(len(raw)):
        mangled = bytearray(raw)
        mangled[at] ^= 1
        try:
            head = read_head(paper.text(TITLE, bytes(mangled)).encode())
        except CustodyRefused:
            continue
        assert problems(log, kept=[head]), at


def test_a_proof_stands_alone_and_no_byte_of_it_can_change(log: Log) -> None:
    log.append("import", {}, signer("rita"))
    for index in range(5):
        raw = prove(log, index)
        proof = check_proof(raw)
        assert proof.entry == log.read().entries[index] and proof.kept.signer(KEYS) == "rita"
    for at in range(0, len(raw), 3):
        mangled = bytearray(raw)
        mangled[at] ^= 1
        try:
            check_proof(bytes(mangled)).kept.signer(KEYS)
        except BundlerError:
            continue
        pytest.fail(f"byte {at}")
    with pytest.raises(CustodyRefused):
        prove(log, 5)


def test_the_vector_of_the_page() -> None:
    page = (ROOT / "docs/formats/custody.md").read_text()
    block = page.split("```\n")[3].splitlines()
    first, second, head = block
    entries = [Entry.decode(line.encode()) for line in (first, second)]
    assert [entry.encode().decode() for entry in entries] == [first, second]
    assert entries[1].previous == custody_tree.leaf(first.encode()).hex()
    root = custody_tree.node(entries[0].hash, entries[1].hash)
    assert Head.decode(head.encode()) == Head(log=str(entries[0].facts["log"]), size=2, root=root.hex())
    assert paper.text(TITLE, Head.decode(head.encode()).short()) in page


# -- the command line


def test_what_verbs_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    small_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\n")

    def run(*words: str, status: int = 0) -> str:
        capsys.readouterr()
        assert sealift.run(list(words)) == status
        return capsys.readouterr().out

    for name in ("alice", "receipt"):
        run("key", "generate", name, "--no-passphrase")
    run("trust", "add", "home/keys/alice.pub", "--role", "publisher")
    run("create", "mine")
    run("bundle", "export", "mine", "-o", "usb", "--sign", "alice", "--medium", "USB 7", "--custodian", "anna")
    run("bundle", "approve", "usb", "--sign", "receipt")
    run("custody", "add", "--medium", "USB 7", "--from", "anna", "--to", "ben", "--note", "seal 12", "--sign", "alice")
    run("bundle", "import", "usb", "--medium", "USB 7", "--custodian", "ben")
    run("trust", "revoke", "alice", "--reason", "a test")
    run("bundle", "import", "usb", status=3)
    run("rm", "mine")
    shown = json.loads(run("custody", "show", "--json"))
    assert [entry["event"] for entry in shown] == [
        "begin", "trust", "export", "approve", "handover", "import", "trust", "refusal", "remove",
    ]  # fmt: skip
    assert shown[2]["facts"]["medium"] == "USB 7" and shown[2]["facts"]["custodian"] == "anna"
    assert shown[7]["facts"]["reason"] == "not-trusted"
    assert run("custody", "verify").endswith("9 entries, 8 heads, signed by alice, receipt: sound\n")
    head = run("custody", "head", "--sign", "receipt", "--qr", "head.svg")
    (tmp_path / "head.txt").write_text(head)
    assert "sound" in run("custody", "verify", "--head", "head.txt") and (tmp_path / "head.svg").exists()
    run("custody", "prove", "4", "-o", "proof.json")
    assert "seal 12" in run("custody", "verify", "--proof", "proof.json", "--head", "head.txt")
    path = tmp_path / "home/custody/log.jsonl"
    path.write_bytes(path.read_bytes().replace(b"seal 12", b"seal 13"))
    assert "entry 4 is not what it was" in run("custody", "verify", status=1)
    assert sealift.run(["rm", "absent"]) == 1
    assert os.stat(path).st_mode & 0o077 == 0


def test_the_audit_tells_the_head_of_the_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.bundler.test_receipts import bring_in
    from tests.peers.bundles import Gap

    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap = Gap(tmp_path)
    name = gap.model(rows=64)
    gap.export()
    keeper = bring_in(gap, key=signer("rita"), log=Log())
    told = gap.far.records(gap.far.manifest(name).digest)[1]["custody"]
    assert told == keeper.kept[0].custody and told["entry"] == 1
    assert told["root"] == Log().head().root and canonical.encode(told)
