"""Pull and push against a registry in memory: resume, faults, hostile answers, credentials."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import httpx
import pytest

from bundler.errors import BundlerError
from bundler.registry import limits
from bundler.registry.client import Registry
from bundler.registry.errors import Cancelled, Denied, NotThere, RegistryError, RegistryRefused, Unreachable, WrongBytes
from bundler.registry.pull import Report, pull
from bundler.registry.push import push
from bundler.transfers import as_json
from manifests.digest import Digest
from manifests.errors import NoSpace
from manifests.manifest import DOCKER_CONFIG, OLLAMA_PREFIX, Descriptor, Manifest
from manifests.name import ModelName
from manifests.store import Store
from tests.peers.registry import RegistryPeer, answers, breaks_after, changes, streamed

NAME = ModelName.parse("reg.example/library/m")
WEIGHTS = random.Random(1).randbytes(10_000)
SYSTEM = b"be brief"
CONFIG = b'{"model_format":"gguf"}'


def manifest_of(*layers: tuple[str, bytes]) -> Manifest:
    descriptors = tuple(
        Descriptor(media_type=OLLAMA_PREFIX + kind, digest=Digest.of(data), size=len(data)) for kind, data in layers
    )
    return Manifest.build(Descriptor(media_type=DOCKER_CONFIG, digest=Digest.of(CONFIG), size=len(CONFIG)), descriptors)


MANIFEST = manifest_of(("model", WEIGHTS), ("system", SYSTEM))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Small spans and no waiting; no credentials of the user who runs the tests."""
    monkeypatch.setattr(limits, "SPAN", 1000)
    monkeypatch.setattr(limits, "JOURNAL_STEP", 128)
    monkeypatch.setattr(limits, "STALL_BYTES", 1)
    monkeypatch.setattr(limits, "UPLOAD_PART", 3000)
    monkeypatch.setattr(limits, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SEALIFT_HOME", str(tmp_path / "home" / "sealift"))
    for variable in ("SEALIFT_REGISTRY_HOST", "SEALIFT_REGISTRY_USER", "SEALIFT_REGISTRY_PASSWORD", "DOCKER_CONFIG"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def peer() -> RegistryPeer:
    peer = RegistryPeer()
    peer.add("library/m", "latest", MANIFEST, {Digest.of(data): data for data in (WEIGHTS, SYSTEM, CONFIG)})
    return peer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def pulled(store: Store, peer: RegistryPeer, **options: object) -> list[Report]:
    reports: list[Report] = []
    with Registry(NAME, transport=peer.transport()) as registry:
        pull(store, registry, reports.append, **options)  # type: ignore[arg-type]
    return reports


def assert_whole(store: Store) -> None:
    manifest = store.manifest(NAME)
    assert manifest.raw == MANIFEST.raw
    for blob in manifest.blobs():
        store.verify_blob(blob.digest, blob.size)


def blob_requests(peer: RegistryPeer) -> list[httpx.Request]:
    return [request for request in peer.requests if "/blobs/sha256" in request.url.path and request.method == "GET"]


def test_a_pull_keeps_the_manifests_bytes_and_records_its_source(store: Store, peer: RegistryPeer) -> None:
    reports = pulled(store, peer)
    assert_whole(store)
    assert [report.status for report in reports][0 :: len(reports) - 1] == ["pulling manifest", "success"]
    (record,) = store.records(MANIFEST.digest)
    assert record["source"] == "https://reg.example/v2/library/m/manifests/latest" and record["tls_checked"] is True
    ranges = sorted(request.headers["range"] for request in blob_requests(peer))
    assert len(ranges) == 12 and "bytes=9000-9999" in ranges  # ten spans of the weights, two small blobs
    assert not list((store.private / "partial").iterdir())


def test_progress_has_the_shape_of_the_contract(store: Store, peer: RegistryPeer) -> None:
    lines = [as_json(report) for report in pulled(store, peer)]
    weights = [line for line in lines if line.get("digest") == str(Digest.of(WEIGHTS))]
    assert weights[-1] == {
        "status": f"pulling {Digest.of(WEIGHTS).short}", "digest": str(Digest.of(WEIGHTS)), "total": 10_000,
        "completed": 10_000,
    }  # fmt: skip
    assert {"status": "verifying sha256 digest"} in lines and {"status": "writing manifest"} in lines


def test_pulling_again_fetches_nothing_but_hashes_everything(store: Store, peer: RegistryPeer) -> None:
    pulled(store, peer)
    peer.requests.clear()
    pulled(store, peer)
    assert len(peer.requests) == 1
    data = bytearray(WEIGHTS)
    data[5000] ^= 1
    store.blob_path(Digest.of(WEIGHTS)).write_bytes(data)  # same name, same size, wrong bytes
    pulled(store, peer)
    assert_whole(store)


def test_every_kind_of_interruption_is_survived(store: Store, peer: RegistryPeer) -> None:
    peer.faults = [
        breaks_after(500, httpx.ReadError("reset")),
        breaks_after(0, httpx.ConnectError("refused")),
        breaks_after(700, httpx.ReadTimeout("stalled")),
        breaks_after(100, httpx.RemoteProtocolError("closed")),
        answers(503),
        answers(429, **{"retry-after": "0"}),
        changes(lambda body: body[:10]),
    ]
    pulled(store, peer)
    assert_whole(store)


def test_what_was_fetched_before_a_failure_is_not_fetched_again(store: Store, peer: RegistryPeer) -> None:
    peer.faults = [breaks_after(500, httpx.ReadError("reset"))] + [answers(500)] * 100
    with pytest.raises(Unreachable) as caught:
        pulled(store, peer)
    assert "same command again" in (caught.value.hint or "")
    assert not store.has(NAME)
    peer.faults.clear()
    peer.requests.clear()
    pulled(store, peer)
    assert_whole(store)
    first = min(
        int(request.headers["range"][6:].split("-")[0])
        for request in blob_requests(peer)
        if str(Digest.of(WEIGHTS)) in str(request.url)
    )
    assert first == 500


def test_a_torn_journal_costs_only_its_tail(store: Store, peer: RegistryPeer) -> None:
    peer.faults = [breaks_after(640, httpx.ReadError("reset"))] + [answers(500)] * 100
    with pytest.raises(Unreachable):
        pulled(store, peer)
    journal = store.private / "partial" / (Digest.of(WEIGHTS).hex + ".journal")
    journal.write_bytes(journal.read_bytes()[:-3] + b"\n999999 5\nnonsense")
    peer.faults.clear()
    pulled(store, peer)
    assert_whole(store)


def test_a_lying_journal_is_found_out_by_the_digest(store: Store, peer: RegistryPeer) -> None:
    folder = store.private / "partial"
    folder.mkdir(parents=True)
    (folder / Digest.of(WEIGHTS).hex).write_bytes(bytes(10_000))
    (folder / (Digest.of(WEIGHTS).hex + ".journal")).write_bytes(b"0 10000\n")
    pulled(store, peer)
    assert_whole(store)


def test_a_registry_without_ranges(store: Store, peer: RegistryPeer) -> None:
    peer.ranges = False
    peer.faults = [breaks_after(3000, httpx.ReadError("reset"))] * 3
    pulled(store, peer)
    assert_whole(store)


@pytest.mark.parametrize(
    "edit",
    [lambda body: body[:-1] + bytes([body[-1] ^ 1]), lambda body: bytes(len(body))],
)
def test_wrong_bytes_are_refused_and_never_seen(store: Store, peer: RegistryPeer, edit) -> None:  # type: ignore[no-untyped-def]
    peer.blobs[str(Digest.of(WEIGHTS))] = edit(WEIGHTS)
    with pytest.raises(WrongBytes, match="digest mismatch"):
        pulled(store, peer)
    assert not store.has(NAME) and not store.has_blob(Digest.of(WEIGHTS))


def test_more_bytes_than_asked_for_are_refused(store: Store, peer: RegistryPeer) -> None:
    peer.faults = [changes(lambda body: body + b"x")]
    with pytest.raises(WrongBytes, match="more than"):
        pulled(store, peer)


def test_another_range_than_asked_for_is_refused(store: Store, peer: RegistryPeer) -> None:
    peer.faults = [
        lambda request, response: httpx.Response(
            206, headers={"content-range": "bytes 1-1000/10000"}, content=bytes(1000)
        )
    ]
    with pytest.raises(WrongBytes, match="answered the range"):
        pulled(store, peer)


def test_the_manifests_digest_is_checked(store: Store, peer: RegistryPeer) -> None:
    pulled(store, peer, expect=MANIFEST.digest)
    with pytest.raises(WrongBytes, match="you asked for"):
        pulled(store, peer, expect=Digest.of(b"x"))
    peer.headers = {"docker-content-digest": str(Digest.of(b"x"))}
    with pytest.raises(WrongBytes, match="header says"):
        pulled(store, peer)


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>",
        b"{}",
        json.dumps(
            {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
        ).encode(),
    ],
)
def test_what_is_no_manifest_is_refused(store: Store, peer: RegistryPeer, raw: bytes) -> None:
    peer.manifests["library/m", "latest"] = raw
    with pytest.raises(WrongBytes):
        pulled(store, peer)


def test_a_digest_that_is_a_path_never_reaches_the_disk(store: Store, peer: RegistryPeer) -> None:
    peer.manifests["library/m", "latest"] = MANIFEST.raw.replace(
        str(Digest.of(WEIGHTS)).encode(), b"sha256:../../../../etc/passwd"
    )
    peer.headers = {"docker-content-digest": ""}
    with pytest.raises(WrongBytes):
        pulled(store, peer)
    assert not store.root.exists()


def test_a_missing_model(store: Store, peer: RegistryPeer) -> None:
    peer.manifests.clear()
    with pytest.raises(NotThere, match="pull model manifest: file does not exist"):
        pulled(store, peer)


def test_space_is_checked_before_the_first_byte(store: Store, peer: RegistryPeer) -> None:
    huge = json.loads(MANIFEST.raw)
    huge["layers"][0]["size"] = 1 << 43
    peer.manifests["library/m", "latest"] = json.dumps(huge).encode()
    with pytest.raises(NoSpace):
        pulled(store, peer)
    assert not blob_requests(peer)


def test_blobs_only_the_replaced_manifest_named_go(store: Store, peer: RegistryPeer) -> None:
    pulled(store, peer)
    new = manifest_of(("model", WEIGHTS), ("system", b"other"))
    peer.add("library/m", "latest", new, {Digest.of(b"other"): b"other"})
    assert "removing unused layers" in [report.status for report in pulled(store, peer)]
    assert not store.has_blob(Digest.of(SYSTEM)) and store.has_blob(Digest.of(WEIGHTS))


def test_cancelled(store: Store, peer: RegistryPeer) -> None:
    calls = iter([False] * 4 + [True] * 1000)
    with (
        Registry(NAME, transport=peer.transport(), cancelled=lambda: next(calls)) as registry,
        pytest.raises(Cancelled),
    ):
        pull(store, registry, lambda report: None)
    pulled(store, peer)
    assert_whole(store)


# -- credentials


def test_the_token_goes_to_the_registry_and_not_to_its_cdn(store: Store, peer: RegistryPeer) -> None:
    peer.token, peer.cdn = "t0ken", "https://cdn.example"
    pulled(store, peer)
    assert_whole(store)
    at_cdn = [request for request in peer.requests if request.url.host == "cdn.example"]
    assert at_cdn and not any("authorization" in request.headers for request in at_cdn)
    assert any(request.headers.get("authorization") == "Bearer t0ken" for request in peer.requests)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_basic_credentials_go_to_the_realm(store: Store, peer: RegistryPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    peer.token, peer.basic = "t", basic("u", "p")
    with pytest.raises(Denied) as caught:
        pulled(store, peer)
    assert "SEALIFT_REGISTRY_HOST" in (caught.value.hint or "")
    monkeypatch.setenv("SEALIFT_REGISTRY_USER", "u")
    monkeypatch.setenv("SEALIFT_REGISTRY_PASSWORD", "p")
    monkeypatch.setenv(
        "SEALIFT_REGISTRY_HOST", "other.example"
    )  # they are for another registry: this one never sees them
    with pytest.raises(Denied):
        pulled(store, peer)
    assert not [request for request in peer.requests if request.headers.get("authorization") == peer.basic]
    monkeypatch.setenv("SEALIFT_REGISTRY_HOST", "reg.example")
    pulled(store, peer)
    assert [request for request in peer.requests if request.headers.get("authorization") == peer.basic]


def test_credentials_of_dockers_config(store: Store, peer: RegistryPeer, tmp_path: Path) -> None:
    peer.token, peer.basic = "t", basic("u", "p")
    path = tmp_path / "home" / ".docker" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"auths": {"reg.example": {"auth": peer.basic[6:]}, "other.example": {"auth": "eDp5"}}}))
    pulled(store, peer)


def test_who_is_not_let_in_is_told_why(
    store: Store, peer: RegistryPeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and passwords that are there and not enough, or for another host, or where we do not look."""
    peer.token, peer.basic = "t", basic("u", "p")

    def hint() -> str:
        with pytest.raises(Denied) as caught:
            pulled(store, peer)
        return caught.value.hint or ""

    assert "or log in with docker" in hint()
    path = tmp_path / "home" / ".docker" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"auths": {"reg.example": {}}, "credsStore": "desktop"}')
    assert "credential helper" in hint()
    path.write_text(json.dumps({"auths": {"reg.example": {"auth": basic("u", "q")[6:]}}}))
    assert hint() == "the name and password of docker's config.json were not enough"
    monkeypatch.setenv("SEALIFT_REGISTRY_USER", "u")
    monkeypatch.setenv("SEALIFT_REGISTRY_PASSWORD", "wrong")
    assert hint().endswith("SEALIFT_REGISTRY_HOST must be reg.example")
    monkeypatch.setenv("SEALIFT_REGISTRY_HOST", "reg.example")
    assert hint() == "the name and password of SEALIFT_REGISTRY_USER and _PASSWORD were not enough"


def test_a_realm_over_plain_http_gets_nothing(
    store: Store, peer: RegistryPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.token, peer.realm = "t", "http://evil.example/token"
    monkeypatch.setenv("SEALIFT_REGISTRY_HOST", "reg.example")
    monkeypatch.setenv("SEALIFT_REGISTRY_USER", "u")
    monkeypatch.setenv("SEALIFT_REGISTRY_PASSWORD", "p")
    with pytest.raises(Denied, match="plain http"):
        pulled(store, peer)
    assert not [request for request in peer.requests if request.url.host == "evil.example"]


def test_ollamas_registry_gets_a_signed_request(store: Store, peer: RegistryPeer) -> None:
    peer.token, peer.realm = "t", "https://registry.ollama.ai/token"
    with Registry(ModelName.parse("m"), transport=peer.transport()) as registry:
        pull(store, registry, lambda report: None)
    (asked,) = [request for request in peer.requests if request.url.path == "/token"]
    public, _, signature = asked.headers["authorization"].partition(":")
    blob = base64.b64decode(public)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = Ed25519PublicKey.from_public_bytes(blob[-32:])
    # contract, 4.2: "GET,<url>,<base64 of hex sha256 of the empty body>"
    empty = base64.b64encode(b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855").decode()
    key.verify(base64.b64decode(signature), f"GET,{asked.url},{empty}".encode())


def test_a_redirect_to_plain_http_is_refused(store: Store, peer: RegistryPeer) -> None:
    peer.cdn = "http://cdn.example"
    with pytest.raises(WrongBytes, match="https to http"):
        pulled(store, peer)


def test_a_redirect_loop_ends(store: Store, peer: RegistryPeer) -> None:
    def loop(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": str(request.url)})

    with (
        Registry(NAME, transport=httpx.MockTransport(lambda request: streamed(loop(request)))) as registry,
        pytest.raises(RegistryError, match="redirects"),
    ):
        pull(store, registry, lambda report: None)


def test_errors_are_short_and_without_secrets(store: Store) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(418, content=b"\x1b[31m" + b"x" * 1_000_000)

    with (
        Registry(NAME, transport=httpx.MockTransport(lambda request: streamed(refuse(request)))) as registry,
        pytest.raises(RegistryRefused) as caught,
        registry.request("GET", "https://user:pw@reg.example/v2/?signature=secret"),
    ):
        pass
    text = str(caught.value)
    assert len(text) < 500 and "secret" not in text and "pw" not in text and "\x1b" not in text


def test_http_needs_insecure() -> None:
    with pytest.raises(RegistryError, match="insecure protocol http"):
        Registry(ModelName.parse("http://reg.example/library/m"))
    with pytest.raises(BundlerError, match="not a file of PEM"):
        Registry(NAME, ca=Path("/nonexistent"))


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="http://["',
        'Bearer realm="https://[::1"',
        'Bearer realm="https://a b/"',
        'Bearer realm="file:///etc/passwd"',
        "Bearer",
        "",
        "\x7f",
    ],
)
def test_a_challenge_that_makes_no_sense(store: Store, peer: RegistryPeer, challenge: str) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        return httpx.Response(401, headers={"www-authenticate": challenge})

    with (
        Registry(NAME, transport=httpx.MockTransport(lambda request: streamed(refuse(request)))) as registry,
        pytest.raises(RegistryError),
    ):
        pull(store, registry, lambda report: None)


@pytest.mark.parametrize(
    "location", ["http://[", "https://[::1", "file:///etc/passwd", "//", "https://x:99999999/", "https://\u20ac\u202e/"]
)
def test_a_redirect_that_leads_nowhere(store: Store, location: str) -> None:
    def redirect(request: httpx.Request) -> httpx.Response:
        if request.url.host != "reg.example":
            raise httpx.ConnectError("no such host")
        return httpx.Response(302, headers=[(b"location", location.encode())])

    with (
        Registry(NAME, transport=httpx.MockTransport(lambda request: streamed(redirect(request)))) as registry,
        pytest.raises(RegistryError),
    ):
        pull(store, registry, lambda report: None)


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[]",
        "{}",
        '{"auths": null}',
        '{"auths": []}',
        '{"auths": {"reg.example": 5}}',
        '{"auths": {"reg.example": {"auth": "\u20ac"}}}',
        "[" * 100_000,
    ],
)
def test_a_docker_config_of_any_shape(store: Store, peer: RegistryPeer, tmp_path: Path, text: str) -> None:
    path = tmp_path / "home" / ".docker" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    peer.token = "t"
    pulled(store, peer)


def test_an_identity_with_a_passphrase_is_passed_over(store: Store, peer: RegistryPeer, tmp_path: Path) -> None:
    from bundler.registry.access import signed_request

    def text(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    public = text(text(b"ssh-ed25519") + text(bytes(32)))
    options = text(text(bytes(16)) + (16).to_bytes(4, "big"))  # salt and rounds, openssh/PROTOCOL.key
    raw = (
        b"openssh-key-v1\0"
        + text(b"aes256-ctr")
        + text(b"bcrypt")
        + options
        + (1).to_bytes(4, "big")
        + public
        + text(bytes(160))
    )
    path = tmp_path / "home" / ".ollama" / "id_ed25519"
    path.parent.mkdir(parents=True)
    armour = "-----BEGIN OPENSSH PRIVATE KEY-----\n%s\n-----END OPENSSH PRIVATE KEY-----\n"
    path.write_text(armour % base64.b64encode(raw).decode())
    assert ":" in signed_request("https://registry.ollama.ai/token")
    assert (tmp_path / "home" / "sealift" / "registry_ed25519").stat().st_mode & 0o777 == 0o600


def test_an_unfinished_line_of_a_journal_does_not_spoil_the_next(store: Store, peer: RegistryPeer) -> None:
    """A full disk can cut a line. What is appended later must not become one number with it."""
    peer.faults = [breaks_after(640, httpx.ReadError("reset"))] + [answers(500)] * 100
    with pytest.raises(Unreachable):
        pulled(store, peer)
    journal = store.private / "partial" / (Digest.of(WEIGHTS).hex + ".journal")
    with journal.open("ab") as out:
        out.write(b"9")  # "9" and "640 128" would read "9640 128": bytes nobody fetched
    peer.faults = [breaks_after(200, httpx.ReadError("reset"))] + [answers(500)] * 100
    with pytest.raises(Unreachable):
        pulled(store, peer)
    peer.faults.clear()
    peer.requests.clear()
    reports = pulled(store, peer)
    assert_whole(store)
    starts = [
        int(request.headers["range"][6:].split("-")[0])
        for request in blob_requests(peer)
        if str(Digest.of(WEIGHTS)) in str(request.url)
    ]
    assert min(starts) == 840 and len(set(starts)) == len(
        starts
    )  # all that came is remembered, nothing is fetched twice
    assert reports[-1].status == "success"


# -- push


def stored(store: Store) -> Manifest:
    for data in (WEIGHTS, SYSTEM, CONFIG):
        store.put_bytes(data)
    return store.put_manifest(NAME, MANIFEST.raw)


def pushed(store: Store, peer: RegistryPeer) -> list[Report]:
    reports: list[Report] = []
    with Registry(NAME, transport=peer.transport()) as registry:
        push(store, NAME, registry, reports.append)
    return reports


def test_what_is_pushed_can_be_pulled(store: Store, tmp_path: Path) -> None:
    peer = RegistryPeer()
    stored(store)
    reports = pushed(store, peer)
    assert reports[0].status == "retrieving manifest" and reports[-1].status == "success"
    other = Store(tmp_path / "other")
    pulled(other, peer)
    assert_whole(other)
    peer.requests.clear()
    pushed(store, peer)
    assert {request.method for request in peer.requests} == {"HEAD", "PUT"}  # nothing is sent again


def test_a_broken_upload_goes_on_from_where_the_registry_is(store: Store) -> None:
    peer = RegistryPeer()
    stored(store)
    peer.upload_faults = [answers(500), answers(503)]
    pushed(store, peer)
    assert peer.blobs[str(Digest.of(WEIGHTS))] == WEIGHTS
    starts = [request.headers["content-range"] for request in peer.requests if request.method == "PATCH"]
    assert starts[:3] == ["0-2999", "1500-4499", "3000-5999"]


def test_a_damaged_blob_is_not_pushed(store: Store) -> None:
    stored(store)
    store.blob_path(Digest.of(SYSTEM)).write_bytes(b"be Brief")
    peer = RegistryPeer()
    with pytest.raises(Exception, match="hash to"):
        pushed(store, peer)
    assert not peer.requests


def test_an_upload_is_not_led_to_plain_http(store: Store) -> None:
    stored(store)

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return httpx.Response(202, headers={"location": "http://elsewhere.example/upload"})
        return httpx.Response(404)

    with (
        Registry(NAME, transport=httpx.MockTransport(lambda request: streamed(answer(request)))) as registry,
        pytest.raises(WrongBytes, match="from https to http"),
    ):
        push(store, NAME, registry, lambda report: None)


def test_a_killed_push_goes_on_in_the_next_run(store: Store) -> None:
    stored(store)
    peer = RegistryPeer()

    class Killed(BaseException):
        pass

    def kill(report: Report) -> None:
        if report.completed >= 6000:
            raise Killed

    with Registry(NAME, transport=peer.transport()) as registry, pytest.raises(Killed):
        push(store, NAME, registry, kill)
    peer.requests.clear()
    pushed(store, peer)
    starts = [request.headers["content-range"] for request in peer.requests if request.method == "PATCH"]
    assert starts[:2] == ["6000-8999", "9000-9999"]
    assert peer.blobs[str(Digest.of(WEIGHTS))] == WEIGHTS
    assert not list((store.private / "uploads").iterdir())


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "http://[", "file:///etc/passwd", "https://reg.example/v2/library/m/blobs/uploads/99", "\u20ac"],
)
def test_a_remembered_upload_that_is_none(store: Store, text: str) -> None:
    stored(store)
    peer = RegistryPeer(uploads={"99": bytearray(b"foreign")})
    folder = store.private / "uploads"
    folder.mkdir(parents=True)
    for digest in (Digest.of(data) for data in (WEIGHTS, SYSTEM, CONFIG)):
        (folder / Digest.of(f"https://reg.example/v2/library/m {digest}".encode()).hex).write_text(text)
    for _ in range(4):  # each refusal forgets one address
        try:
            pushed(store, peer)
            break
        except RegistryRefused:
            continue
    assert peer.blobs[str(Digest.of(WEIGHTS))] == WEIGHTS and ("library/m", "latest") in peer.manifests


def test_a_host_that_never_answers_is_given_up_soon(store: Store) -> None:
    stored(store)
    tries: list[httpx.Request] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        tries.append(request)
        raise httpx.ConnectError("refused")

    with (
        Registry(NAME, transport=httpx.MockTransport(refuse)) as registry,
        pytest.raises(Unreachable, match="tried 3 times"),
    ):
        push(store, NAME, registry, lambda report: None)
    assert len(tries) == 1 + limits.FIRST_RETRIES
