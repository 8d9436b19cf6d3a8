"""Keys of the server: the file they lie in, who counts, and their limits."""

from __future__ import annotations

import hmac
import os
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sealift
from manifests.name import ModelName
from runtime.access import entries as entries_module
from runtime.access.access import Access, Peer
from runtime.access.entries import KEY, NAME, Entry, decode, encode, matches, new_key, read, write
from runtime.access.limits import INTERVALS, Limiter, Rate
from runtime.access.register import end_of, make, remove
from runtime.access.scopes import SCOPES
from runtime.errors import RequestRefused, TooManyRequests, Unauthorized

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=timezone.utc)
HASH = "a" * 64

names = st.from_regex(NAME, fullmatch=True)
rates = st.builds(Rate, st.integers(1, 999_999_999), st.sampled_from(sorted(INTERVALS)))
whos = st.one_of(
    st.builds(lambda text: {"sha256": text}, st.from_regex(r"[0-9a-f]{64}", fullmatch=True)),
    st.builds(lambda text: {"certificate": text}, st.from_regex(r"[0-9a-f]{64}", fullmatch=True)),
    st.just({"subject": 'a "quoted" \\ CN=é'}),
)


@st.composite
def made_entries(draw: st.DrawFn) -> tuple[Entry, ...]:
    found = []
    for name in draw(st.lists(names, max_size=4, unique=True)):
        entry = Entry(
            name=name,
            scopes=tuple(draw(st.lists(st.sampled_from(SCOPES), unique=True))),
            models=tuple(draw(st.lists(st.sampled_from(["llama3.2", "acme/*", "*", "a:b"]), unique=True))),
            rate=draw(st.none() | rates),
            concurrent=draw(st.integers(0, 9)),
            created="2026-11-26T12:00:00Z",
            expires=draw(st.sampled_from(["", "2027-01-01T00:00:00Z"])),
            **draw(whos),
        )
        found.append(entry)
    return tuple(found)


@given(made_entries())
def test_what_is_written_is_read(entries: tuple[Entry, ...]) -> None:
    assert decode(encode(entries)) == entries


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("key = 3", "key"),
        ("x = 1", "unknown field"),
        ("[[key]]\nname='a'\nscopes=[]", "expected one of sha256"),
        (f"[[key]]\nname='a'\nsha256='{HASH}'\ncertificate='{HASH}'\nscopes=[]", "expected one of sha256"),
        (f"[[key]]\nname='a'\nsha256='{HASH[1:]}'\nscopes=[]", "sha256"),
        (f"[[key]]\nname='a b'\nsha256='{HASH}'\nscopes=[]", "name"),
        (f"[[key]]\nname='a'\nsha256='{HASH}'", r"key\[0\].scopes: missing"),
        (f"[[key]]\nname='a'\nsha256='{HASH}'\nscopes=['root']", "unknown scope 'root'"),
        (f"[[key]]\nname='a'\nsha256='{HASH}'\nscopes=['read']\nmodel='x'", "unknown field"),
        (f"[[key]]\nname='a'\nsha256='{HASH}'\nscopes=['read']\nmodels=[]", "an empty list would mean all"),
        (f"[[key]]\nname='a'\nsha256='{HASH}'\nscopes=['read']\nmodels=['../x']", "not a model name"),
        (f"[[key]]\nname='a'\nsha256='{HASH}'\nscopes=['read']\nmodels=['x\\ny*']", "not TOML|bad pattern"),
        (f"[[key]]\nname='a'\nsha256='{HASH}'\nscopes=['read']\nrate='60'", "bad rate"),
        (f"[[key]]\nname='a'\nsha256='{HASH}'\nscopes=['read']\nconcurrent=true", "concurrent"),
        (f"[[key]]\nname='a'\nsha256='{HASH}'\nscopes=['read']\nexpires='2027-13-01T00:00:00Z'", "is no time"),
        (f"[[key]]\nname='a'\nsha256='{HASH}'\nscopes=[]\n" * 2, "two keys are called 'a'"),
        ("\x00", "not TOML"),
    ],
)
def test_a_damaged_file_is_refused_by_place(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(RequestRefused, match=problem) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_file_is_bounded_and_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    assert read(path) == ()
    write(path, [])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(RequestRefused, match="others than its owner") as caught:
            read(path)
        assert caught.value.hint == f"chmod 600 {path}"
    with pytest.raises(RequestRefused, match="more than"):
        decode(b"#" * (entries_module.MAX_BYTES + 1))
    path.unlink()
    os.mkfifo(path, 0o600)
    assert read(path) == (), "a pipe does not hang the reader"


def test_a_write_that_fails_leaves_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "access.toml"
    make(path, "a")
    before = path.read_bytes()

    def full(file: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(entries_module, "sync_file", full)
    with pytest.raises(RequestRefused, match="No space left"):
        make(path, "b")
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["access.toml"]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (
            "llama3.2",
            ["llama3.2", "LLAMA3.2:latest", "registry.ollama.ai/library/llama3.2"],
            ["llama3.2:1b", "a/llama3.2"],
        ),
        ("llama3.2:*", ["llama3.2", "llama3.2:1b"], ["llama3.20", "xllama3.2:1b", "acme/llama3.2"]),
        ("acme/*", ["acme/x", "ACME/y:z"], ["x", "evil.example/acme/x", "acme2/x"]),
        ("*", ["x", "h/n/m:t"], []),
        ("a.c", ["a.c"], ["abc"]),
        ("hub.corp/*/m:*", ["hub.corp/x/m:1"], ["hub.corp/x/mm:1"]),
    ],
)
def test_models_match_as_in_the_store(pattern: str, yes: list[str], no: list[str]) -> None:
    assert all(matches(pattern, ModelName.parse(name)) for name in yes)
    assert not any(matches(pattern, ModelName.parse(name)) for name in no)


# -- who


def bearer(key: str) -> tuple[str, str]:
    return f"Bearer {key}", ""


def test_a_key_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    entry, key = make(path, "wiki", now=NOW)
    assert KEY.fullmatch(key) and key not in path.read_text() and key[5:] not in path.read_text()
    assert len({new_key()[0] for _ in range(99)}) == 99
    access = Access(path)
    assert access.identify(*bearer(key)) == access.identify("", key) == entry
    assert access.identify(f"bearer  {key} ", "") == entry
    assert access.identify("Bearer none", key) == entry, "clients must send something"
    for wrong in (key[:-1], key + "x", key[:-1] + ("A" if key[-1] != "A" else "B"), key.lower(), entry.sha256, "none"):
        with pytest.raises(Unauthorized, match="not a key of this server"):
            access.identify(*bearer(wrong))
    for nothing in ("", "Basic d2lraTo=", "Bearer"):
        with pytest.raises(Unauthorized, match="asks for a key"):
            access.identify(nothing, "")


def test_every_entry_is_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "access.toml"
    keys = [make(path, f"k{i}")[1] for i in range(5)]
    access, seen = Access(path), []
    real = hmac.compare_digest

    def counting(a: str, b: str) -> bool:
        seen.append((a, b))
        return bool(real(a, b))

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for key in (keys[0], keys[4]):
        seen.clear()
        access.identify(*bearer(key))
        assert len(seen) == 5
    seen.clear()
    with pytest.raises(Unauthorized):
        access.identify(*bearer(new_key()[0]))
    assert len(seen) == 5


def test_keys_expire_and_days_end_in_utc(tmp_path: Path) -> None:
    path, now = tmp_path / "access.toml", [NOW]
    _, key = make(path, "a", expires="2026-11-26", now=NOW)
    access = Access(path, now=lambda: now[0])
    access.identify(*bearer(key))
    now[0] = datetime(2026, 11, 26, 23, 59, 59, tzinfo=timezone.utc)
    access.identify(*bearer(key))
    now[0] += timedelta(seconds=1)
    with pytest.raises(Unauthorized, match="not a key of this server"):
        access.identify(*bearer(key))
    assert end_of("90d", NOW) == NOW + timedelta(days=90)
    for wrong in ("2026-11-25", "tomorrow", "0d", "9999-12-31"):
        with pytest.raises(RequestRefused):
            end_of(wrong, NOW)


def test_a_certificate_stands_for_a_key(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    write(
        path, [Entry(name="f", certificate=HASH, scopes=("read",)), Entry(name="s", subject="ops", scopes=("admin",))]
    )
    _, key = make(path, "k")
    access = Access(path)
    mine, ops = Peer(certificate=HASH, subject=""), Peer(certificate="b" * 64, subject="ops")
    assert access.identify("", "", mine).name == access.identify("Bearer none", "", mine).name == "f"
    assert access.identify("", "", ops).name == "s"
    assert access.identify(*bearer(key), ops).name == "k", "a key goes before the certificate"
    for peer in (None, Peer(certificate="", subject=""), Peer(certificate="c" * 64, subject="")):
        with pytest.raises(Unauthorized):
            access.identify("", "", peer)


def test_the_file_is_read_again_when_it_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "access.toml"
    _, first = make(path, "first")
    access = Access(path)
    _, second = make(path, "second")
    assert access.identify(*bearer(second)).name == "second"
    remove(path, "first")
    with pytest.raises(Unauthorized):
        access.identify(*bearer(first))
    path.write_text("nonsense")
    assert access.identify(*bearer(second)).name == "second", "damage changes nothing"
    assert "the keys stay as they were" in caplog.text and "nonsense" not in caplog.text
    path.unlink()
    with pytest.raises(Unauthorized):
        access.identify(*bearer(second))


# -- limits


@given(st.integers(1, 50), st.sampled_from("smhd"), st.lists(st.floats(0, 200), max_size=60))
@example(1, "m", [0.0, 0.0, 0.0, 0.0, 1.0236484443738831, 0.0])  # sixty seconds that add up to less
def test_in_any_time_no_more_pass_than_one_burst_and_the_rate(count: int, interval: str, waits: list[float]) -> None:
    now, passed = [0.0], 0
    rate = Rate(count, interval)
    limiter = Limiter(rate=rate, clock=lambda: now[0])
    for wait in waits:
        now[0] += wait
        try:
            with limiter.admitted():
                passed += 1
        except TooManyRequests as refused:
            later = now[0] + refused.retry_after
            assert refused.retry_after >= 1
            old, now[0] = now[0], later
            with limiter.admitted():
                passed += 1  # whoever waits as long as told is let in
            assert later >= old
        assert passed <= count + now[0] * rate.per_second + 1e-6


def test_a_burst_passes_then_evenly() -> None:
    now = [100.0]
    limiter = Limiter(rate=Rate.parse("60/m"), clock=lambda: now[0])
    for _ in range(60):
        with limiter.admitted():
            pass
    with pytest.raises(TooManyRequests, match="60/m") as caught, limiter.admitted():
        pass
    assert caught.value.retry_after == 1
    now[0] += 1.0
    with limiter.admitted():
        pass
    with pytest.raises(TooManyRequests), limiter.admitted():
        pass


def test_places_are_given_back_whatever_happens() -> None:
    limiter = Limiter(rate=Rate.parse("4/d"), concurrent=2, clock=lambda: 0.0)
    with limiter.admitted(), limiter.admitted():
        for _ in range(9):
            with pytest.raises(TooManyRequests, match="2 requests under way"), limiter.admitted():
                pass
    with pytest.raises(ZeroDivisionError), limiter.admitted():
        _ = 1 // 0
    assert limiter.running == 0
    with limiter.admitted():
        pass  # the fourth: those that found no place took nothing from the rate


def test_limits_outlive_a_reload_and_follow_a_change(tmp_path: Path) -> None:
    path = tmp_path / "access.toml"
    _, key = make(path, "a", rate="1/d")
    access = Access(path, clock=lambda: 0.0)
    with access.admitted(access.identify(*bearer(key))):
        pass
    make(path, "b")
    with pytest.raises(TooManyRequests), access.admitted(access.identify(*bearer(key))):
        pass
    path.write_text(path.read_text().replace("1/d", "2/d"))
    with access.admitted(access.identify(*bearer(key))):
        pass


# -- the verbs


def test_the_verbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SEALIFT_ACCESS", raising=False)
    words = ["access", "add", "wiki", "--scope", "infer, read", "--model", "acme/*", "--rate", "60/m"]
    assert sealift.run([*words, "--concurrent", "4", "--expires", "2999-12-31"]) == 0
    key, err = capsys.readouterr()
    assert KEY.fullmatch(key.strip()) and key.strip() not in err
    assert stat.S_IMODE((tmp_path / "home/access.toml").stat().st_mode) == 0o600
    assert sealift.run(["access", "list"]) == 0
    out = capsys.readouterr().out
    assert "wiki" in out and "60/m" in out and "acme/*" in out and "3000-01-01" in out and "slft_" not in out
    assert sealift.run(["access", "add", "wiki"]) == 1
    assert "wiki has access already" in capsys.readouterr().err
    for wrong in (
        ["a b"],
        ["a", "--scope", "root"],
        ["a", "--scope", "read,"],
        ["a", "--rate", "often"],
        ["a", "--model", "../x"],
    ):
        assert sealift.run(["access", "add", *wrong]) == 1
    assert sealift.run(["access", "add", "--", "-x"]) == 1
    assert sealift.run(["access", "revoke", "nobody"]) == 1
    assert sealift.run(["access", "revoke", "wiki"]) == 0
    assert read(tmp_path / "home/access.toml") == ()
