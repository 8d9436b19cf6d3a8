"""Encrypted bundles: who can open one, what it shows, that no byte of it can be changed, that nothing stays behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bundler import agefile, approve, conceal, layout, seal, slip
from bundler.approve import examine
from bundler.draft import Options
from bundler.errors import (
    BadRequest,
    BundlerError,
    CannotDecrypt,
    ExportRefused,
    MediumUnavailable,
    VolumeDamaged,
    VolumeMissing,
    VolumeMixed,
)
from bundler.importer import ImportReport, import_bundle
from bundler.inspect import inspect
from bundler.journal import exported
from bundler.medium import VolumeReader, open_medium
from bundler.outgoing import outgoing
from bundler.policy import Policy
from bundler.receipts_keep import Keeper
from bundler.receive import watch
from bundler.repair import repair
from bundler.resend import resend
from bundler.rooms import Rooms
from bundler.seal import Keys, Sealing
from bundler.send import send
from bundler.verify import Verification, authenticate, verify
from manifests.errors import ManifestsError
from manifests.statement import parse_time
from signing.errors import SigningError
from tests.bundler.test_approve import trust
from tests.peers.bundles import LEAF, Gap, signer, tree, trusting

pyrage = pytest.importorskip("pyrage", reason="needs the extra `encrypt`")
SIZE = 96 << 10
PROGRAM = Path(layout.__file__).with_name(layout.VERIFIER)
SECRETS = (b"mine", b"unheard-of-label", b"unseen/channel", b".Prompt", b"MIT License", b"blk.0", b"in-toto", b"GGUF",
           b"sealift-bundle/1")  # fmt: skip


def options(sealing: Sealing | None, *, volume_size: int = SIZE) -> Options:
    return Options(
        volume_size=volume_size, leaf_size=LEAF, label="unheard-of-label", channel="unseen/channel", sealing=sealing
    )


@pytest.fixture(scope="module", params=[True, False], ids=["hidden", "readable"])
def made(request: pytest.FixtureRequest, identity: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Gap:
    """The same bundle twice: in clear in `plain`, and encrypted."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("encrypt")
        patch.setenv("SEALIFT_HOME", str(root / "home"))
        gap = Gap(root)
        gap.model(rows=160)
        sealing = Sealing(recipients=seal.recipients([identity[1]]), hidden=request.param)
        gap.export(options=options(sealing))
    return gap


@pytest.fixture
def gap(made: Gap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    fresh = Gap(tmp_path)
    shutil.copytree(made.medium, fresh.medium, dirs_exist_ok=True)
    return fresh


def check(gap: Gap, keys: Keys | None, *, dry_run: bool = False) -> Verification:
    return verify(gap.medium, trusting(signer()), seen=gap.seen, keys=keys, dry_run=dry_run)


def bring_in(gap: Gap, keys: Keys | None) -> ImportReport:
    return import_bundle(gap.medium, gap.far, trusting(signer()), seen=gap.seen, keys=keys)


def sealed(gap: Gap) -> list[Path]:
    return sorted(gap.medium.glob("*.tar.age"))


def is_hidden(gap: Gap) -> bool:
    return not list(gap.medium.glob("*.tar"))


# -- what it is for


def test_who_has_the_identity_verifies_and_imports(gap: Gap, keys: Keys) -> None:
    before = tree(gap.medium)
    report = check(gap, keys)
    assert report.complete and report.bundle.verdict.signers == ("alice",)
    assert len(sealed(gap)) == len(report.bundle.statement.volumes) - (0 if is_hidden(gap) else 1) >= 1
    assert "the officer's sheet is not on the medium" not in report.notes
    assert [item.action for item in bring_in(gap, keys).models] == ["new"]
    assert tree(gap.medium) == before, "the medium is only read"
    assert len(inspect(gap.medium, keys=keys).volumes) == len(report.bundle.statement.volumes)
    assert {volume.state for volume in inspect(gap.medium, keys=keys).volumes} == {"here"}


def test_decrypted_it_is_the_bundle_that_was_signed(gap: Gap, keys: Keys, tmp_path: Path) -> None:
    """The same statement, digest and verdict; every volume is the one that the statement pins."""
    found = check(gap, keys).bundle
    clear = Gap(tmp_path / "clear")
    for path in gap.medium.iterdir():
        data = path.read_bytes()
        name = path.name
        if name.endswith(".age"):
            data, name = pyrage.decrypt(data, list(keys.identities)), name.removesuffix(".age")
        (clear.medium / name).write_bytes(data)
    same = check(clear, None).bundle
    assert (same.statement_digest, same.envelope) == (found.statement_digest, found.envelope)
    assert same.verdict == found.verdict
    gap.medium.joinpath(sealed(gap)[-1].name).unlink()
    shutil.copy(sorted(clear.medium.glob("*.tar"))[-1], gap.medium)
    assert check(gap, keys).complete, "volumes in clear and encrypted ones may lie side by side"


def test_nothing_is_readable_when_hidden(gap: Gap) -> None:
    names = " ".join(path.name for path in gap.medium.iterdir()).encode()
    data = b"".join(path.read_bytes() for path in gap.medium.iterdir() if path.name != layout.VERIFIER)
    shown = [secret for secret in SECRETS if secret in data + names]
    assert (not shown) == is_hidden(gap), shown
    if not is_hidden(gap):
        inspect(gap.medium)  # needs no identity: that is what it is readable for
        assert b"GGUF" not in data and b"blk.0" not in data


def test_files_are_no_larger_than_asked_for(gap: Gap) -> None:
    assert max(path.stat().st_size for path in gap.medium.glob("*.v*")) <= SIZE


def test_several_recipients_each_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    files = [tmp_path / f"{number}.identity" for number in range(3)]
    made = [seal.generate(path) for path in files]
    (tmp_path / "list").write_text(f"# the enclave\n{made[1]}\n\n{made[2]}\n")
    gap = Gap(tmp_path)
    gap.model(rows=32)
    gap.export(options=options(Sealing(recipients=seal.recipients([made[0], str(tmp_path / "list"), made[0]]))))
    for path in files:
        assert check(gap, seal.load_keys(path)).complete


def test_an_approval_of_a_hidden_bundle_lies_elsewhere(gap: Gap, keys: Keys, tmp_path: Path) -> None:
    candidate = examine(gap.medium, trust(), seen=gap.seen, keys=keys)
    beside = None if not is_hidden(gap) else tmp_path / "olga.dsse.json"
    if is_hidden(gap):
        with pytest.raises(BadRequest, match="does not belong beside the volumes"):
            approve.approve(candidate, [signer("olga")])
    report = approve.approve(candidate, [signer("olga")], beside)
    assert report.verdict.accepted
    extra = [report.file] if beside and report.file else []
    assert verify(gap.medium, trust(), seen=gap.seen, keys=keys, extra=extra).complete
    imported = import_bundle(gap.medium, gap.far, trust(), seen=gap.seen, keys=keys, extra=extra)
    assert imported.complete


# -- what is refused


def test_without_the_identity_nothing_opens(gap: Gap) -> None:
    with pytest.raises(CannotDecrypt, match="is encrypted") as caught:
        check(gap, None)
    assert caught.value.hint and "--identity" in caught.value.hint and caught.value.exit_code == 4, (
        "as the bare verifier"
    )
    other = Keys((pyrage.x25519.Identity.generate(),))
    with pytest.raises(CannotDecrypt, match="no given identity opens it"):
        bring_in(gap, other)
    assert not list((gap.far.root / "manifests").rglob("*"))


def test_without_pyrage_it_says_what_to_install(gap: Gap, identity: tuple[Path, str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, "pyrage", None)
    for call in (lambda: seal.load_keys(identity[0]), lambda: seal.recipients([identity[1]])):
        with pytest.raises(CannotDecrypt, match="pyrage") as caught:
            call()
        assert caught.value.hint == "pip install 'sealift[encrypt]'"


def test_any_flipped_byte_of_an_encrypted_volume_is_refused(gap: Gap, keys: Keys) -> None:
    """In steps of a prime, so that every kind of byte comes up: header, nonce, chunks, tags."""
    refusals = (BundlerError, ManifestsError, SigningError)
    path = sealed(gap)[-1]
    good = path.read_bytes()
    start = agefile.parse(path.name, good[: agefile.MAX_HEADER], len(good))
    for place in [*range(0, start.header + 16, 7), *range(start.header, len(good), 4099), len(good) - 1]:
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(refusals):
            check(gap, keys)
            pytest.fail(f"byte {place} was changed, and the bundle was taken")
    path.write_bytes(good)
    assert check(gap, keys).complete


@pytest.mark.parametrize("cut", [0, 10, 200, 2000, -1, -16, -17])
def test_a_cut_volume_is_refused(gap: Gap, keys: Keys, cut: int) -> None:
    path = sealed(gap)[-1]
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises((VolumeDamaged, CannotDecrypt)):
        check(gap, keys)


def test_more_bytes_missing_renamed_and_foreign_volumes(gap: Gap, keys: Keys) -> None:
    path = sealed(gap)[-1]
    good = path.read_bytes()
    path.write_bytes(good + bytes(32))
    with pytest.raises(VolumeDamaged):
        check(gap, keys)
    path.unlink()
    with pytest.raises(VolumeMissing):
        check(gap, keys)
    if len(sealed(gap)) > 1:
        path.write_bytes(sealed(gap)[0].read_bytes())
        with pytest.raises(VolumeDamaged):
            check(gap, keys)
    path.write_bytes(good)
    extra = gap.medium / (path.name[: path.name.index(".v")] + ".v909.tar.age")
    extra.write_bytes(good)
    with pytest.raises(VolumeMixed):
        check(gap, keys)


def test_an_encrypted_volume_of_another_signer_is_no_more_trusted(gap: Gap, keys: Keys) -> None:
    """Encryption proves nothing: anybody can encrypt for a recipient."""
    with pytest.raises(SigningError):
        verify(gap.medium, trusting(signer("mallory")), seen=gap.seen, keys=keys)


def age(*stanzas: bytes) -> bytes:
    return b"age-encryption.org/v1\n" + b"".join(stanzas) + b"--- " + b"A" * 43 + b"\n" + bytes(64)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (age(b"-> scrypt bm90IHNhbHQgYXQgYWxsIQ 30\n" + b"A" * 43 + b"\n"), "with a passphrase"),
        (age(*[b"-> X25519 " + b"A" * 43 + b"\n" + b"A" * 43 + b"\n"] * 65), "for 65 recipients"),
        (age(b"-> X25519 " + b"A" * 40_000 + b"\n" + b"A" * 43 + b"\n"), "larger than is read"),
        (age(b"-> X25519 " + b"A" * 43 + b"\n" + (b"A" * 64 + b"\n") * 1000 + b"\n"), "larger than is read"),
        (age(), "not an age file"),
        (b"-----BEGIN AGE ENCRYPTED FILE-----\n", "not an age file"),
        (b"age-encryption.org/v2\n", "not an age file"),
        (b"", "not an age file"),
        (bytes(100_000), "not an age file"),
        (age(b"-> X25519 " + b"A" * 43 + b"\n" + b"A" * 43 + b"\n"), "no given identity"),
        (age(b"-> plugin-evil " + b"A" * 43 + b"\n" + b"A" * 43 + b"\n"), "no given identity"),
    ],
    ids=range(11),
)
def test_hostile_headers(keys: Keys, tmp_path: Path, data: bytes, why: str) -> None:
    """None is given to the library before its bounds were looked at; a work factor of 30 is never worked on."""
    path = tmp_path / "sealed-00000000.v000.tar.age"
    path.write_bytes(data)
    with pytest.raises((VolumeDamaged, CannotDecrypt), match=why):
        open_medium(tmp_path, keys)


@pytest.mark.parametrize("text", ["AGE-PLUGIN-EVIL-1QQQQ", "nonsense", "", "AGE-SECRET-KEY-1QQQ"])
def test_identity_files_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "identity").write_text(text + "\n")
    with pytest.raises(BadRequest) as caught:
        seal.load_keys(tmp_path / "identity")
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("value", ["age1nonsense", "age1yubikey1qqqqqq", "no-such-file"])
def test_recipients_that_are_none(value: str) -> None:
    with pytest.raises(BadRequest):
        seal.recipients([value])


def test_an_identity_that_is_given_for_a_recipient_is_not_shown(identity: tuple[Path, str]) -> None:
    with pytest.raises(BadRequest, match="a line is no age recipient") as caught:
        seal.recipients([str(identity[0])])
    assert "AGE-SECRET-KEY" not in f"{caught.value} {caught.value.hint}"


def test_a_bundle_that_is_all_index_is_not_called_encrypted(identity: tuple[Path, str], gap: Gap) -> None:
    """A small model fits into the index volume, which a readable index leaves in clear."""
    gap.model(rows=8)
    out, recipients = gap.root / "small", seal.recipients([identity[1]])
    with pytest.raises(BadRequest, match="nothing would be encrypted"):
        gap.export(options=options(Sealing(recipients=recipients, hidden=False)), out=out)
    assert list(out.iterdir()) == []
    gap.export(options=options(Sealing(recipients=recipients)), out=out)
    assert [path.suffix for path in sorted(out.glob("*.v*"))] == [".age"]


def test_no_resend_in_clear(made: Gap, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_HOME", str(made.root / "home"))
    with pytest.raises(ExportRefused, match="encrypted"):
        exported(made.near, open_medium(made.medium, keys).id)


def test_a_full_medium_stops_the_export(identity: tuple[Path, str], tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    gap = Gap(tmp_path)
    gap.model(rows=160)

    def full(self: seal._Side, data: bytes) -> int:
        self.error = OSError(28, "No space left on device")
        raise self.error

    with monkeypatch.context() as patch:
        patch.setattr(seal._Side, "write", full)
        with pytest.raises(MediumUnavailable, match="No space left"):
            gap.export(options=options(Sealing(recipients=(identity[1],))))
    assert not list(gap.medium.glob("*.age*"))
    assert gap.export(options=options(Sealing(recipients=(identity[1],)))).resumed
    assert check(gap, seal.load_keys(identity[0])).complete


def test_verbs_for_volumes_in_clear_say_so(gap: Gap) -> None:
    """They neither call encrypted volumes lost, nor carry half a bundle."""
    with pytest.raises(CannotDecrypt, match="works on volumes in clear") as caught:
        repair(gap.medium)
    assert caught.value.hint and "--identity" in caught.value.hint
    with pytest.raises(CannotDecrypt, match="works on volumes in clear"):
        outgoing(gap.medium)


# -- what is left behind


def test_an_identity_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    recipient = seal.generate(path)
    assert path.stat().st_mode & 0o777 == 0o600 and recipient.startswith("age1")
    with pytest.raises(BadRequest, match="stays as it is"):
        seal.generate(path)
    assert seal.recipients([recipient]) == (recipient,)


def test_a_reader_that_stops_early_leaves_no_thread_and_no_file(gap: Gap, keys: Keys) -> None:
    import threading

    before, handles = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with VolumeReader(sealed(gap)[-1], keys) as volume:
            volume.read(1000, "the beginning")
    assert threading.active_count() <= before  # what other tests left may end meanwhile
    assert len(os.listdir("/proc/self/fd")) <= handles


def test_what_was_decrypted_is_in_no_file(gap: Gap, keys: Keys, identity: tuple[Path, str],
                                          monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    """Killed in the middle, by a signal that no program can answer: there is no plaintext but checked leaves."""
    monkeypatch.setattr(tempfile, "mkstemp", lambda *a, **k: pytest.fail("a temporary file"))
    (tmp_path / "tmp").mkdir()
    program = (
        "import os, signal, sys; from pathlib import Path; from bundler import medium, seal\n"
        "keys = seal.load_keys(Path(sys.argv[2]))\n"
        "with medium.VolumeReader(Path(sys.argv[1]), keys) as volume:\n"
        "    volume.read(9000, 'some'); os.kill(os.getpid(), getattr(signal, sys.argv[3]))\n"
    )
    before = tree(gap.medium)
    for name in ("SIGTERM", "SIGKILL"):
        words = [sys.executable, "-c", program, str(sealed(gap)[-1]), str(identity[0]), name]
        done = subprocess.run(words, env={**os.environ, "TMPDIR": str(tmp_path / "tmp")}, timeout=60, check=False)
        assert done.returncode < 0
    assert tree(gap.medium) == before and not list((tmp_path / "tmp").iterdir())


# -- the standard tools


def test_the_one_file_verifier_says_that_it_cannot_decrypt(gap: Gap) -> None:
    (gap.medium / "nobody.pub").write_bytes(signer().public.encode())
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(gap.medium), "--pub", str(gap.medium / "nobody.pub")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 4 and "is encrypted" in done.stderr and "age -d -i" in done.stderr


def test_a_refusal_says_which_bundle_to_who_could_read_it(gap: Gap, keys: Keys) -> None:
    statement = check(gap, keys, dry_run=True).bundle.statement
    sealed(gap)[-1].unlink()
    keeper = Keeper(signer=None, folder=gap.root / "receipts")
    now = parse_time("2026-11-01T00:00:00Z")
    with pytest.raises(BundlerError):
        keeper.attest(
            lambda: bring_in(gap, keys), gap.medium, gap.far,
            lambda: authenticate(gap.medium, trusting(signer()), Policy(), now, keys=keys), keys,
        )  # fmt: skip
    (kept,) = keeper.kept
    told = kept.receipt
    assert (told.reason, told.known, told.id) == ("missing", True, statement.id)
    assert (told.channel, told.sequence, told.signers) == (statement.channel, statement.sequence, ("alice",))


# -- one way: send, receive, resend


def receive(gap: Gap, keys: Keys | None, *, collect: Path | None = None) -> tuple[int, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    base, store = collect or gap.far.private / "receiving", None if collect else gap.far
    with Rooms(base, trusting(signer()), events.append, store=store, seen=gap.seen, repair=True, keys=keys) as rooms:
        watch(gap.root / "drop", rooms, once=True)
        return rooms.exit_code(), events


def said(events: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [found for found in events if found["event"] == event]


def test_sent_and_received_as_they_are(gap: Gap, keys: Keys) -> None:
    """The sender needs no identity. What lies in the room stays encrypted."""
    drop = gap.root / "drop"
    report = send(gap.medium, drop)
    assert {path.name: path.read_bytes() for path in drop.iterdir()} == {
        path.name: path.read_bytes() for path in gap.medium.glob("*.tar*")
    } and list(report.sent) == sorted(report.sent)
    code, events = receive(gap, None)
    assert code == 4 and not gap.far.names(), "nobody here can open it"
    assert said(events, "encrypted")
    last = sealed(gap)[-1].name
    (drop / last).rename(gap.root / last)
    code, events = receive(gap, keys)
    (told,) = said(events, "missing")
    assert code == 4 and told["slip"].startswith("SEALIFT SLIP 1 unheard-of-label")
    (room,) = (path for path in (gap.far.private / "receiving").iterdir() if path.is_dir())
    assert all(b"blk.0" not in path.read_bytes() for path in room.glob("*.age"))
    again = resend(slip.parse(told["slip"]), gap.root / "again", volumes=gap.medium)
    assert again.source == "encrypted" and [path.name for path in again.written] == [last]
    shutil.copy(again.written[0], drop)
    code, events = receive(gap, keys)
    assert code == 0 and said(events, "imported") and [name.short for name in gap.far.names()] == ["mine:latest"]


def test_collected_they_stay_encrypted(gap: Gap, keys: Keys) -> None:
    send(gap.medium, gap.root / "drop")
    code, events = receive(gap, keys, collect=gap.root / "kept")
    (told,) = said(events, "complete")
    assert code == 0 and told["verified"] and list(Path(told["folder"]).glob("*.tar.age"))


def test_a_damaged_one_is_told_and_may_come_again(gap: Gap, keys: Keys) -> None:
    send(gap.medium, gap.root / "drop")
    path = gap.root / "drop" / sealed(gap)[-1].name
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    code, events = receive(gap, keys)
    assert code == 4 and said(events, "damaged") and not gap.far.names()
    path.write_bytes(good)
    assert receive(gap, keys)[0] == 0


def test_what_cannot_be_cut_or_named_is_refused(gap: Gap, keys: Keys) -> None:
    (index,) = gap.medium.glob("*.v000.tar*")
    with pytest.raises(BadRequest, match=f"{index.name}, which tells the receiver .* cannot be cut"):
        send(gap.medium, gap.root / "drop", max_part=index.stat().st_size - 1)
    assert not (gap.root / "drop").exists()
    wanted = slip.Slip(id=check(gap, keys).bundle.statement.id, wants=(slip.Want(volume=77),))
    with pytest.raises(VolumeMissing, match="volume 77"):
        resend(wanted, gap.root / "again", volumes=gap.medium)


@pytest.mark.skipif(not shutil.which("age"), reason="needs the program age (Debian: age)")
def test_age_and_python_alone_open_and_check_it(gap: Gap, identity: tuple[Path, str], tmp_path: Path) -> None:
    """As the sheet says: age, then the one-file verifier."""
    (tmp_path / "clear").mkdir()
    for path in gap.medium.glob("*.tar*"):
        target = tmp_path / "clear" / path.name.removesuffix(".age")
        if path.suffix == ".age":
            subprocess.run(["age", "-d", "-i", str(identity[0]), "-o", str(target), str(path)], check=True, timeout=60)
        else:
            shutil.copy(path, target)
    (tmp_path / "alice.pub").write_bytes(signer().public.encode())
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path / "clear"), "--pub", str(tmp_path / "alice.pub")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("age"), reason="needs the program age (Debian: age)")
def test_what_age_encrypted_is_read(gap: Gap, keys: Keys, identity: tuple[Path, str]) -> None:
    path = sealed(gap)[-1]
    plain = pyrage.decrypt(path.read_bytes(), list(keys.identities))
    subprocess.run(["age", "-r", identity[1], "-o", str(path)], input=plain, check=True, timeout=60)
    assert check(gap, keys).complete


# -- laws


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_072, 200_000])
def test_sizes_follow_from_the_file(keys: Keys, identity: tuple[Path, str], size: int) -> None:
    data = pyrage.encrypt(bytes(size), [pyrage.x25519.Recipient.from_str(identity[1])])
    assert agefile.parse("x", data[: agefile.MAX_HEADER], len(data)).plain == size
    assert len(data) - size <= agefile.overhead(size, 1)


def test_names() -> None:
    assert conceal.hidden("acme.v1-7f3c91ab.v012.tar") == "sealed-7f3c91ab.v012.tar"
