"""A registry in memory: the distribution protocol as an httpx transport, with faults on demand.

`peer = RegistryPeer(); peer.add("library/m", "latest", manifest, blobs)`, then `Registry(name,
transport=peer.transport())`.
Faults are lists of functions `(request, response) -> response`, each used once, for blob requests only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import httpx

from manifests.digest import Digest
from manifests.manifest import Manifest

Fault = Callable[[httpx.Request, httpx.Response], httpx.Response]
_BLOB = re.compile(r"/v2/(.+)/blobs/(sha256:[0-9a-f]{64})")
_MANIFEST = re.compile(r"/v2/(.+)/manifests/([^/]+)")
_UPLOAD = re.compile(r"/v2/(.+)/blobs/uploads/(\d*)")


@dataclass
class RegistryPeer:
    manifests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    token: str | None = None  # wanted on every request to the registry's own host
    basic: str | None = None  # wanted by the token realm
    realm: str = "https://reg.example/token"
    cdn: str | None = None  # blobs are redirected to this origin
    ranges: bool = True
    faults: list[Fault] = field(default_factory=list)
    upload_faults: list[Fault] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)  # added to manifest answers
    requests: list[httpx.Request] = field(default_factory=list)

    def add(self, repository: str, tag: str, manifest: Manifest, blobs: dict[Digest, bytes]) -> None:
        self.manifests[repository, tag] = manifest.raw
        self.blobs |= {str(digest): data for digest, data in blobs.items()}

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(lambda request: streamed(self.answer(request)))

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        path = request.url.path
        if self.cdn and str(request.url).startswith(self.cdn):
            return self._blob(request, path.rpartition("/")[2])
        if path == "/token":
            return self._token(request)
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="{self.realm}",service="reg",scope="repository:x:pull"'
            return httpx.Response(401, headers={"www-authenticate": challenge}, content=b'{"errors":[]}')
        if match := _UPLOAD.fullmatch(path):
            return self._upload(request, match[1], match[2])
        if match := _MANIFEST.fullmatch(path):
            return self._manifest(request, match[1], match[2])
        if match := _BLOB.fullmatch(path):
            if self.cdn and request.method == "GET":
                return httpx.Response(307, headers={"location": f"{self.cdn}/x/{match[2]}?signature=secret"})
            return self._blob(request, match[2])
        return httpx.Response(404)

    def _token(self, request: httpx.Request) -> httpx.Response:
        if self.basic and request.headers.get("authorization") != self.basic:
            return httpx.Response(401, content=b"who are you")
        return httpx.Response(200, json={"token": self.token})

    def _manifest(self, request: httpx.Request, repository: str, tag: str) -> httpx.Response:
        if request.method == "PUT":
            raw = request.read()
            missing = [blob for blob in Manifest.parse(raw).blobs() if str(blob.digest) not in self.blobs]
            if missing:
                return httpx.Response(
                    400, json={"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "message": str(missing[0].digest)}]}
                )
            self.manifests[repository, tag] = raw
            return httpx.Response(201, headers={"docker-content-digest": str(Digest.of(raw))})
        raw = self.manifests.get((repository, tag), b"")
        if not raw:
            return httpx.Response(404, json={"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]})
        return httpx.Response(200, headers={"docker-content-digest": str(Digest.of(raw))} | self.headers, content=raw)

    def _blob(self, request: httpx.Request, digest: str) -> httpx.Response:
        data = self.blobs.get(digest)
        if data is None:
            return httpx.Response(404, json={"errors": [{"code": "BLOB_UNKNOWN", "message": "blob unknown"}]})
        if request.method == "HEAD":
            return httpx.Response(200, headers={"content-length": str(len(data))})
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
        if match and self.ranges:
            first, last = int(match[1]), min(int(match[2]), len(data) - 1)
            headers = {"content-range": f"bytes {first}-{last}/{len(data)}"}
            response = httpx.Response(206, headers=headers, content=data[first : last + 1])
        else:
            response = httpx.Response(200, content=data)
        return self.faults.pop(0)(request, response) if self.faults else response

    def _upload(self, request: httpx.Request, repository: str, number: str) -> httpx.Response:
        if request.method == "POST":
            number = str(len(self.uploads))
            self.uploads[number] = bytearray()
        location = {"location": f"/v2/{repository}/blobs/uploads/{number}?state=1"}
        held = self.uploads[number]
        if request.method == "GET":
            return httpx.Response(204, headers=location | {"range": f"0-{max(len(held) - 1, 0)}"})
        if request.method == "PATCH":
            if request.headers["content-range"].split("-")[0] != str(len(held)):
                return httpx.Response(416)
            data = request.read()
            if self.upload_faults:
                response = self.upload_faults.pop(0)(request, httpx.Response(202, headers=location))
                held += data[: len(data) // 2]
                return response
            held += data
        if request.method == "PUT":
            digest = parse_qs(request.url.query.decode())["digest"][0]
            if str(Digest.of(bytes(held))) != digest:
                return httpx.Response(400, json={"errors": [{"code": "DIGEST_INVALID"}]})
            self.blobs[digest] = bytes(held)
            return httpx.Response(201, headers={"docker-content-digest": digest})
        return httpx.Response(202, headers=location)


class _Pieces(httpx.SyncByteStream):
    """A body in small pieces, which may end in an error."""

    def __init__(self, data: bytes, error: Exception | None = None) -> None:
        self._data, self._error = data, error

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, len(self._data), 64):
            yield self._data[at : at + 64]
        if self._error:
            raise self._error


def streamed(response: httpx.Response) -> httpx.Response:
    """The response as a network would give it: its body not read yet."""
    if not response.is_stream_consumed:
        return response
    return httpx.Response(response.status_code, headers=response.headers, stream=_Pieces(response.content))


def breaks_after(count: int, error: Exception) -> Fault:
    """The body ends in an error after `count` bytes."""
    return lambda request, response: httpx.Response(
        response.status_code, headers=response.headers, stream=_Pieces(response.content[:count], error)
    )


def answers(status: int, **headers: str) -> Fault:
    return lambda request, response: httpx.Response(status, headers=headers, content=b"busy")


def changes(edit: Callable[[bytes], bytes]) -> Fault:
    """The body is edited; the headers stay, but for the length."""

    def fault(request: httpx.Request, response: httpx.Response) -> httpx.Response:
        headers = {key: value for key, value in response.headers.items() if key != "content-length"}
        return httpx.Response(response.status_code, headers=headers, content=edit(response.content))

    return fault
