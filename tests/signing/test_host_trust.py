"""The trust of one host: a root that is set, drafts, updates, hand edits, and a model of many hosts that never go
back."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from typer.testing import CliRunner, Result

from sealift import build
from signing.errors import MalformedTrust, NotTrusted, SigningError, TrustConflict
from signing.hosttrust import HostTrust
from signing.keyring import Keyring
from signing.succession import join_chain, root_fingerprint
from signing.trust import TrustStore
from tests.peers.roots import one, rooted, signed


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostTrust:
    """Version 1 of the root r0 and r1, both needed."""
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path))
    made = HostTrust(tmp_path)
    made.adopt(line(1), root_fingerprint(rooted(["r0", "r1"], 2)), "any")
    return made


def forged(envelope: bytes) -> bytes:
    """Another signature in place of the last one."""
    from signing.envelope import decode, encode

    found = decode(envelope)
    last = replace(found.signatures[-1], sig=bytes(64))
    return encode(replace(found, signatures=(*found.signatures[:-1], last)))


def line(version: int, *publishers: str) -> bytes:
    return signed(rooted(["r0", "r1"], 2, version=version, publishers=publishers), ["r0", "r1"]) + b"\n"


def test_without_a_root_trust_is_a_file_that_is_edited(tmp_path: Path) -> None:
    made = HostTrust(tmp_path)
    assert made.load() == TrustStore.empty()
    found = made.change(lambda old: old.add(one("p").public, ["publisher"]))
    assert not found.pending and made.load() == found.store == TrustStore.load(tmp_path / "trust.toml")
    assert not (tmp_path / "trust").exists()
    with pytest.raises(TrustConflict, match="set by documents"):
        made.change(lambda old: old.add(one("r0").public, ["root"]))
    with pytest.raises(TrustConflict, match="has no root"):
        made.update(line(1), "any")
    with pytest.raises(TrustConflict, match="no signed trust document"):
        made.chain()


def test_a_root_is_taken_over_by_its_fingerprint_only(tmp_path: Path) -> None:
    made = HostTrust(tmp_path)
    made.change(lambda old: old.add(one("p").public, ["publisher"]))
    fingerprint = root_fingerprint(rooted(["r0", "r1"], 2))
    for wrong in ("", "0000", fingerprint[:-1], fingerprint + "0"):
        with pytest.raises(TrustConflict, match="has the fingerprint"):
            made.adopt(line(4), wrong, "any")
    assert made.load().role("root") is None
    made.adopt(line(4), fingerprint.replace(" ", ""), "any")
    assert made.load().version == 4 and not made.load().role("publisher")
    with pytest.raises(TrustConflict, match="set already"):
        made.adopt(line(5), fingerprint, "any")


def test_what_was_revoked_here_is_not_forgotten_by_taking_a_root_over(tmp_path: Path) -> None:
    from datetime import date

    made = HostTrust(tmp_path)
    made.change(lambda old: old.add(one("p").public, ["publisher"]))
    made.change(lambda old: old.revoke("p", "stolen", date(2026, 1, 1)))
    with pytest.raises(TrustConflict, match="takes that back"):
        made.adopt(line(4, "p"), root_fingerprint(rooted(["r0", "r1"], 2)), "any")


def test_with_a_root_a_change_waits_for_signatures(host: HostTrust) -> None:
    before = host.load()
    host.change(lambda old: old.add(one("p").public, ["publisher"]))
    found = host.change(lambda old: old.add(one("q").public, ["publisher"]))
    assert found.pending and found.store.version == 2 and host.load() == before
    first = host.sign([one("r0")], "any")
    assert first.pending and "1 of 2 needed: r0" in str(first.verdict) and host.load() == before
    assert not host.sign([one("r1")], "any").pending
    assert host.load().version == 2 and {"p", "q"} <= {s.name for s in host.load().signers}
    assert host.draft.load() is None and sorted(host.accepted()) == [1, 2]
    with pytest.raises(TrustConflict, match="no draft"):
        host.sign([one("r0")], "any")


def test_a_change_of_a_draft_takes_its_signatures(host: HostTrust) -> None:
    host.change(lambda old: old.add(one("p").public, ["publisher"]))
    host.sign([one("r0")], "any")
    host.change(lambda old: old.add(one("q").public, ["publisher"]))
    assert host.sign([one("r1")], "any").pending, "r0 has not seen q"
    assert host.discard() and not host.discard() and host.load().version == 1


def test_signatures_that_were_made_side_by_side_are_joined(host: HostTrust, tmp_path: Path) -> None:
    draft = host.change(lambda old: old.add(one("p").public, ["publisher"])).store
    assert host.sign([one("r0")], "any").pending
    elsewhere = signed(draft, ["r1"])
    other = signed(replace(draft, version=3), ["r1"])
    with pytest.raises((NotTrusted, TrustConflict)):
        host.update(other, "any")
    with pytest.raises(NotTrusted, match="damaged or forged"):
        host.update(forged(elsewhere), "any", own_draft=True)
    with pytest.raises(NotTrusted, match="1 of 2 needed: r1"):
        host.update(elsewhere, "any")  # as from a medium: by itself it is not enough
    assert [store.version for store in host.update(elsewhere, "any", own_draft=True)] == [2]
    assert host.load() == draft and host.draft.load() is None


def test_a_draft_that_was_overtaken_is_neither_signed_nor_lost(host: HostTrust) -> None:
    draft = host.change(lambda old: old.add(one("p").public, ["publisher"])).store
    host.update(line(2, "q"), "any")
    for use in (lambda: host.sign([one("r0")], "any"), lambda: host.change(lambda old: old.with_expiry(None))):
        with pytest.raises(TrustConflict, match="version 2 counts already"):
            use()
    assert host.draft.load() == draft and host.discard()
    assert host.change(lambda old: old.add(one("p").public, ["publisher"])).store.version == 3


def test_updates_are_taken_whole_or_not_at_all(host: HostTrust) -> None:
    good = line(1) + line(2, "p") + line(3)
    bad = signed(rooted(["r0", "r1"], 2, version=4), ["r0"])
    with pytest.raises(NotTrusted):
        host.update(good + bad, "any")
    assert host.load().version == 1 and list(host.accepted()) == [1]
    assert [store.version for store in host.update(good, "any", keep=False)] == [2, 3]
    assert host.load().version == 1
    assert [store.version for store in host.update(good, "any")] == [2, 3]
    assert host.update(good, "any") == [] and host.load().version == 3
    assert host.chain() == good and host.chain(since=2) == line(3)


def test_a_hand_edit_is_refused_whatever_it_says(host: HostTrust) -> None:
    text = host.path.read_text()
    for edited in (
        text.replace("threshold = 2", "threshold = 1"),
        text.replace("version = 1", "version = 2"),
        text.replace('expires = "never"', "expires = 2099-01-01"),
        "\n".join(line for line in text.splitlines() if "roles" not in line and "threshold" not in line),
        text[: len(text) // 2],
    ):
        assert edited != text
        host.path.write_text(edited)
        with pytest.raises(MalformedTrust):
            host.load()
    host.path.write_text("# comments and order are free\n" + text)
    assert host.load().version == 1


def test_every_mangled_byte_of_trust_toml_means_the_same_or_is_refused(host: HostTrust) -> None:
    """With a root: no edit of the copy changes what counts."""
    store, data = host.load(), host.path.read_bytes()
    for at in range(len(data)):
        for new in (b"", bytes([data[at] ^ 1])):
            host.path.write_bytes(data[:at] + new + data[at + 1 :])
            try:
                assert host.load() == store
            except SigningError:
                continue


def test_lost_or_damaged_documents_stop_everything(host: HostTrust, tmp_path: Path) -> None:
    path = host.accepted()[1]
    data = path.read_bytes()
    for wrong in (b"", data[:-1], data.replace(b'"sig":"A', b'"sig":"B', 1)[:-2], line(2).strip()):
        path.write_bytes(wrong)
        with pytest.raises(MalformedTrust):
            host.load()
    path.unlink()
    with pytest.raises(MalformedTrust, match="names a root, but no document"):
        host.load()


@pytest.mark.parametrize("kept", ["old", "none"])
def test_a_crash_between_two_writes_loses_nothing(host: HostTrust, kept: str) -> None:
    old = host.path.read_bytes()
    host.update(line(2, "p"), "any")
    if kept == "old":
        host.path.write_bytes(old)
    else:
        host.path.unlink()
    assert host.load().version == 2, "the signed document was there first"
    host.update(line(3), "any")
    assert host.load().version == 3 and TrustStore.load(host.path).version == 3


# -- a model of hosts that get documents in any order


class Hosts(RuleBasedStateMachine):
    """One publisher of trust, whose roots rotate; hosts that get any part of its chain at any time, honest or not.

    Invariants: a host stands at a version of the honest chain, never below one it stood at, and believes exactly what
    that version says.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.names, self.threshold = ["r0"], 1
        self.honest = [rooted(self.names)]
        self.lines = [signed(self.honest[0], self.names)]
        self.hosts = [HostTrust(Path(self.folder.name) / str(number)) for number in range(2)]
        for host in self.hosts:
            host.adopt(self.lines[0], root_fingerprint(self.honest[0]), "any")
        self.stood = [1, 1]

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(names=st.sets(st.sampled_from(["r0", "r1", "r2"]), min_size=1), data=st.data())
    def rotate(self, names: set[str], data: st.DataObject) -> None:
        threshold = data.draw(st.integers(1, len(names)))
        new = rooted(sorted(names), threshold, version=self.honest[-1].version + 1)
        self.lines.append(signed(new, sorted({*self.names, *names})))
        self.honest.append(new)
        self.names, self.threshold = sorted(names), threshold

    @rule(host=st.integers(0, 1), start=st.integers(0, 5), count=st.integers(1, 4))
    def deliver(self, host: int, start: int, count: int) -> None:
        part = self.lines[start : start + count]
        if not part:
            return
        now = self.stood[host]
        if start > now:
            with pytest.raises(TrustConflict, match="missing"):
                self.hosts[host].update(join_chain(part), "any")
        else:
            self.hosts[host].update(join_chain(part), "any")
            self.stood[host] = max(now, start + len(part))

    @precondition(lambda self: len(self.names) > 1)
    @rule(host=st.integers(0, 1), data=st.data())
    def steal(self, host: int, data: st.DataObject) -> None:
        """Fewer keys than the threshold of the host's root, and a root of the thief's own."""
        believed = self.honest[self.stood[host] - 1].role("root")
        assert believed is not None
        members = [member.signer for member in believed.members]
        stolen = data.draw(st.sets(st.sampled_from(members), max_size=believed.threshold - 1))
        evil = rooted(["mallory"], version=self.stood[host] + 1, publishers=["mallory"])
        with pytest.raises(NotTrusted):
            self.hosts[host].update(signed(evil, [*sorted(stolen), "mallory"]), "any")

    @rule(host=st.integers(0, 1), number=st.integers(0, 20))
    def restore_an_old_copy(self, host: int, number: int) -> None:
        old = self.honest[number % self.stood[host]]
        (self.hosts[host].home / "trust.toml").write_bytes(old.encode())

    @invariant()
    def nobody_goes_back(self) -> None:
        for host, version in zip(self.hosts, self.stood, strict=True):
            assert host.load() == self.honest[version - 1]


def test_no_host_ever_goes_back() -> None:
    run_state_machine_as_test(Hosts, settings=settings(max_examples=25, stateful_step_count=15, deadline=None))


# -- the verbs


def sealift(*words: str | Path) -> Result:
    return CliRunner().invoke(build(), [str(word) for word in words])


def done(*words: str | Path) -> str:
    result = sealift(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_a_root_from_init_to_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far, other = tmp_path / "near", tmp_path / "far", tmp_path / "other"
    for folder, names in ((near, ["r0", "alice", "bob"]), (other, ["r1"])):
        monkeypatch.setenv("SEALIFT_HOME", str(folder))
        for name in names:
            done("key", "generate", name, "--no-passphrase")
    monkeypatch.setenv("SEALIFT_HOME", str(near))
    done("trust", "add", near / "keys/alice.pub", "--role", "publisher")
    roots = ["--root", near / "keys/r0.pub", "--root", other / "keys/r1.pub", "--threshold", "2"]
    out = done("trust", "init", *roots, "--sign", "r0")
    assert "version 2 is a draft" in out and "1 of 2 needed: r0" in out
    monkeypatch.setenv("SEALIFT_HOME", str(other))
    out = done("trust", "sign", near / "trust.draft.dsse.json", "--sign", "r1", "-o", tmp_path / "both.json")
    assert "alice is publisher" in out and "root: 2 must sign" in out
    monkeypatch.setenv("SEALIFT_HOME", str(near))
    out = done("trust", "import", tmp_path / "both.json")
    assert "version 2" in out
    done("trust", "export", "-o", tmp_path / "chain")
    fingerprint = root_fingerprint(HostTrust(near).load())
    monkeypatch.setenv("SEALIFT_HOME", str(far))
    result = sealift("trust", "import", tmp_path / "chain")
    assert isinstance(result.exception, TrustConflict) and "--root" in str(result.exception.hint)
    done("trust", "import", tmp_path / "chain", "--root", fingerprint)
    assert HostTrust(far).load() == HostTrust(near).load()
    # near revokes; far takes it
    monkeypatch.setenv("SEALIFT_HOME", str(near))
    assert "in the draft of version 3: alice is revoked" in done("trust", "revoke", "alice", "--reason", "stolen")
    done("trust", "add", near / "keys/bob.pub", "--role", "publisher")
    done("trust", "channel", "bob", "publisher", "acme/*")
    done("trust", "role", "bob", "approver")
    shown = done("trust", "show", "--draft")
    assert "change: alice is revoked: stolen" in shown and "change: bob is publisher for acme/*" in shown
    done("trust", "sign", "--sign", "r0")
    Keyring(near / "keys").write(Keyring(other / "keys").load("r1", None), None)
    assert "version 3 counts from now on" in done("trust", "sign", "--sign", "r1")
    done("trust", "export", "-o", tmp_path / "chain3", "--since", "2")
    monkeypatch.setenv("SEALIFT_HOME", str(far))
    assert "alice is revoked: stolen" in done("trust", "import", tmp_path / "chain3")
    assert json.loads(done("trust", "import", tmp_path / "chain3", "--json")) == {"taken": [], "version": 3}
    assert [item["version"] for item in json.loads(done("trust", "history", "--json"))] == [2, 3]
    assert "there was no draft" in done("trust", "discard")
