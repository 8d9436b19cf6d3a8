"""TLS from files: a certificate chain, its key, and the authority whose clients alone may connect.

TLS 1.2 and newer, the library's own choice of ciphers. Certificate and key are read again on SIGHUP, for connections to
come; the clients' authority is read once. Refused at start, by file: what cannot be read, and a key that is another
certificate's.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from typing import Any

from runtime.access.access import Peer
from runtime.errors import RequestRefused
from runtime.told import TlsFiles


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """Raises RequestRefused, which names the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    load_certificate(context, files)
    if files.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(cafile=files.client_ca)
        except OSError as error:  # ssl.SSLError is one
            raise RequestRefused(f"--tls-client-ca {files.client_ca}: {_reason(error)}") from None
    return context


def load_certificate(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Into a context in use, too: what was there stays when the files are not good. Raises RequestRefused."""
    for trial in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), context):
        try:
            trial.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
        except OSError as error:
            where = f"--tls-cert {files.certificate}, --tls-key {files.key}"
            hint = "both are PEM files, the key is the certificate's own and has no passphrase"
            raise RequestRefused(f"{where}: {_reason(error)}", hint=hint) from None


def _no_passphrase() -> str:
    """OpenSSL would ask the terminal."""
    return ""


def client_context(ca: str, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """`ca`: a PEM file of authorities, "" for the system's. `certificate`, `key`: what to show, "" nothing. Raises
    RequestRefused."""
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise RequestRefused(f"the authorities in {ca[:200]}: {_reason(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate:
        try:
            context.load_cert_chain(certificate, key or None, password=_no_passphrase)
        except OSError as error:
            raise RequestRefused(f"the client certificate {certificate[:200]}: {_reason(error)}") from None
    return context


def client_settings() -> tuple[str, str, str]:
    """From the environment, for `client_context`."""
    ca = os.environ.get("SEALIFT_CA", "").strip() or os.environ.get("SSL_CERT_FILE", "").strip()
    return ca, os.environ.get("SEALIFT_CERT", "").strip(), os.environ.get("SEALIFT_CERT_KEY", "").strip()


def peer_of(tls: Any) -> Peer | None:
    """Of an ssl object: the client's certificate, which was verified in the handshake; None where it showed none."""
    raw = tls.getpeercert(binary_form=True)
    if not raw:
        return None
    names = [value for part in tls.getpeercert().get("subject", ()) for key, value in part if key == "commonName"]
    return Peer(certificate=hashlib.sha256(raw).hexdigest(), subject=names[-1] if names else "")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).strip() or type(error).__name__
