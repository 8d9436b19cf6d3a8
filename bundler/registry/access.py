"""Who we are to a registry: credentials, and the token challenge (distribution spec, "Token Authentication").

* Credentials come from SEALIFT_REGISTRY_USER and SEALIFT_REGISTRY_PASSWORD for the one host that SEALIFT_REGISTRY_HOST
  names, else from Docker's config.json for that host.
* They go to the registry's own host and to the realm it names: over https, or plain http only if the registry itself is
  spoken to so. A redirect to another origin never carries them (`client.py`).
* Without credentials, a realm on the registry's own host gets Ollama's signed request (contract, 4.2), with the key of
  an Ollama install if there is one, else one of our own. It names nobody until the user registers it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bundler.registry.errors import Denied
from manifests.home import home

_PARAMETER = re.compile(r'([A-Za-z]+)="([^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """A `WWW-Authenticate: Bearer` header."""

    realm: str
    service: str
    scope: str

    @classmethod
    def parse(cls, header: str) -> Challenge | None:
        """None where the header is not a Bearer challenge with an http realm."""
        scheme, _, rest = header.partition(" ")
        values = dict(_PARAMETER.findall(rest[:8192]))
        if scheme.lower() != "bearer" or not re.match(r"https?://[^/?#\[\]]+(?:[/?#]|$)", values.get("realm", "")):
            return None
        return cls(realm=values["realm"], service=values.get("service", ""), scope=values.get("scope", ""))

    def url(self) -> str:
        """The token URL, its query sorted; `ts` and `nonce` as Ollama's registry wants them for signed requests."""
        query = [("nonce", base64.urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode())]
        query += [("scope", scope) for scope in self.scope.split()]
        query += [("service", self.service), ("ts", str(int(time.time())))]
        return f"{self.realm}{'&' if '?' in self.realm else '?'}{urlencode(query)}"


def basic_credentials(host: str) -> str | None:
    """The value of an `Authorization: Basic` header for a host (`name` or `name:port`), or None."""
    user, password, their_host = _told()
    if user and password and their_host.lower() == host.lower():
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    auths = _docker_config().get("auths")
    entry = (auths.get(host) or auths.get(f"https://{host}")) if isinstance(auths, dict) else None
    auth = entry.get("auth") if isinstance(entry, dict) else None
    return f"Basic {auth}" if isinstance(auth, str) and _is_base64(auth) else None


def denied_hint(host: str) -> str:
    """What to do about a registry that lets nobody in, or not with what it was given."""
    user, password, their_host = _told()
    variables = f"SEALIFT_REGISTRY_HOST={host}, SEALIFT_REGISTRY_USER and SEALIFT_REGISTRY_PASSWORD"
    if user and password and their_host.lower() != host.lower():
        return f"SEALIFT_REGISTRY_USER and _PASSWORD are not for this registry: SEALIFT_REGISTRY_HOST must be {host}"
    if basic_credentials(host):
        source = "SEALIFT_REGISTRY_USER and _PASSWORD" if user and password else "docker's config.json"
        return f"the name and password of {source} were not enough"
    if _docker_config().get("credsStore") or _docker_config().get("credHelpers"):
        return f"set {variables}: what docker keeps in a credential helper is not asked for"
    return f"set {variables}, or log in with docker"


def _told() -> tuple[str, str, str]:
    """User, password and host of the environment; empty where they are not set."""
    user, password = os.environ.get("SEALIFT_REGISTRY_USER", ""), os.environ.get("SEALIFT_REGISTRY_PASSWORD", "")
    return user, password, os.environ.get("SEALIFT_REGISTRY_HOST", "")


def _docker_config() -> dict[str, Any]:
    path = Path(os.environ.get("DOCKER_CONFIG", str(Path.home() / ".docker"))) / "config.json"
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except ValueError:  # not base64, or not ASCII
        return False


def may_send_credentials(challenge: Challenge, registry: str) -> bool:
    """Whether a realm may see our credentials: https, or the registry's own origin where that is plain http."""
    realm, origin = urlsplit(challenge.realm), urlsplit(registry)
    return realm.scheme == "https" or (realm.scheme, realm.netloc) == (origin.scheme, origin.netloc)


def signed_request(url: str) -> str:
    """Ollama's `Authorization` value for `GET url` with an empty body: public key and signature (contract, 4.2)."""
    key = _identity()
    empty = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
    signature = key.sign(f"GET,{url},{empty}".encode())
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return f"{public.split()[1].decode()}:{base64.b64encode(signature).decode()}"


def _identity() -> Ed25519PrivateKey:
    """The registry identity of this user: Ollama's key if it can be read, else our own, made on first use."""
    own = home() / "registry_ed25519"
    for path in (Path.home() / ".ollama" / "id_ed25519", own):
        try:
            key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a passphrase
            continue
        if isinstance(key, Ed25519PrivateKey):
            return key
    made = Ed25519PrivateKey.generate()
    pem = made.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            out.write(pem)
    except OSError as error:
        raise Denied(f"{own}: {error.strerror}", 401, hint="the registry wants an identity key, kept there") from None
    return made
