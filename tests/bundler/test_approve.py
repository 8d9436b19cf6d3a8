"""Approvals: signatures beside the volumes. Who is needed, what is refused, that nothing else of a medium changes."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import pytest

from bundler import approvals, approve, layout
from bundler.approve import ApprovalReport, examine
from bundler.draft import Options
from bundler.errors import (
    ApprovalRefused,
    BadRequest,
    BundlerError,
    MediumUnavailable,
    PolicyRefused,
    VolumeDamaged,
    VolumeMissing,
)
from bundler.importer import import_bundle
from bundler.inspect import inspect
from bundler.medium import open_medium
from bundler.policy import Policy
from bundler.verify import verify
from manifests.digest import Digest
from manifests.errors import ManifestsError
from manifests.statement import PAYLOAD_TYPE
from signing import envelope as dsse
from signing.envelope import Envelope, Signature
from signing.errors import NotTrusted, SigningError
from signing.keys import Signer
from signing.trust import TrustStore
from tests.peers.bundles import LEAF, Gap, signer, tree, volumes
from tests.peers.forgery import flip, statement_of

PROGRAM = Path(layout.__file__).with_name(layout.VERIFIER)


def trust(
    publishers: Sequence[str] = ("alice",), approvers: Sequence[str] = ("olga",), *, needed: tuple[int, int] = (1, 1)
) -> TrustStore:
    """`needed`: thresholds of publishers and of approvers."""
    store = TrustStore.empty()
    for role, names, threshold in (("publisher", publishers, needed[0]), ("approver", approvers, needed[1])):
        for name in names:
            store = store.add(signer(name).public, [role])
        store = store.with_threshold(role, threshold) if names else store
    return store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Gap:
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("approve")
        patch.setenv("SEALIFT_HOME", str(root / "home"))
        gap = Gap(root)
        gap.model(rows=160)
        gap.export(options=Options(volume_size=80 << 10, leaf_size=LEAF))
    return gap


@pytest.fixture
def gap(made: Gap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    fresh = Gap(tmp_path)
    shutil.copytree(made.medium, fresh.medium, dirs_exist_ok=True)
    return fresh


def approved(
    gap: Gap, *names: str, by: TrustStore | None = None, out: Path | None = None, statement_only: bool = False
) -> ApprovalReport:
    candidate = examine(gap.medium, by or trust(), seen=gap.seen, statement_only=statement_only)
    return approve.approve(candidate, [signer(name) for name in names or ("olga",)], out)


def file_of(report: ApprovalReport) -> Path:
    assert report.file is not None
    return report.file


def base_of(gap: Gap) -> Envelope:
    return dsse.decode(open_medium(gap.medium).envelope)


def put(gap: Gap, signatures: Sequence[Signature], number: int = 0, payload: bytes | None = None) -> Path:
    """An approval made by hand."""
    path = gap.medium / approvals.file_name(open_medium(gap.medium).stem, f"{number:08x}")
    ordered = tuple(sorted(signatures, key=lambda one: one.keyid))
    whole = Envelope(payload_type=PAYLOAD_TYPE, payload=payload or base_of(gap).payload, signatures=ordered)
    path.write_bytes(dsse.encode(whole))
    return path


def signed(gap: Gap, by: Signer) -> list[Signature]:
    return list(dsse.sign(PAYLOAD_TYPE, base_of(gap).payload, [by]).signatures)


def refused(gap: Gap, error: type[Exception], match: str, by: TrustStore | None = None) -> None:
    before, medium = tree(gap.far.root), tree(gap.medium)
    with pytest.raises(error, match=match):
        gap.verify(trust=by or trust())
    with pytest.raises(error, match=match):
        gap.bring_in(trust=by or trust())
    kept = {name: value for name, value in tree(gap.far.root).items() if not name.startswith(".sealift")}
    assert kept == before and tree(gap.medium) == medium


# -- what it is for


def test_an_approver_is_needed_and_then_is_not(gap: Gap) -> None:
    before = tree(gap.medium)
    with pytest.raises(NotTrusted, match="approver: 0 of 1 needed") as caught:
        gap.verify(trust=trust())
    assert caught.value.hint and "sealift bundle approve" in caught.value.hint
    refused(gap, NotTrusted, "approver: 0 of 1 needed")
    report = approved(gap)
    assert report.signed == ("olga",) and report.verdict.accepted and report.candidate.publishers == ("alice",)
    after = tree(gap.medium)
    assert {name: after[name] for name in before} == before, "nothing of the medium was rewritten"
    assert set(after) - set(before) == {file_of(report).name}
    assert re.fullmatch(re.escape(open_medium(gap.medium).stem) + r"\.approval-[0-9a-f]{8}\.dsse\.json",
                        file_of(report).name)  # fmt: skip
    assert gap.verify(trust=trust()).bundle.verdict.sentences()[:3] == [
        "trusted (profile hybrid)", "approver: 1 of 1 needed: olga", "publisher: 1 of 1 needed: alice",
    ]  # fmt: skip
    assert [item.action for item in gap.bring_in(trust=trust()).models] == ["new"]


def test_what_an_import_keeps_can_be_judged_again(gap: Gap) -> None:
    approved(gap)
    report = gap.bring_in(trust=trust())
    (record,) = gap.far.records(report.models[0].manifest)
    assert record["signers"] == ["alice", "olga"]
    kept = gap.far.private / "statements" / f"{Digest.of(base_of(gap).payload).hex}.dsse.json"
    assert trust().verify(kept.read_bytes(), payload_type=PAYLOAD_TYPE, channel="mine").verdict.accepted


def test_a_trust_without_approvers_takes_the_bundle_with_and_without(gap: Gap) -> None:
    alone = trust(approvers=())
    assert gap.verify(trust=alone).complete
    approved(gap, by=alone)
    verdict = gap.verify(trust=alone).bundle.verdict
    assert verdict.accepted and [finding.status for finding in verdict.signatures].count("unknown") == 2


def test_an_approval_is_an_envelope_of_its_own(gap: Gap) -> None:
    """Any DSSE reader can check it: the payload is in it, byte for byte."""
    found = dsse.decode(file_of(approved(gap)).read_bytes())
    assert (found.payload, found.payload_type) == (base_of(gap).payload, PAYLOAD_TYPE)
    assert {one.keyid for one in found.signatures} == {key.id for key in signer("olga").public.keys}


def test_thresholds_of_both_roles(gap: Gap) -> None:
    """Two publishers, one of whom signs later, and two of three approvers."""
    many = trust(("alice", "bob"), ("olga", "otto", "oona"), needed=(2, 2))
    refused(gap, NotTrusted, "publisher: 1 of 2 needed", many)
    report = approved(gap, "olga", by=many)
    assert not report.verdict.accepted
    refused(gap, NotTrusted, "approver: 1 of 2 needed", many)
    approved(gap, "otto", by=many)
    refused(gap, NotTrusted, "publisher: 1 of 2 needed", many)
    assert approved(gap, "bob", by=many).verdict.accepted
    assert len(list(gap.medium.glob("*.approval-*"))) == 3
    assert gap.verify(trust=many).bundle.verdict.signers == ("alice", "bob", "olga", "otto")
    assert gap.bring_in(trust=many).complete


def test_several_signers_share_one_file(gap: Gap) -> None:
    report = approved(gap, "olga", "otto", by=trust(approvers=("olga", "otto"), needed=(1, 2)))
    assert report.signed == ("olga", "otto") and report.verdict.accepted
    assert len(dsse.decode(file_of(report).read_bytes()).signatures) == 4


def test_nobody_signs_twice(gap: Gap) -> None:
    approved(gap)
    medium = tree(gap.medium)
    again = approved(gap)
    assert (again.file, again.signed, again.already) == (None, (), ("olga",)) and again.verdict.accepted
    assert approved(gap, "alice", by=trust(approvers=("alice",))).file is None, "her signature in the volumes counts"
    assert tree(gap.medium) == medium


def test_half_a_signer_is_completed(gap: Gap) -> None:
    """Every key of a signer must sign; one whose file was cut to one signature adds the other."""
    put(gap, signed(gap, signer("olga"))[:1])
    refused(gap, NotTrusted, "signature is missing")
    assert approved(gap).verdict.accepted
    assert gap.verify(trust=trust()).complete


# -- who does not count


def test_somebody_else_is_no_approver(gap: Gap) -> None:
    approved(gap, "mallory")
    refused(gap, NotTrusted, "approver: 0 of 1 needed")
    refused(gap, NotTrusted, "does not hold the role approver", trust().add(signer("mallory").public, ["publisher"]))
    gone = trust(approvers=("mallory", "olga")).revoke("mallory", "left", date(2026, 1, 1))
    refused(gap, NotTrusted, "revoked", gone)


def test_an_approval_that_is_taken_away_is_missed(gap: Gap) -> None:
    path = file_of(approved(gap))
    assert gap.verify(trust=trust()).complete
    path.unlink()
    refused(gap, NotTrusted, "approver: 0 of 1 needed")


def test_approvers_alone_do_not_publish(gap: Gap) -> None:
    approved(gap)
    refused(gap, NotTrusted, "publisher: 0 of 1 needed", trust(publishers=("bob",)))
    with pytest.raises(NotTrusted, match="publisher: 0 of 1"):
        approved(gap, by=trust(publishers=("bob",)))
    with pytest.raises(NotTrusted):
        approved(gap, by=TrustStore.empty())


def test_a_policy_may_ask_for_an_approver(gap: Gap) -> None:
    """And does not keep the approver from being the first."""
    policy, store = Policy(roles=("approver", "publisher")), trust()
    with pytest.raises(NotTrusted):
        verify(gap.medium, store, policy=policy, seen=gap.seen)
    candidate = examine(gap.medium, store, policy=policy, seen=gap.seen)
    assert approve.approve(candidate, [signer("olga")]).verdict.accepted
    assert verify(gap.medium, store, policy=policy, seen=gap.seen).complete


# -- approvals that are wrong


def test_approvals_of_two_bundles_cannot_be_exchanged(made: Gap, gap: Gap) -> None:
    ours = file_of(approved(gap))
    other = Gap(gap.root / "other")
    other.model(rows=160, seed=9)
    other.export(options=Options(volume_size=80 << 10, leaf_size=LEAF))
    theirs = file_of(approved(other))
    shutil.copy(theirs, gap.medium / theirs.name)
    ours_kept = ours.read_bytes()
    ours.unlink()
    refused(gap, NotTrusted, "approver: 0 of 1")  # it lies there under its own name: not about this bundle
    (gap.medium / theirs.name).rename(ours)
    refused(gap, ApprovalRefused, f"{re.escape(ours.name)} approves another statement")
    with pytest.raises(ApprovalRefused, match="another statement"):
        verify(other.medium, trust(), seen=other.seen, extra=[write(gap.root / "x", ours_kept)])
    put(gap, signed(gap, signer("olga")), payload=statement_of(other.medium).encode())
    refused(gap, ApprovalRefused, "another statement")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_the_payload_type_belongs_to_the_statement(gap: Gap) -> None:
    path = file_of(approved(gap))
    path.write_bytes(path.read_bytes().replace(b"vnd.in-toto+json", b"vnd.in-toto+jsom"))
    refused(gap, ApprovalRefused, "another statement")


def test_every_mangled_byte_is_refused(gap: Gap) -> None:
    """Each byte in turn, with another bit each: never accepted, and never anything but a refusal."""
    path, medium, store = file_of(approved(gap)), open_medium(gap.medium), trust()
    good = path.read_bytes()
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        with pytest.raises((ApprovalRefused, NotTrusted)):
            merged = approvals.merge(medium.envelope, [(path.name, bytes(bad))])
            store.verify(merged.envelope, payload_type=PAYLOAD_TYPE, channel="mine")
    for at in (*range(0, len(good), 97), len(good) - 1):
        path.write_bytes(good[:at])
        with pytest.raises(ApprovalRefused, match="not an approval"):
            approvals.gather(medium)
    path.write_bytes(good)
    assert gap.verify(trust=store).complete, "the good one is good"


def test_a_wrong_signature_of_a_known_key_is_fatal(gap: Gap) -> None:
    """Even where enough others have signed."""
    approved(gap)
    assert gap.verify(trust=trust(approvers=("olga", "otto"))).complete
    forged = [Signature(keyid=key.id, sig=b"x" * 64) for key in signer("otto").public.keys]
    put(gap, forged)
    assert gap.verify(trust=trust()).complete, "to whom he is unknown, it is recorded and no more"
    refused(gap, NotTrusted, "the signature by otto", trust(approvers=("olga", "otto")))
    with pytest.raises(ApprovalRefused, match="wrong signature by otto"):
        approved(gap, "otto")


def test_unknown_keys_are_recorded(gap: Gap) -> None:
    approved(gap)
    put(gap, [Signature(keyid="ab" * 32, sig=b"?")])
    report = gap.verify(trust=trust())
    assert any("abababababababab" in line for line in report.bundle.verdict.sentences())
    assert len(report.as_dict()["approvals"]) == 2


def test_one_key_has_one_signature(gap: Gap) -> None:
    """The same again is merged; another one by the same key is refused by name."""
    path = file_of(approved(gap))
    shutil.copy(path, gap.medium / approvals.file_name(open_medium(gap.medium).stem, "00000000"))
    assert gap.verify(trust=trust()).complete
    two_of_one_key(gap)
    refused(gap, ApprovalRefused, r"approval-00000002.*signed elsewhere with another signature")


def too_many_files(gap: Gap) -> None:
    for number in range(approvals.MAX_APPROVALS + 1):
        put(gap, [Signature(keyid=f"{number:064x}", sig=b"?")], number)


def too_many_signatures(gap: Gap) -> None:
    for number in range(2):
        put(gap, [Signature(keyid=f"{number * 100 + k:064x}", sig=b"?") for k in range(40)], number)


def too_large(gap: Gap) -> None:
    with put(gap, [Signature(keyid="ab" * 32, sig=b"?")]).open("r+b") as file:
        file.truncate((16 << 20) + 1)


def a_folder(gap: Gap) -> None:
    (gap.medium / approvals.file_name(open_medium(gap.medium).stem, "00000000")).mkdir()


def a_pipe(gap: Gap) -> None:
    os.mkfifo(gap.medium / approvals.file_name(open_medium(gap.medium).stem, "00000000"))


def two_of_one_key(gap: Gap) -> None:
    put(gap, [Signature(keyid="ab" * 32, sig=b"one")], 1)
    put(gap, [Signature(keyid="ab" * 32, sig=b"two")], 2)


FLOODS: list[tuple[Callable[[Gap], None], str]] = [
    (too_many_files, "33 approvals"),
    (too_many_signatures, "expected 1 to 64, found"),
    (too_large, "at most 16,777,216"),
    (a_folder, "not a regular file|[Ii]s a directory"),
    (a_pipe, "not a regular file"),
    (two_of_one_key, "another signature"),
]


@pytest.mark.parametrize(("flood", "match"), FLOODS, ids=lambda value: getattr(value, "__name__", ""))
def test_floods_and_strange_files_are_refused(gap: Gap, flood: Callable[[Gap], None], match: str) -> None:
    flood(gap)
    for verb in (lambda: gap.verify(trust=trust()), lambda: gap.bring_in(trust=trust()), lambda: approved(gap)):
        with pytest.raises(BundlerError, match=match):
            verb()


def test_the_last_place_is_not_overrun(gap: Gap) -> None:
    """An approval that would make the bundle unreadable is not written."""
    for number in range(approvals.MAX_APPROVALS):
        put(gap, [Signature(keyid=f"{number:064x}", sig=b"?")], number)
    before = tree(gap.medium)
    with pytest.raises(ApprovalRefused, match="no more"):
        approved(gap)
    for number in range(approvals.MAX_APPROVALS):
        put(gap, [Signature(keyid=f"{number * 2 + k:064x}", sig=b"?") for k in range(2)], number)
    for path in list(gap.medium.glob("*.approval-0000001f*")):
        path.unlink()
    assert before
    with pytest.raises(ApprovalRefused, match="expected 1 to 64, found"):
        approved(gap)
    assert len(list(gap.medium.glob("*.approval-*"))) == approvals.MAX_APPROVALS - 1


def test_files_that_are_not_approvals_are_left_alone(gap: Gap) -> None:
    path = file_of(approved(gap))
    for name in (f"{path.name}.tmp", f"{path.stem} (copy).json", "notes.dsse.json", path.name.upper()):
        (gap.medium / name).write_bytes(b"not an envelope")
    assert gap.verify(trust=trust()).complete


# -- what approving refuses


@pytest.mark.parametrize("offset", [700, 5000, 12_000, 30_000, -700])
def test_a_damaged_bundle_is_not_approved(gap: Gap, offset: int) -> None:
    path = volumes(gap.medium)[-1 if offset == 30_000 else 0]
    flip(path, offset % path.stat().st_size)
    before = tree(gap.medium)
    with pytest.raises((BundlerError, SigningError, ManifestsError)) as caught:
        approved(gap)
    assert getattr(caught.value, "exit_code", 70) in (1, 3), caught.value
    assert tree(gap.medium) == before, "no approval was written"


def test_the_statement_alone_can_be_approved_and_says_so(gap: Gap) -> None:
    volumes(gap.medium)[1].unlink()
    with pytest.raises(VolumeMissing):
        approved(gap)
    report = approved(gap, statement_only=True)
    unchecked = " ".join(report.candidate.found.not_checked)
    assert "v001.tar: it is not here" in unchecked and "every byte" in unchecked
    assert not report.candidate.found.complete and report.as_dict()["complete"] is False
    file_of(report).unlink()
    flip(volumes(gap.medium)[1], 700)  # its statement: the head of a volume that is here is compared all the same
    with pytest.raises(VolumeDamaged):
        approved(gap, statement_only=True)


def test_what_the_policy_refuses_is_not_approved(gap: Gap) -> None:
    gap.seen.remember(statement_of(gap.medium), Digest.of(b"x"), "2026-01-01T00:00:00Z")
    assert approved(gap).file
    newer = gap.root / "newer"
    gap.model(rows=160, seed=3)
    soon = datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=60)
    for sequence in (5, 2):
        shutil.rmtree(newer, ignore_errors=True)
        newer.mkdir()
        gap.exported.path.unlink(missing_ok=True)  # a publisher who forgot his numbers
        options = Options(volume_size=80 << 10, leaf_size=LEAF, sequence=sequence, expires=f"{soon:%Y-%m-%dT%H:%M:%SZ}")
        gap.export(options=options, out=newer)
        if sequence == 5:
            with pytest.raises(PolicyRefused, match="expired"):
                examine(newer, trust(), seen=gap.seen, now=soon + timedelta(seconds=1))
            gap.seen.remember(statement_of(newer), Digest.of(b"y"), "2026-01-01T00:00:00Z")
    with pytest.raises(PolicyRefused, match="older"):
        examine(newer, trust(), seen=gap.seen)
    with pytest.raises(PolicyRefused, match="not taken here"):
        examine(gap.medium, trust(), policy=Policy(channels=("acme/*",)), seen=gap.seen)


def test_only_what_was_examined_is_signed() -> None:
    with pytest.raises(TypeError):
        approve.Candidate(object(), None, None, None, None)  # type: ignore[arg-type]


# -- where it goes


def test_an_approval_may_travel_another_way(gap: Gap) -> None:
    before, elsewhere = tree(gap.medium), gap.root / "by-mail.json"
    assert file_of(approved(gap, out=elsewhere)) == elsewhere and tree(gap.medium) == before
    refused(gap, NotTrusted, "approver: 0 of 1")
    assert verify(gap.medium, trust(), seen=gap.seen, extra=[elsewhere]).complete
    assert inspect(gap.medium, trust(), extra=[elsewhere]).trusted and not inspect(gap.medium, trust()).trusted
    again = examine(gap.medium, trust(), seen=gap.seen, extra=[elsewhere])
    assert approve.approve(again, [signer("olga")]).already == ("olga",)
    assert import_bundle(gap.medium, gap.far, trust(), seen=gap.seen, extra=[elsewhere]).complete
    with pytest.raises(MediumUnavailable):
        verify(gap.medium, trust(), seen=gap.seen, extra=[gap.root / "absent"])


def test_a_folder_as_the_place_and_no_file_replaced(gap: Gap) -> None:
    (gap.root / "out").mkdir()
    path = file_of(approved(gap, out=gap.root / "out"))
    assert path.parent == gap.root / "out" and ".approval-" in path.name
    kept = path.read_bytes()
    with pytest.raises(BadRequest, match="stays as it is"):
        approved(gap, out=path)
    assert path.read_bytes() == kept


def test_a_medium_that_cannot_be_written(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(path: Path, data: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(approve, "write_file", deny)
    with pytest.raises(MediumUnavailable, match="Read-only") as caught:
        approved(gap)
    assert caught.value.hint and "-o" in caught.value.hint


def test_a_link_on_the_medium_is_not_followed(gap: Gap) -> None:
    """A medium may hold a link with the name of the file that is about to be written, to any file of this host."""
    precious = write(gap.root / "precious", b"mine")
    name = approvals.file_name(open_medium(gap.medium).stem, min(key.id for key in signer("olga").public.keys))
    (gap.medium / f"{name}.tmp").symlink_to(precious)
    assert file_of(approved(gap)).name == name and not (gap.medium / name).is_symlink()
    assert precious.read_bytes() == b"mine"
    (gap.medium / name).unlink()
    (gap.medium / name).symlink_to(gap.root / "absent")
    with pytest.raises(BundlerError):
        approved(gap)
    assert not (gap.root / "absent").exists()


def test_the_bundle_meant_is_chosen_by_a_volume(gap: Gap) -> None:
    """Beside another bundle, only the approvals of the one that is meant are looked at."""
    approved(gap)
    stranger = gap.medium / "other-00000000.approval-00000000.dsse.json"
    stranger.write_bytes(b"nonsense")
    assert gap.verify(trust=trust(), path=volumes(gap.medium)[0]).complete
    assert gap.verify(trust=trust()).complete


# -- the other readers, and the command line


def bare(gap: Gap, *words: str) -> subprocess.CompletedProcess[str]:
    for name in ("alice", "olga", "otto"):
        (gap.root / f"{name}.pub").write_bytes(signer(name).public.encode())
    return subprocess.run(
        [sys.executable, "-I", "-S", str(PROGRAM), str(gap.medium), *words],
        capture_output=True,
        text=True,
        cwd=gap.root,
    )


def test_the_bare_verifier_asks_for_the_same(gap: Gap) -> None:
    keys = ("--pub", "alice.pub", "--approver", "olga.pub")
    assert bare(gap, *keys).returncode == 3
    path = file_of(approved(gap))
    done = bare(gap, *keys)
    assert done.returncode == 0, done.stderr
    verdict = gap.verify(trust=trust()).bundle.verdict.sentences()
    assert done.stdout.splitlines()[: len(verdict)] == verdict
    assert "no .pub file has this key" in bare(gap, "--pub", "alice.pub").stdout
    assert bare(gap, "--pub", "alice.pub", "--approver", "otto.pub").returncode == 3
    two = (*keys, "--approver", "otto.pub", "--approver-threshold", "2")
    assert bare(gap, *two).returncode == 3
    elsewhere = file_of(approved(gap, "otto", out=gap.root / "otto.json"))
    assert bare(gap, *two, "--approval", elsewhere.name).returncode == 0
    assert bare(gap, *two, "--approval", "absent.json").returncode == 4
    good = path.read_bytes()
    for at in (0, 100, len(good) - 2, len(good) - 3000, good.index(b'"sig"') + 20, good.index(b'"keyid"') + 12):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        done = bare(gap, *keys)
        assert done.returncode in (1, 3) and "Traceback" not in done.stderr, (at, done.stderr)
    path.write_bytes(good)
    for flood, _ in FLOODS:
        flood(gap)
        done = bare(gap, *keys)
        assert done.returncode == 1 and "Traceback" not in done.stderr, (flood.__name__, done.stderr)
        for stray in gap.medium.glob("*.approval-000000*"):
            stray.rmdir() if stray.is_dir() else stray.unlink()


def test_an_approval_counts_whichever_name_hides_the_label(gap: Gap) -> None:
    """Volumes that `age -d` made of a hidden bundle have no label in their names; an approval may have it."""
    file = file_of(approved(gap))
    stem = file.name.partition(".approval")[0]
    for path in gap.medium.glob(f"{stem}.v*"):
        path.rename(path.with_name(f"sealed{path.name.removeprefix(stem[:-9])}"))
    (gap.medium / f"{stem}.txt").unlink()
    keys = ("--pub", "alice.pub", "--approver", "olga.pub")
    assert gap.verify(trust=trust()).complete and bare(gap, *keys).returncode == 0
    file.rename(file.with_name(f"other{stem[-9:]}.approval-00000000.dsse.json"))
    assert gap.verify(trust=trust()).complete and bare(gap, *keys).returncode == 0


def test_the_bare_verifier_refuses_another_statements_approval(gap: Gap) -> None:
    found = base_of(gap)
    bent = base64.b64encode(found.payload.replace(b'"sequence":1', b'"sequence":2'))
    path = file_of(approved(gap))
    path.write_bytes(path.read_bytes().replace(base64.b64encode(found.payload), bent))
    done = bare(gap, "--pub", "alice.pub", "--approver", "olga.pub")
    assert done.returncode == 1 and "another statement" in done.stderr


def test_the_verb(gap: Gap, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import sealift
    from signing.keyring import Keyring, keys_dir

    def run(*words: str) -> tuple[int, str, str]:
        code = sealift.run(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    monkeypatch.setenv("SEALIFT_MODELS", str(gap.far.root))
    Keyring(keys_dir()).write(signer("olga"), None)
    trust().save(gap.root / "home" / "trust.toml")
    usb = str(gap.medium)
    code, _, err = run("bundle", "import", usb)
    assert code == 3 and "sealift bundle approve" in err
    assert run("bundle", "approve", usb, "--sign", "olge")[0] == 1
    code, out, err = run("bundle", "approve", usb, "--sign", "olga")
    assert code == 0, err
    statement = statement_of(gap.medium)
    for word in ("published by alice", str(statement.models[0].manifest), "mine", "approved by olga: ", "satisfied",
                 "verified: every byte", str(Digest.of(statement.encode()))):  # fmt: skip
        assert word in out, word
    code, out, err = run("bundle", "approve", usb, "--sign", "olga", "--json")
    told = json.loads(out)
    assert code == 0 and told["approved"] is False and told["already"] == ["olga"] and told["verdict"]["accepted"]
    assert ".approval-" in run("bundle", "inspect", usb)[1]
    elsewhere = gap.root / "apart.json"
    next(gap.medium.glob("*.approval-*")).rename(elsewhere)
    assert run("bundle", "import", usb)[0] == 3
    assert run("bundle", "verify", usb, "--approval", str(elsewhere))[0] == 0
    assert run("bundle", "import", usb, "--approval", str(elsewhere))[0] == 0
    path = volumes(gap.medium)[0]
    flip(path, path.stat().st_size - 3000)
    code, out, err = run("bundle", "approve", usb, "--sign", "olga", "-o", str(gap.root / "no.json"))
    assert code == 1 and out == "" and path.name in err and not (gap.root / "no.json").exists()
