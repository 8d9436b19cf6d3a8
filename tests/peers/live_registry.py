"""The registry in memory behind a real socket, plain or TLS, so that other processes, proxies and certificates can meet
it.

`with serve(peer) as live: ...` gives `live.address`, and `live.sent`, the bytes of blobs that went out. `live.gate` is
called before each piece of a body and may wait: the place where a test kills somebody.
"""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.peers.registry import RegistryPeer

PIECE = 64 << 10  # bytes sent between two calls of the gate


@dataclass
class Live:
    peer: RegistryPeer
    address: str = ""
    sent: int = 0
    gate: Callable[[Live], None] = lambda live: None
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextlib.contextmanager
def serve(peer: RegistryPeer, tls: Path | None = None) -> Iterator[Live]:
    """On loopback, at a port of its own; with TLS where `tls` is a folder `make_certificate` filled."""
    live = Live(peer)

    class Handler(_Handler):
        registry = live

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that was killed, or trusts nobody, is what these tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "server.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    live.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield live
    finally:
        server.shutdown()
        thread.join()
        server.socket.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Live

    def do_GET(self) -> None:
        live = self.registry
        # a proxy is asked for a whole URL, a server for a path
        url = self.path if "://" in self.path else f"http://{live.address}{self.path}"
        with live.lock:
            response = live.peer.answer(httpx.Request(self.command, url, headers=dict(self.headers.items())))
        body = response.content
        self.send_response(response.status_code)
        for key, value in response.headers.items():
            if key != "content-length":
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for at in range(0, len(body), PIECE):
            live.gate(live)
            self.wfile.write(body[at : at + PIECE])
            if "/blobs/" in self.path:
                with live.lock:
                    live.sent += len(body[at : at + PIECE])

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def make_certificate(folder: Path) -> Path:
    """An authority and a server for 127.0.0.1; writes `server.pem`, and returns the authority's file."""
    now = datetime.now(timezone.utc)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of this test")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])

    def certificate(name: x509.Name, public: ec.EllipticCurvePublicKey, authority: bool) -> x509.Certificate:
        builder = x509.CertificateBuilder(issuer, name, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        issuing = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
        builder = builder.add_extension(issuing, critical=False)
        if authority:
            usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
            return builder.add_extension(usage, critical=True).sign(ca_key, hashes.SHA256())
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        return builder.add_extension(address, critical=False).sign(ca_key, hashes.SHA256())

    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(private + certificate(subject, key.public_key(), False).public_bytes(encoding))
    (folder / "ca.pem").write_bytes(certificate(issuer, ca_key.public_key(), True).public_bytes(encoding))
    return folder / "ca.pem"
