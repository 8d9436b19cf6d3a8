"""Refuse the past: sequence numbers, gaps with the ids that are missing, forks, and time that does not go back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundler.channels import Channels, Seen, check
from bundler.draft import Options
from bundler.errors import PolicyRefused
from bundler.importer import import_bundle
from bundler.policy import Policy
from bundler.verify import verify
from manifests import canonical
from manifests.digest import Digest
from manifests.statement import MAX_PREVIOUS, Earlier, Statement, format_time
from signing.errors import NotTrusted
from tests.peers.bundles import LEAF, VOLUME, Gap, signer, trusting

OPTIONS = Options(volume_size=VOLUME, leaf_size=LEAF)
DAY = timedelta(days=1)


@pytest.fixture
def gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gap:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    made = Gap(tmp_path)
    made.model()
    return made


def exported(gap: Gap, number: int, options: Options = OPTIONS) -> tuple[Path, Statement]:
    out = gap.root / f"usb{number}"
    return out, gap.export(options=options, out=out).statement


def test_a_gap_is_told_with_the_ids_that_are_missing(gap: Gap) -> None:
    made = [exported(gap, number) for number in range(1, 6)]
    gap.bring_in(path=made[0][0])
    report = gap.bring_in(path=made[4][0])
    wanted = ", ".join(f"{n} is {made[n - 1][1].id}" for n in (2, 3, 4))
    assert report.notes == (f"channel mine: numbers 2 to 4 were never seen here: {wanted}",)
    with pytest.raises(PolicyRefused, match="older than 5"):
        gap.bring_in(path=made[2][0])


def test_a_strict_site_refuses_a_gap_until_it_is_filled(gap: Gap) -> None:
    made = [exported(gap, number) for number in range(1, 4)]
    strict, trust = Policy.parse(b"allow_gap = false"), trusting(signer())
    import_bundle(made[0][0], gap.far, trust, policy=strict, seen=gap.seen)
    with pytest.raises(PolicyRefused, match=made[1][1].id) as caught:
        import_bundle(made[2][0], gap.far, trust, policy=strict, seen=gap.seen)
    assert "--allow-gap" in (caught.value.hint or "")
    for folder, _ in made[1:]:
        assert import_bundle(folder, gap.far, trust, policy=strict, seen=gap.seen).notes == ()


def test_statements_name_the_last_ones_only(gap: Gap) -> None:
    seen = gap.exported
    _, first = exported(gap, 1)
    for number in range(2, 40):
        seen.remember(replace(first, sequence=number, id=f"{number:032x}"), Digest.of(b"x"), first.created)
    _, last = exported(gap, 2)
    assert last.sequence == 40
    assert [item.sequence for item in last.previous] == list(range(40 - MAX_PREVIOUS, 40))


def test_a_publisher_who_remembers_other_bundles_is_told(gap: Gap) -> None:
    folder, first = exported(gap, 1)
    gap.bring_in(path=folder)
    second = replace(first, sequence=2, previous=(Earlier(sequence=1, id="0" * 32),))
    notes = check(gap.seen.last("mine"), second)
    assert notes == [f"channel mine: number 1 was {first.id} here and is {'0' * 32} there"]
    with pytest.raises(PolicyRefused, match="allow_gap"):
        check(gap.seen.last("mine"), second, allow_gap=False)


@given(st.lists(st.tuples(st.integers(1, 8), st.sampled_from("ab")), max_size=12))
def test_the_newest_number_never_falls(bundles: list[tuple[int, str]]) -> None:
    """A model: whatever arrives in whatever order, an older number or a second id is refused, and only then."""
    base = _statement()
    last: Seen | None = None
    for number, letter in bundles:
        arriving = replace(base, sequence=number, id=letter * 32)
        older = last is not None and number < last.sequence
        fork = last is not None and number == last.sequence and letter * 32 != last.id
        if older or fork:
            with pytest.raises(PolicyRefused):
                check(last, arriving)
            continue
        notes = check(last, arriving)
        assert bool(notes) == (number > (last.sequence if last else 0) + 1)
        last = Seen(sequence=number, id=letter * 32, statement=Digest.of(b""), time="")


def _statement() -> Statement:
    return Statement(
        id="a" * 32, label="l", channel="c", sequence=1, created="2026-01-01T00:00:00Z", tool="t", models=(), blobs=(),
        volumes=(), verifier=Digest.of(b""),
    )  # fmt: skip


# -- time


def later(days: int) -> datetime:
    return datetime.now(timezone.utc) + days * DAY


def at(monkeypatch: pytest.MonkeyPatch, moment: datetime) -> None:
    """What an export takes for the time."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(int(moment.timestamp())))


def test_a_clock_set_back_revives_nothing(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    """An expired bundle, and a clock set back to before it expired, after newer signed times were seen."""
    at(monkeypatch, later(-100))
    old, _ = exported(gap, 1, replace(OPTIONS, channel="old", expires=format_time(later(-50))))
    at(monkeypatch, later(0))
    new, _ = exported(gap, 2, replace(OPTIONS, channel="new"))
    trust, back = trusting(signer()), later(-90)
    assert verify(old, trust, seen=gap.seen, now=back).complete, "nothing newer was seen yet"
    with pytest.raises(PolicyRefused, match="expired"):
        verify(old, trust, seen=gap.seen, now=later(0))
    report = import_bundle(new, gap.far, trust, seen=gap.seen, now=back)
    assert any("the clock of this host is behind" in note for note in report.notes)
    newest = gap.seen.newest_time()
    assert newest is not None
    with pytest.raises(PolicyRefused, match=f"expired .* newest signed time it is {format_time(newest)}"):
        verify(old, trust, seen=gap.seen, now=back)
    fresh = Channels(gap.root / "fresh.json")
    looked = verify(new, trust, seen=fresh, now=back)
    assert any("after the clock of this host" in note for note in looked.notes)


def test_the_newest_time_is_kept_even_of_a_refused_bundle(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, later(0))
    folder, statement = exported(gap, 1)
    with pytest.raises(PolicyRefused):
        import_bundle(folder, gap.far, trusting(signer()), policy=Policy(channels=("other",)), seen=gap.seen)
    assert gap.seen.newest_time() is not None and format_time(gap.seen.newest_time() or later(9)) == statement.created
    verify(folder, trusting(signer()), seen=(fresh := Channels(gap.root / "fresh.json")))
    assert fresh.newest_time() is None, "a look remembers nothing"


def test_trust_that_had_expired_when_the_bundle_was_made_does_not_count(
    gap: Gap, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, later(0))
    folder, _ = exported(gap, 1)
    trust = trusting(signer()).with_expiry(later(-10).date())
    with pytest.raises(NotTrusted, match="expired"):
        verify(folder, trust, seen=gap.seen, now=later(-20))
    assert verify(folder, trust.with_expiry(later(10).date()), seen=gap.seen, now=later(-20)).complete


def test_a_bundle_that_expired_before_it_was_made_is_refused(gap: Gap, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, later(0))
    folder, _ = exported(gap, 1, replace(OPTIONS, expires=format_time(later(-5))))
    with pytest.raises(PolicyRefused, match="expired"):
        verify(folder, trusting(signer()), seen=gap.seen, now=later(-20))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"{}"),
        lambda path: path.write_bytes(b"[]"),
        lambda path: path.write_bytes(path.read_bytes() + b" "),
        lambda path: path.write_bytes(path.read_bytes().replace(b"newest", b"oldest")),
        lambda path: path.write_bytes(path.read_bytes().replace(b"T", b"t")),
    ],
)
def test_a_damaged_memory_of_time_stops_the_import(gap: Gap, spoil: Callable[[Path], object]) -> None:
    folder, _ = exported(gap, 1)
    gap.bring_in(path=folder)
    spoil(gap.root / "far" / "channels.time.json")
    with pytest.raises(PolicyRefused, match=r"channels\.time\.json") as caught:
        gap.bring_in(path=folder)
    assert caught.value.hint


def test_the_memory_of_an_earlier_sealift_is_read(gap: Gap) -> None:
    """Without ids: written before they were kept."""
    folder, first = exported(gap, 1)
    gap.bring_in(path=folder)
    state = gap.root / "far" / "channels.json"
    value = json.loads(state.read_text())
    del value["mine"]["ids"]
    state.write_bytes(canonical.encode(value))
    last = gap.seen.last("mine")
    assert last is not None and last.id == first.id and last.ids == ()
