"""`sealift serve` as an administrator runs it: keys, TLS with and without client certificates, SIGHUP, read-only; and
all that the process ever printed, searched for secrets."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import ollama
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from manifests.store import Store
from runtime.access.register import fingerprint, make, remove
from runtime.address import parse_address
from runtime.client import Client
from runtime.errors import RequestRefused, ServerUnreachable
from runtime.starting import keys_of
from runtime.tls import client_context, server_context
from runtime.told import TlsFiles, resolve
from tests.peers.scripted import small_store

ROOT = Path(__file__).parents[2]


class Authority:
    """Issues certificates for a day; each is two PEM files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.pem = folder / f"{name}.pem"
        self.pem.write_bytes(self._sign(self.name, self._key, ca=True).public_bytes(Encoding.PEM))

    def issue(self, file: str, common_name: str) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        pem, private = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        pem.write_bytes(self._sign(subject, key, ca=False).public_bytes(Encoding.PEM))
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pem, private

    def _sign(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool) -> x509.Certificate:
        now = datetime.now(timezone.utc)
        local = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        builder = (
            x509.CertificateBuilder(self.name, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(local, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if ca:  # what Python 3.13 asks of an authority (RFC 5280, 4.2.1)
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            builder = builder.add_extension(usage, critical=True)
        return builder.sign(self._key, hashes.SHA256())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("process")


@pytest.fixture(scope="module")
def store(place: Path) -> Store:
    return small_store(place)


@pytest.fixture(scope="module")
def authority(place: Path) -> Authority:
    return Authority(place, "authority")


class Running:
    """What a server prints is kept whole; `said` waits for a line of it."""

    def __init__(self, store: Store, *words: str) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SEALIFT_H", "OLLAMA_"))}
        env |= {"PYTHONPATH": str(ROOT), "SEALIFT_MODELS": str(store.root), "SEALIFT_HOME": str(store.root.parent)}
        command = [sys.executable, str(ROOT / "sealift.py"), "serve", "--port", "0", *words]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env
        )
        self.output = bytearray()
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.output += line
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def said(self, text: str, *, after: int = 0) -> str:
        def found() -> bool:
            return text.encode() in self.output[after:] or not self._reader.is_alive()

        with self._news:
            assert self._news.wait_for(found, 60), self.output.decode()
            return self.output[after:].decode()

    @property
    def url(self) -> str:
        line = next(line for line in self.said("listening on").splitlines() if "listening on" in line)
        return line.partition("listening on ")[2].partition(",")[0].replace("127.0.0.1", "localhost")

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._reader.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert code == 0, self.output.decode()
        return self.output.decode()


@contextlib.contextmanager
def serving(store: Store, *words: str) -> Iterator[Running]:
    server = Running(store, *words)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def until(check: Callable[[], bool]) -> None:
    """The server takes a signal when its loop comes round."""
    end = time.monotonic() + 60
    while not check():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_keys_over_tls_with_real_clients_reloads_and_no_secret_in_the_log(
    store: Store, place: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, (cert, key) = place / "keys.toml", authority.issue("server", "localhost")
    _, ours = make(keys, "app", scopes="infer,read")
    words = ("--access-file", str(keys), "--tls-cert", str(cert), "--tls-key", str(key), "--log-level", "debug")
    tls = client_context(str(authority.pem))
    with serving(store, *words) as server:
        url = server.url
        assert url.startswith("https://")
        bearer = {"authorization": f"Bearer {ours}"}
        with httpx.Client(verify=tls, timeout=60) as plain:
            assert plain.get(f"{url}/api/tags").status_code == 401
            assert plain.get(f"{url}/health").status_code == 200
        native = ollama.Client(host=url, headers=bearer, verify=tls)
        greedy = {"num_predict": 3, "temperature": 0}  # any other answer may end before its third token
        assert native.generate("demo", "Hi", options=greedy).eval_count == 3
        assert list(native.generate("demo", "Hi", stream=True, options=greedy))[-1].done
        native._client.close()
        http = openai.DefaultHttpxClient(verify=tls)
        with openai.OpenAI(base_url=f"{url}/v1", api_key=ours, http_client=http) as client:
            stream = client.chat.completions.create(
                model="demo", messages=[{"role": "user", "content": "Hi"}], max_tokens=3, temperature=0, stream=True
            )
            assert list(stream)[-1].choices[0].finish_reason == "length"
        monkeypatch.setenv("SEALIFT_CA", str(authority.pem))
        monkeypatch.setenv("SEALIFT_API_KEY", ours)
        with Client(parse_address(url)) as own:
            assert own.get("/api/ps")["models"][0]["name"] == "demo:latest"
        monkeypatch.delenv("SEALIFT_CA")
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with Client(parse_address(url)) as own, pytest.raises(ServerUnreachable, match="cannot be trusted"):
            own.get("/api/ps")

        # a new certificate, a new key, and one that is taken away, without a restart
        before = tls_serial(url, authority.pem)
        new_cert, new_key = authority.issue("renewed", "localhost")
        cert.write_bytes(new_cert.read_bytes())
        server.process.send_signal(signal.SIGHUP)
        server.said("the certificate stays as it was")  # its key is another one's
        assert tls_serial(url, authority.pem) == before
        key.write_bytes(new_key.read_bytes())
        _, second = make(keys, "second")
        remove(keys, "app")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: tls_serial(url, authority.pem) != before)
        with httpx.Client(verify=tls, timeout=60) as plain:
            assert plain.get(f"{url}/api/tags", headers=bearer).status_code == 401
            assert plain.get(f"{url}/api/tags", headers={"x-api-key": second}).status_code == 200
        output = server.stop()
    for secret in (ours, second, ours[5:25], key.read_text().splitlines()[1]):
        assert secret not in output
    assert "route=/api/generate status=200" in output and "denied=key" in output
    assert "Traceback" not in output


def tls_serial(url: str, ca: Path) -> int:
    """Of the certificate that a new connection gets."""
    host, port = httpx.URL(url).host, httpx.URL(url).port or 443
    return x509.load_pem_x509_certificate(
        ssl.get_server_certificate((host, port), ca_certs=str(ca)).encode()
    ).serial_number


def test_a_client_certificate_is_asked_for_and_stands_for_a_key(
    store: Store, place: Path, authority: Authority
) -> None:
    strangers = Authority(place, "strangers")
    cert, key = authority.issue("mutual", "localhost")
    by_print, by_name, unknown = (authority.issue(file, name) for file, name in (("p", "p"), ("n", "wiki"), ("u", "u")))
    keys = place / "mutual.toml"
    make(keys, "print", certificate=by_print[0], scopes="read")
    make(keys, "name", subject="wiki", scopes="metrics")
    words = ("--auth", "--access-file", str(keys), "--tls-cert", str(cert), "--tls-key", str(key))
    with serving(store, *words, "--tls-client-ca", str(authority.pem), "--log-format", "json") as server:
        url = json.loads(server.said("listening on").splitlines()[0])["message"].split()[2].rstrip(",")
        url = url.replace("127.0.0.1", "localhost")

        def status(pair: tuple[Path, Path] | None, path: str) -> int:
            context = client_context(str(authority.pem), *(map(str, pair) if pair else ()))
            with httpx.Client(verify=context, timeout=60) as client:
                return client.get(f"{url}{path}").status_code

        assert status(by_print, "/api/tags") == 200 and status(by_print, "/metrics") == 403
        assert status(by_name, "/metrics") == 200 and status(by_name, "/api/tags") == 403
        assert status(unknown, "/api/tags") == 401
        for pair in (None, strangers.issue("s", "wiki")):
            with pytest.raises(httpx.TransportError):
                status(pair, "/health")
        output = server.stop()
    said = [json.loads(line) for line in output.splitlines()]
    assert [line["key"] for line in said if line.get("route") == "/api/tags"] == ["print", "name"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_old_tls_is_not_spoken(authority: Authority, version: ssl.TLSVersion) -> None:
    cert, key = authority.issue("versions", "localhost")
    context = server_context(TlsFiles(certificate=cert, key=key))
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2 <= version
    assert client_context(str(authority.pem)).verify_mode == ssl.CERT_REQUIRED


def test_files_that_are_no_good_are_refused_by_name(place: Path, authority: Authority) -> None:
    cert, key = authority.issue("good", "localhost")
    other = authority.issue("other", "localhost")[1]
    bad = place / "bad.pem"
    bad.write_text("nonsense")
    for files in (
        TlsFiles(certificate=bad, key=key),
        TlsFiles(certificate=cert, key=other),
        TlsFiles(certificate=cert, key=place / "absent"),
    ):
        with pytest.raises(RequestRefused, match="--tls-cert"):
            server_context(files)
    with pytest.raises(RequestRefused, match="--tls-client-ca"):
        server_context(TlsFiles(certificate=cert, key=key, client_ca=bad))
    with pytest.raises(RequestRefused, match="authorities"):
        client_context(str(bad))
    with pytest.raises(RequestRefused, match="not a certificate"):
        fingerprint(bad)


def test_how_open_a_server_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEALIFT_ACCESS", str(place / "absent.toml"))
    local, everywhere = parse_address(""), parse_address("0.0.0.0")
    assert keys_of(resolve(local)) is None
    for told in (resolve(everywhere), resolve(local, auth=True), resolve(local, access_file=place / "absent.toml")):
        with pytest.raises(RequestRefused, match="there are no keys in") as caught:
            keys_of(told)
        assert caught.value.hint is not None and "sealift access add NAME" in caught.value.hint
    assert keys_of(resolve(everywhere, auth=False)) is None
    make(place / "one.toml", "one")
    found = keys_of(resolve(everywhere, access_file=place / "one.toml"))
    assert found is not None and len(found.entries) == 1
    with pytest.raises(RequestRefused, match="give one of them"):
        resolve(local, auth=False, access_file=place / "one.toml")
    wrongs: tuple[dict[str, Any], ...] = ({"tls_cert": place}, {"tls_key": place}, {"tls_client_ca": place})
    for wrong in wrongs:
        with pytest.raises(RequestRefused, match="TLS needs a certificate and its key"):
            resolve(local, **wrong)
    assert resolve(parse_address("https://h"), tls_cert=place, tls_key=place).address.url == "https://h:443"
    unknown: tuple[dict[str, Any], ...] = ({"log_format": "xml"}, {"log_level": "loud"})
    for wrong in unknown:
        with pytest.raises(RequestRefused, match="unknown"):
            resolve(local, **wrong)
    assert resolve(local).log_level == "info"
    for told, level in (("1", "debug"), ("2", "debug"), ("false", "info")):
        monkeypatch.setenv("OLLAMA_DEBUG", told)
        assert (resolve(local).log_level, resolve(local, log_level="error").log_level) == (level, "error")


def test_a_read_only_server_makes_no_pack_either(store: Store) -> None:
    def state() -> set[tuple[str, int]]:
        return {(str(path), path.stat().st_mtime_ns) for path in store.root.rglob("*")}

    before = state()
    with serving(store, "--read-only", "--log-text") as server:
        url = server.url
        body = {"model": "acme/tuned:v1", "prompt": "what I say", "stream": False, "options": {"num_predict": 2}}
        assert httpx.post(f"{url}/api/generate", json=body, timeout=60).status_code == 200
        assert httpx.request("DELETE", f"{url}/api/delete", json={"model": "demo"}, timeout=60).status_code == 403
        output = server.stop()
    assert "read-only: no request changes the store" in output
    assert "the log holds the text of every request" in output and "what I say" in output
    assert state() == before


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_the_unit_in_the_docs_is_one(place: Path) -> None:
    text = (ROOT / "docs/serving.md").read_text()
    unit = text.partition("```ini\n")[2].partition("```")[0]
    program = "/opt/sealift/bin/sealift"
    assert f"ExecStart={program} serve" in unit
    path = place / "sealift.service"
    path.write_text(unit.replace(program, sys.executable))  # that it is there is checked too
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "sealift.service" not in done.stderr, done.stderr
    path.write_text(path.read_text() + "NoNewPrivilege=yes\n")
    done = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, timeout=60)
    assert "sealift.service" in done.stderr, "this test sees a mistake"


def test_models_are_loaded_at_the_start(store: Store) -> None:
    with serving(store, "--load", "demo", "--load", "embedder") as server:
        for name in ("demo", "embedder"):
            server.said(f"{name}:latest is loaded")
        listed = httpx.get(f"{server.url}/api/ps", timeout=60).json()["models"]
        assert {one["name"] for one in listed} == {"demo:latest", "embedder:latest"}, "nobody had asked for them"


def test_a_model_that_is_not_there_is_told_before_the_server_listens(store: Store) -> None:
    server = Running(store, "--load", "demo", "--load", "absent")
    assert server.process.wait(60) == 1
    server._reader.join(60)
    assert server.process.stdout is not None
    server.process.stdout.close()
    assert b"model 'absent' not found" in server.output and b"listening" not in server.output


def test_fastapi_is_imported_by_the_first_who_asks_for_the_description(store: Store) -> None:
    """Its import takes longer than all else that a start waits for. It never comes without pydantic's library, which is
    mapped."""

    def mapped() -> bool:
        return "pydantic_core" in Path(f"/proc/{server.process.pid}/maps").read_text()

    with serving(store, "--load", "demo") as server:
        asked = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "options": {"num_predict": 1}}
        assert httpx.post(f"{server.url}/api/chat", json=asked, timeout=60).status_code == 200
        assert not mapped()
        assert httpx.get(f"{server.url}/openapi.json", timeout=60).status_code == 200
        assert mapped()
