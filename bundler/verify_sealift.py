#!/usr/bin/env python3
"""Check a sealift bundle on a bare host: Python 3.8 or newer, its standard library, and this one file. Nothing is
installed.

    python3 verify_sealift.py FOLDER --pub alice.pub [--approver officer.pub]

FOLDER holds the volumes of a bundle, and the approvals that were added; where there are several, name one of the
volumes. The .pub files must come from a place you trust, and so must this program: the signed statement names its
SHA-256, which `sealift bundle verify` compares, and this program for the copy that lies beside the volumes. Nothing is
written, nothing is unpacked, no connection.

Checked, in this order: the SEALIFT line, the statement and approvals (size-capped), signatures (Ed25519, ECDSA P-384,
ML-DSA), the statement's form and id, that all volumes are there and no others, then every byte of every volume: tar
headers, padding and ends are compared; blobs must have their SHA-256, SHA-512 and leaf hashes; payloads must have the
hash that the statement says.
Not checked here: the officer's sheet; channels, sequence numbers and expiry against a policy; revocations; that
manifests name exactly the blobs that travel; what the models contain.

Exit codes: 0 verified, 1 refused, 2 usage, 3 not trusted, 4 the medium cannot be read.
"""

# ruff: noqa: UP006, UP035, B905, RUF007 - Python 3.8 has no list[int] in an alias, zip(strict=) or pairwise.
from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import struct
import sys
from typing import Any, Dict, List, NamedTuple, Tuple

# === begin signing/pure.py, the same text: a test compares them ===

# --- what is signed ---------------------------------------------------------------------------------------------------


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE v1.0.2, "Signature definition"."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def key_id(scheme: str, raw: bytes) -> str:
    """SHA-256 of the scheme's name, a zero byte and the raw public key, in hex."""
    return hashlib.sha256(scheme.encode() + b"\0" + raw).hexdigest()


def verify(scheme: str, public: bytes, signature: bytes, message: bytes) -> bool | None:
    """None for a scheme that this file cannot check, which a caller must report and never take for True."""
    if scheme == "ed25519":
        return ed25519_verify(public, signature, message)
    if scheme == "ecdsa-p384":
        return p384_verify(public, signature, message)
    if scheme in ("ml-dsa-65", "ml-dsa-87"):
        return mldsa_verify(int(scheme[-2:]), public, signature, message)
    return None


# --- Ed25519, RFC 8032 section 5.1 ------------------------------------------------------------------------------------

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, _P - 2, _P) % _P
_SQRT_M1 = pow(2, (_P - 1) // 4, _P)

# Extended homogeneous coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, x*y = T/Z (section 5.1.4).
_Point = Tuple[int, int, int, int]
_NEUTRAL = (0, 1, 1, 0)


def _recover_x(y: int, sign: int) -> int | None:
    """Section 5.1.3, steps 2 to 4."""
    x2 = (y * y - 1) * pow(_D * y * y + 1, _P - 2, _P) % _P
    if x2 == 0:
        return None if sign else 0
    x = pow(x2, (_P + 3) // 8, _P)
    if (x * x - x2) % _P != 0:
        x = x * _SQRT_M1 % _P
    if (x * x - x2) % _P != 0:
        return None
    return _P - x if x & 1 != sign else x


def _decompress(data: bytes) -> _Point | None:
    number = int.from_bytes(data, "little")
    y, sign = number & (2**255 - 1), number >> 255
    if y >= _P:  # step 1: another spelling of a smaller y
        return None
    x = _recover_x(y, sign)
    return None if x is None else (x, y, 1, x * y % _P)


def _compress(point: _Point) -> bytes:
    inverse = pow(point[2], _P - 2, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _add(p: _Point, q: _Point) -> _Point:
    """Section 5.1.4; complete, so it also doubles."""
    a = (p[1] - p[0]) * (q[1] - q[0]) % _P
    b = (p[1] + p[0]) * (q[1] + q[0]) % _P
    c = 2 * p[3] * q[3] * _D % _P
    d = 2 * p[2] * q[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _multiply(scalar: int, point: _Point) -> _Point:
    result = _NEUTRAL
    while scalar > 0:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


_BASE_Y = 4 * pow(5, _P - 2, _P) % _P
_BASE_X = _recover_x(_BASE_Y, 0) or 0
_BASE = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)


def ed25519_verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Section 5.1.7: R == [S]B - [k]A, compared as bytes. public: 32 bytes; signature: 64 bytes, R then S."""
    if len(public) != 32 or len(signature) != 64:
        return False
    point = _decompress(public)
    s = int.from_bytes(signature[32:], "little")
    if point is None or s >= _L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % _L
    minus_a = (_P - point[0], point[1], 1, _P - point[3])
    return _compress(_add(_multiply(s, _BASE), _multiply(k, minus_a))) == signature[:32]


# --- ECDSA over P-384 with SHA-384, FIPS 186-5 section 6.4.2; the curve: SP 800-186 section 3.2.1.4 -------------------

_P384 = 2**384 - 2**128 - 2**96 + 2**32 - 1
_N384 = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
_B384 = 0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF
_X384 = 0xAA87CA22BE8B05378EB1C71EF320AD746E1D3B628BA79B9859F741E082542A385502F25DBF55296C3A545E3872760AB7
_Affine = Tuple[int, int]


def _decompress_384(raw: bytes) -> _Affine | None:
    """SEC 1, 2.3.4. p is 3 mod 4, so a root is a power."""
    x = int.from_bytes(raw[1:], "big")
    square = (x * x * x - 3 * x + _B384) % _P384
    y = pow(square, (_P384 + 1) // 4, _P384)
    if len(raw) != 49 or raw[0] not in (2, 3) or x >= _P384 or y * y % _P384 != square:
        return None
    return x, y if y & 1 == raw[0] & 1 else _P384 - y


def _add_384(a: _Affine | None, b: _Affine | None) -> _Affine | None:
    """None is the point at infinity."""
    if a is None or b is None:
        return b if a is None else a
    if a[0] == b[0] and (a[1] + b[1]) % _P384 == 0:
        return None
    rise, run = (3 * (a[0] * a[0] - 1), 2 * a[1]) if a == b else (b[1] - a[1], b[0] - a[0])
    slope = rise * pow(run, -1, _P384) % _P384
    x = (slope * slope - a[0] - b[0]) % _P384
    return x, (slope * (a[0] - x) - a[1]) % _P384


def _multiply_384(scalar: int, point: _Affine | None) -> _Affine | None:
    result = None
    while scalar > 0:
        if scalar & 1:
            result = _add_384(result, point)
        point = _add_384(point, point)
        scalar >>= 1
    return result


def _der_integer(data: bytes) -> Tuple[int, bytes] | None:
    """A positive INTEGER in its one encoding (X.690, 8.3) of at most 49 bytes, and what follows it."""
    if len(data) < 3 or data[0] != 2 or not 0 < data[1] <= 49 or len(data) < 2 + data[1]:
        return None
    body = data[2 : 2 + data[1]]
    if body[0] > 127 or (len(body) > 1 and body[0] == 0 and body[1] < 128):
        return None
    return int.from_bytes(body, "big"), data[2 + data[1] :]


def p384_verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """public: 49 bytes; signature: DER SEQUENCE of r and s, at most 104 bytes."""
    if not 2 < len(signature) <= 104 or signature[:2] != bytes([0x30, len(signature) - 2]):
        return False
    point, first = _decompress_384(public), _der_integer(signature[2:])
    second = _der_integer(first[1]) if first else None
    if point is None or first is None or second is None or second[1]:
        return False
    r, s = first[0], second[0]
    if not (0 < r < _N384 and 0 < s < _N384):
        return False
    e, inverse = int.from_bytes(hashlib.sha384(message).digest(), "big"), pow(s, -1, _N384)
    base = _decompress_384(b"\3" + _X384.to_bytes(48, "big"))  # its y is odd
    found = _add_384(_multiply_384(e * inverse % _N384, base), _multiply_384(r * inverse % _N384, point))
    return found is not None and found[0] % _N384 == r


# --- ML-DSA, FIPS 204 -------------------------------------------------------------------------------------------------

_Q = 8380417
_DROPPED = 13  # d: low bits of t that the public key leaves out
_GAMMA1 = 1 << 19  # the same for both sets below, table 1
_GAMMA2 = (_Q - 1) // 32
_Poly = List[int]


class _Set(NamedTuple):
    """Table 1. `challenge` is the length of c~ in bytes, lambda / 4."""

    k: int
    l: int  # noqa: E741 - the standard's name
    tau: int
    beta: int
    omega: int
    challenge: int


_SETS: dict[int, _Set] = {
    65: _Set(k=6, l=5, tau=49, beta=196, omega=55, challenge=48),
    87: _Set(k=8, l=7, tau=60, beta=120, omega=75, challenge=64),
}

# Appendix B: zeta = 1753, in bit-reversed order.
_ZETAS = [pow(1753, int(format(index, "08b")[::-1], 2), _Q) for index in range(256)]


def _ntt(w: _Poly) -> _Poly:
    """Algorithm 41, in place."""
    m, length = 0, 128
    while length >= 1:
        for start in range(0, 256, 2 * length):
            m += 1
            zeta = _ZETAS[m]
            for j in range(start, start + length):
                t = zeta * w[j + length] % _Q
                w[j + length] = (w[j] - t) % _Q
                w[j] = (w[j] + t) % _Q
        length //= 2
    return w


def _inverse_ntt(w: _Poly) -> _Poly:
    """Algorithm 42, in place."""
    m, length = 256, 1
    while length < 256:
        for start in range(0, 256, 2 * length):
            m -= 1
            zeta = _Q - _ZETAS[m]
            for j in range(start, start + length):
                t = w[j]
                w[j] = (t + w[j + length]) % _Q
                w[j + length] = zeta * (t - w[j + length]) % _Q
        length *= 2
    return [8347681 * value % _Q for value in w]  # 256^-1 mod q


def _unpack(data: bytes, bits: int) -> _Poly:
    """256 integers of `bits` bits, lowest bit first (algorithm 18 without its upper bound)."""
    number, mask = int.from_bytes(data, "little"), (1 << bits) - 1
    return [number >> shift & mask for shift in range(0, 256 * bits, bits)]


def _expand_a(rho: bytes, row: int, column: int) -> _Poly:
    """One polynomial of algorithm 32, by algorithm 30: rejection sampling from SHAKE128."""
    seed, size = hashlib.shake_128(rho + bytes([column, row])), 1024
    while True:
        stream = seed.digest(size)
        found: _Poly = []
        for at in range(0, size - 2, 3):
            value = stream[at] | stream[at + 1] << 8 | (stream[at + 2] & 127) << 16
            if value < _Q:
                found.append(value)
                if len(found) == 256:
                    return found
        size *= 2


def _sample_in_ball(seed: bytes, tau: int) -> _Poly:
    """Algorithm 29: tau coefficients of +1 or -1."""
    size = 512
    while True:
        stream = hashlib.shake_256(seed).digest(size)
        signs, at = int.from_bytes(stream[:8], "little"), 8
        c = [0] * 256
        for i in range(256 - tau, 256):
            while at < size and stream[at] > i:
                at += 1
            if at == size:
                break
            j = stream[at]
            at += 1
            c[i] = c[j]
            c[j] = _Q - 1 if signs & 1 else 1
            signs >>= 1
        else:
            return c
        size *= 2


def _unpack_hint(data: bytes, k: int, omega: int) -> list[list[int]] | None:
    """Algorithm 21: the positions of the ones, per polynomial; None unless in its one encoding."""
    hint: list[list[int]] = []
    index = 0
    for row in range(k):
        end = data[omega + row]
        if end < index or end > omega:
            return None
        positions = list(data[index:end])
        if any(a >= b for a, b in zip(positions, positions[1:])):
            return None
        hint.append(positions)
        index = end
    return None if any(data[index:omega]) else hint


def _high_bits(r: int, hinted: bool) -> int:
    """Algorithms 36, 37 and 40 for r in [0, q): the high part, moved by one where the hint says so."""
    low = r % (2 * _GAMMA2)
    if low > _GAMMA2:
        low -= 2 * _GAMMA2
    high = 0 if r - low == _Q - 1 else (r - low) // (2 * _GAMMA2)
    if r - low == _Q - 1:
        low -= 1
    return (high + (1 if low > 0 else -1)) % 16 if hinted else high  # 16 = (q - 1) / (2 * gamma2)


def mldsa_verify(level: int, public: bytes, signature: bytes, message: bytes) -> bool:
    """Algorithms 3 and 8 with an empty context. level: 65 or 87."""
    p = _SETS[level]
    z_end = p.challenge + p.l * 640  # 20 bits per coefficient
    if len(public) != 32 + p.k * 320 or len(signature) != z_end + p.omega + p.k:
        return False
    challenge = signature[: p.challenge]
    z = [[_GAMMA1 - value for value in _unpack(signature[at : at + 640], 20)] for at in range(p.challenge, z_end, 640)]
    hint = _unpack_hint(signature[z_end:], p.k, p.omega)
    if hint is None or any(abs(value) >= _GAMMA1 - p.beta for row in z for value in row):
        return False
    tr = hashlib.shake_256(public).digest(64)
    mu = hashlib.shake_256(tr + b"\0\0" + message).digest(64)  # 0: pure; 0: length of the context
    c = _ntt(_sample_in_ball(challenge, p.tau))
    z_hat = [_ntt([value % _Q for value in row]) for row in z]
    state = hashlib.shake_256(mu)
    for row in range(p.k):
        state.update(_commitment(public, row, c, z_hat, set(hint[row])))
    return state.digest(p.challenge) == challenge


def _commitment(public: bytes, row: int, c: _Poly, z_hat: list[_Poly], hinted: set[int]) -> bytes:
    """One row of w1' = UseHint(h, A z - c t1 2^d), packed in 4 bits per coefficient (algorithm 28)."""
    at = 32 + row * 320
    t = _ntt([value << _DROPPED for value in _unpack(public[at : at + 320], 10)])
    w = [-a * b for a, b in zip(c, t)]
    for column, z in enumerate(z_hat):
        w = [total + a * b for total, a, b in zip(w, _expand_a(public[:32], row, column), z)]
    approximate = _inverse_ntt([value % _Q for value in w])
    high = [_high_bits(value, index in hinted) for index, value in enumerate(approximate)]
    return bytes(high[index] | high[index + 1] << 4 for index in range(0, 256, 2))

# === end signing/pure.py ===

BLOCK = 512
END = bytes(2 * BLOCK)
MAX_MARK, MAX_ENVELOPE, MAX_WHOLE = 200, 16 << 20, 524288 * 36  # bytes
MAX_APPROVALS = 32  # files
CLASSICAL, POST_QUANTUM = {"ed25519", "ecdsa-p384"}, {"ml-dsa-65", "ml-dsa-87"}
VOLUME = re.compile(r"([a-z0-9][a-z0-9._-]{0,38}-[0-9a-f]{8})\.v([0-9]{3,4})\.tar")
HEX = re.compile(r"[0-9a-f]{64}")
PUB_LINE = re.compile(r"sealift-key-1 ([a-z0-9._@-]{1,64}) ([a-z0-9-]+) ([A-Za-z0-9+/=]+) ([0-9a-f]{16})")
Json = Any
Signers = List[Tuple[str, Dict[str, bytes]]]  # name, and per scheme the raw public key
Roles = List[Tuple[str, Signers, int]]  # role, who may hold it, how many are needed


class Refused(Exception):
    code = 1


class NotTrusted(Refused):
    code = 3


class Encrypted(Refused):
    code = 4


def need(condition: Any, problem: str) -> None:
    if not condition:
        raise Refused(problem)


# --- step 1: what lies there ------------------------------------------------------------------------------------------


def header(name: str, size: int) -> bytes:
    """The one ustar header of a member (docs/formats/bundle.md, section 2)."""
    block = bytearray(BLOCK)
    block[: len(name)] = name.encode("ascii")
    block[100:108], block[108:124] = b"0000644\0", b"0000000\0" * 2
    block[124:136], block[136:148] = b"%011o\0" % size, b"%011o\0" % 315532800
    block[148:157], block[257:265], block[329:345] = b" " * 8 + b"0", b"ustar\00000", b"0000000\0" * 2
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def read(stream: Any, size: int, what: str) -> bytes:
    data = stream.read(size)
    need(len(data) == size, "the volume ends inside " + what)
    return bytes(data)


def read_member(stream: Any, name: str, limit: int) -> bytes:
    """A member whose size is not known yet: the header must be the one we would write for the size it says."""
    block = read(stream, BLOCK, "a header")
    need(re.fullmatch(rb"[0-7]{11}\0", block[124:136]), f"no regular member where {name} should be")
    size = int(block[124:135], 8)
    need(size <= limit and header(name, size) == block, f"the header of {name} is not the one sealift writes")
    data = read(stream, size, name)
    need(not any(read(stream, -size % BLOCK, name)), f"the padding of {name} is not zero")
    return data


def open_bundle(folder: str, only: str = "") -> Tuple[str, bytes]:
    """The name that all volumes share, and the envelope of the first one. `only`: a volume of the bundle meant."""
    names = {only} if only else set(os.listdir(folder))
    sealed = sorted(name for name in names if VOLUME.fullmatch(name[:-4]) and name[-4:] == ".age")
    closed = [name for name in sealed if not os.path.exists(os.path.join(folder, name[:-4]))]
    if closed:
        raise Encrypted(f"{closed[0]} is encrypted, which this program cannot open; with age, into another folder: "
                        f"age -d -i IDENTITY {closed[0]} > {closed[0][:-4]}")  # fmt: skip
    found = sorted(match.group(1, 0) for match in map(VOLUME.fullmatch, names) if match)
    need(found, "no volume of a bundle here")
    stems = sorted({stem for stem, _ in found})
    need(len(stems) == 1, f"volumes of {len(stems)} bundles: {', '.join(stems[:8])}")
    first = os.path.join(folder, found[0][1])
    need(os.path.isfile(first), f"{found[0][1]} is not a regular file")
    with open(first, "rb") as stream:
        line = read_member(stream, "SEALIFT", MAX_MARK)
        need(line.startswith(b"sealift-bundle/1 "), f"not a bundle of format 1: {line[:40]!r}")
        return stems[0], read_member(stream, "statement.dsse.json", MAX_ENVELOPE)


# --- step 2: who signed -----------------------------------------------------------------------------------------------


def read_signers(paths: List[str]) -> Signers:
    signers: Signers = []
    for path in paths:
        with open(path, "rb") as stream:
            text = stream.read(1 << 16).decode("ascii")
        name, keys = "", {}  # type: str, Dict[str, bytes]
        for line in text.splitlines():
            match = PUB_LINE.fullmatch(line)
            need(match, f"{path} is not a .pub file")
            assert match
            raw = base64.b64decode(match[3], validate=True)
            need(key_id(match[2], raw)[:16] == match[4], f"{path}: a key is damaged")
            need(name in ("", match[1]) and match[2] not in keys, f"{path}: more than one signer, or a scheme twice")
            name, keys[match[2]] = match[1], raw
        need(keys, f"{path} holds no key")
        used = [raw for other, held in signers if other != name for raw in held.values()]
        need(not set(used) & set(keys.values()), f"{path}: a key of {name} has another name too")
        signers.append((name, keys))
    return signers


def decode_envelope(raw: bytes) -> Tuple[bytes, str, Dict[str, bytes]]:
    """Payload, its type, signatures by key id. Refuses every spelling but the canonical one."""
    try:
        top = json.loads(raw.decode("ascii"))
        payload = base64.b64decode(top["payload"], validate=True)
        kind = str(top["payloadType"])
        made = {str(item["keyid"]): base64.b64decode(item["sig"], validate=True) for item in top["signatures"]}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"the envelope does not parse: {error}") from None
    parts = [f'{{"keyid":"{keyid}","sig":"{base64.b64encode(made[keyid]).decode()}"}}' for keyid in sorted(made)]
    again = '{{"payload":"{}","payloadType":"{}","signatures":[{}]}}'.format(
        base64.b64encode(payload).decode(), kind, ",".join(parts)
    )  # fmt: skip
    need(again.encode() == raw and 0 < len(made) <= 64, "the envelope is not in canonical form")
    return payload, kind, made


def add_approvals(folder: str, stem: str, extra: List[str], raw: bytes) -> Tuple[bytes, str, Dict[str, bytes]]:
    """The envelope `raw` of the volumes with the signatures of all approvals (docs/formats/bundle.md, 3.4)."""
    payload, kind, made = decode_envelope(raw)
    tail = re.escape(stem[-9:])  # one of the two names may hide the label
    label = ".+" if stem == "sealed" + stem[-9:] else f"(?:{re.escape(stem[:-9])}|sealed)"
    named = re.compile(label + tail + r"\.approval-[0-9a-f]{8}\.dsse\.json")
    paths = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if named.fullmatch(name)] + extra
    need(len(paths) <= MAX_APPROVALS, f"{len(paths)} approvals; at most {MAX_APPROVALS} are read")
    for path in paths:
        name = os.path.basename(path)
        need(not os.path.exists(path) or os.path.isfile(path), f"{name} is not a regular file")
        with open(path, "rb") as stream:
            data = stream.read(MAX_ENVELOPE + 1)
        need(len(data) <= MAX_ENVELOPE, f"{name} is too large for an approval")
        try:
            its_payload, its_kind, its = decode_envelope(data)
        except Refused as error:
            raise Refused(f"{name}: {error}") from None
        need((its_payload, its_kind) == (payload, kind), f"{name} approves another statement")
        for keyid, signature in its.items():
            need(made.setdefault(keyid, signature) == signature, f"{name}: a key has two different signatures")
        need(len(made) <= 64, f"{name}: with its signatures there are more than 64")
    return payload, kind, made


def authenticate(payload: bytes, kind: str, made: Dict[str, bytes], roles: Roles) -> List[str]:
    """One sentence for each role. Raises NotTrusted where a role has too few signers."""
    need(kind == "application/vnd.in-toto+json", f"unexpected payload type {kind[:80]!r}")
    message, said, wanting = pae(kind, payload), [], []
    for role, signers, threshold in roles:
        counted, why = count(message, made, signers)
        said.append(f"{role}: {len(counted)} of {threshold} needed")
        if len(counted) < threshold:
            wanting.append(f"{said[-1]}. {'; '.join(why[:8])}")
        said[-1] += ": " + ", ".join(counted)
    if wanting:
        raise NotTrusted("; ".join(wanting))
    known = {key_id(scheme, raw) for _, signers, _ in roles for _, keys in signers for scheme, raw in keys.items()}
    unknown = "a signature by the key {}... was not checked: no .pub file has this key"
    return said + [unknown.format(keyid[:16]) for keyid in sorted(set(made) - known)]


def count(message: bytes, made: Dict[str, bytes], signers: Signers) -> Tuple[List[str], List[str]]:
    """Who counts, and why others do not. Every key of a signer must have signed; one wrong signature is fatal."""
    counted, why = [], []
    for name, keys in signers:
        good = set()
        for scheme, public in sorted(keys.items()):
            signature = made.get(key_id(scheme, public))
            result = None if signature is None else verify(scheme, public, signature, message)
            if signature is not None and result is False:
                raise NotTrusted(f"the signature by {name}'s {scheme} key is wrong: the envelope is damaged or forged")
            if result:
                good.add(scheme)
            else:
                why.append(f"{name}: no {scheme} signature that could be checked here")
        if good == set(keys) and good & CLASSICAL and good & POST_QUANTUM:
            counted.append(name)
    return sorted(set(counted)), why


# --- step 3: the statement --------------------------------------------------------------------------------------------


def canonical(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def parse_statement(payload: bytes) -> Json:
    """The predicate, if the payload is canonical, of the right types, and carries its own id."""
    try:
        top = json.loads(payload.decode("utf-8"), parse_float=_no_float, parse_constant=_no_float)
        need(canonical(top) == payload, "the statement is not in canonical form")
        need(top["_type"] == "https://in-toto.io/Statement/v1", "not an in-toto statement")
        delta = "since" in top["predicate"]["bundle"]
        kind = "https://sealift.dev/delta/v1" if delta else "https://sealift.dev/bundle/v1"
        need(top["predicateType"] == kind, "not a bundle of format 1")
        predicate = top["predicate"]
        check_keys(top)
        bundle = dict(predicate["bundle"])
        same = dict(predicate, bundle=dict(bundle, id=""))
        computed = hashlib.sha256(canonical(same)).hexdigest()[:32]
        need(computed == bundle["id"], "the bundle's id is not the statement's hash")
        subjects = [{"name": m["name"], "digest": {"sha256": m["manifest"][7:]}} for m in predicate["models"]]
        need(top["subject"] == subjects and subjects, "the subjects are not the models")
        check_printed(predicate)
        check_blobs(predicate)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Refused(f"the statement does not parse: {type(error).__name__}: {error}") from None
    return predicate  # other wrong types end in main, as refused


def _no_float(text: str) -> Json:
    raise ValueError(f"number {text}")


def check_keys(top: Json) -> None:
    """Every object has the keys of docs/formats/bundle.md, 3.2, and no others; `?` marks those that may be absent."""
    predicate = top["predicate"]
    keys(top, "_type subject predicateType predicate")
    keys(predicate, "bundle models blobs volumes evidence verifier")
    keys(predicate["bundle"], "id label channel sequence predecessor? previous? created expires? since? tool")
    if "since" in predicate["bundle"]:
        need(predicate["bundle"]["since"]["kind"] in ("bundle", "inventory"), "since neither bundle nor inventory")
        keys(dict(predicate["bundle"]["since"], kind="known"), "kind id")
    for item in predicate["bundle"].get("previous", []):
        keys(item, "sequence id")
    keys(predicate["verifier"], "sha256")
    for name, wanted in (
        ("models", "name manifest oci source"),
        ("blobs", "digest sha512 size media_type leaves? built? layout"),
        ("volumes", "size sha256"),
        ("evidence", "kind digest"),
    ):
        for item in predicate[name]:
            keys(item, wanted)
    for blob in predicate["blobs"]:
        keys(blob.get("leaves", dict.fromkeys(LEAVES_KEYS.split())), LEAVES_KEYS)
        need("leaves" not in blob or re.fullmatch("[0-9a-f]{64}", blob["leaves"]["root"]), "a root is not a hash")
        for part in blob["layout"]:
            keys(part, "volume offset size")
        if "built" in blob:
            keys(blob["built"], "base patch pieces")
            for piece in blob["built"]["pieces"]:
                keys(piece, "size base?")


LEAVES_KEYS = "size count list root"
NUMBERS = ("sequence", "size", "count", "volume", "offset")
PLAIN = r"[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]"  # nothing that moves a terminal's cursor
_DIGEST, _TYPE = "sha256:[0-9a-f]{64}", "[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]*"
_TIME = "[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z"
FORMS = {
    "id": "[0-9a-f]{32}", "label": "[a-z0-9][a-z0-9._-]{0,38}",
    "channel": "[a-z0-9][a-z0-9._-]*(/[a-z0-9][a-z0-9._-]*)*",
    "predecessor": _DIGEST, "manifest": _DIGEST, "oci": _DIGEST,
    "created": _TIME, "expires": _TIME, "tool": PLAIN + "{0,80}",
    "digest": _DIGEST, "sha512": "[0-9a-f]{128}", "media_type": _TYPE + "/" + _TYPE, "sha256": "[0-9a-f]{64}",
    "kind": "[a-z][a-z0-9_]{0,31}",
}  # fmt: skip


def keys(value: Json, wanted: str) -> None:
    """The keys, and the form of every text and number among them."""
    words = wanted.split()
    needed, known = {word for word in words if word[-1] != "?"}, {word.rstrip("?") for word in words}
    need(needed <= set(value) <= known, f"unknown or missing fields: {sorted(set(value) ^ needed)[:4]}")
    for key, item in value.items():
        if key in FORMS:
            need(type(item) is str and re.fullmatch(FORMS[key], item), f"field {key}: {str(item)[:80]!r}")
        if key in NUMBERS and item is not None:
            need(type(item) is int and 0 <= item < 1 << 53, f"field {key} is not a whole number")


def check_printed(predicate: Json) -> None:
    """What is shown on a terminal holds nothing but plain characters."""
    bundle = predicate["bundle"]
    need(re.fullmatch(r"[a-z0-9._/-]{1,128}", bundle["channel"]), "not a channel's name")
    need(type(bundle["sequence"]) is int and bundle["sequence"] > 0, "not a sequence number")
    for model in predicate["models"]:
        need(re.fullmatch(r"[A-Za-z0-9_.:/-]{1,700}", model["name"]), "not a model's name")
        plain = [re.fullmatch(PLAIN + "{0,2048}", text) for text in model["source"].values()]
        need(all(plain), "a source with control characters")


def check_blobs(predicate: Json) -> None:
    """Digests are digests, sizes are whole numbers, and every blob is laid out once, without gap or overlap."""
    digests = [blob["digest"] for blob in predicate["blobs"]]
    need(digests == sorted(set(digests)), "blobs are not in order, or one is there twice")
    blobs = dict(zip(digests, predicate["blobs"]))
    for blob in predicate["blobs"]:
        digest = blob["digest"]
        need(digest[:7] == "sha256:" and HEX.fullmatch(digest[7:]), f"not a digest: {digest[:80]!r}")
        numbers = [blob["size"]] + [part[key] for part in blob["layout"] for key in ("volume", "offset", "size")]
        need(all(type(number) is int and 0 <= number < 1 << 53 for number in numbers), "a size is not a whole number")
        if not blob["layout"]:
            need("since" in predicate["bundle"] and "leaves" not in blob, f"blob {digest} is not laid out whole")
            check_built(blob, blobs)
            continue
        need("built" not in blob, "a blob that travels is not built")
        end = 0
        for part in blob["layout"]:
            need(part["offset"] == end and part["volume"] < len(predicate["volumes"]), "segments with gaps")
            end += part["size"]
        need(end == blob["size"] and blob["layout"], f"blob {blob['digest']} is not laid out whole")
        if "leaves" in blob:
            tree = blob["leaves"]
            need(tree["list"] in digests, "a tree without its leaf list")
            need(tree["size"] in [4096 << bits for bits in range(11)], "a leaf size that is no power of two")
            need(blob["layout"][0]["volume"] > 0, "a large blob in the index volume")
        else:
            need(len(blob["layout"]) == 1 and blob["size"] <= MAX_WHOLE, "a large blob without leaves")
    for model in predicate["models"]:
        need(model["manifest"] in digests and model["oci"] in digests, "the manifest of a model is missing")


def check_built(blob: Json, blobs: Json) -> None:
    """Pieces of a base that the other side has, and of a patch that travels, make the blob's size exactly."""
    if "built" not in blob:
        return
    base, patch, pieces = blobs[blob["built"]["base"]], blobs[blob["built"]["patch"]], blob["built"]["pieces"]
    need(not base["layout"] and "built" not in base and patch["layout"], "a blob built from something else than a base")
    for piece in pieces:
        inside = type(piece.get("base", 0)) is int and 0 <= piece.get("base", 0) <= base["size"] - piece["size"]
        need(piece["size"] > 0 and ("base" not in piece or inside), "a piece beyond its base")
    need(len(pieces) <= 8192 and sum(piece["size"] for piece in pieces) == blob["size"], "pieces that do not add up")
    literal = sum(piece["size"] for piece in pieces if "base" not in piece)
    need(literal == patch["size"], "pieces that do not use their patch")


def number(index: int, n: int) -> str:
    return str(index).zfill(max(3, len(str(n))))


def layout_files(predicate: Json) -> List[Tuple[str, bytes]]:
    """oci-layout and index.json, which follow from the statement."""
    sizes = {blob["digest"]: blob["size"] for blob in predicate["blobs"]}
    entries = []
    for model in predicate["models"]:
        notes = {"org.opencontainers.image.ref.name": model["name"], "dev.sealift.ollama.manifest": model["manifest"]}
        oci = "application/vnd.oci.image.manifest.v1+json"
        docker = "application/vnd.docker.distribution.manifest.v2+json"
        entries.append({"mediaType": oci, "digest": model["oci"], "size": sizes[model["oci"]], "annotations": notes})
        if model["oci"] != model["manifest"]:
            entries.append({"mediaType": docker, "digest": model["manifest"], "size": sizes[model["manifest"]]})
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    return [("oci-layout", canonical({"imageLayoutVersion": "1.0.0"})), ("index.json", canonical(index))]


# --- steps 6 and 7: every byte ----------------------------------------------------------------------------------------


class Blobs:
    """Hashes of blobs on their way, and the leaf lists that the index volume brought."""

    def __init__(self, predicate: Json) -> None:
        self.lists: Dict[str, bytes] = {}
        self.open: Dict[str, Json] = {}
        self.wanted = {blob["leaves"]["list"] for blob in predicate["blobs"] if "leaves" in blob}

    def whole(self, blob: Json, data: bytes) -> None:
        need(hashlib.sha256(data).hexdigest() == blob["digest"][7:], f"blob {blob['digest']} is damaged")
        need(hashlib.sha512(data).hexdigest() == blob["sha512"], f"blob {blob['digest']}: wrong SHA-512")
        if blob["digest"] in self.wanted:
            self.lists[blob["digest"]] = data

    def begin(self, blob: Json) -> Json:
        if blob["digest"] not in self.open:
            entries = list(struct.iter_unpack(">I32s", self.lists[blob["leaves"]["list"]]))
            lengths = [length for length, _ in entries]
            good = len(entries) == blob["leaves"]["count"] and sum(lengths) == blob["size"]
            need(good and min(lengths) > 0 and max(lengths) <= blob["leaves"]["size"], "a leaf list does not add up")
            need(tree_root([leaf for _, leaf in entries]) == blob["leaves"]["root"], "a leaf list has another root")
            self.open[blob["digest"]] = [iter(entries), hashlib.sha256(), hashlib.sha512()]
        return self.open[blob["digest"]]

    def end(self, blob: Json) -> None:
        _, sha256, sha512 = self.open.pop(blob["digest"])
        need(sha256.hexdigest() == blob["digest"][7:], f"blob {blob['digest']}: wrong SHA-256")
        need(sha512.hexdigest() == blob["sha512"], f"blob {blob['digest']}: wrong SHA-512")


def tree_root(hashes: List[bytes]) -> str:
    """RFC 6962, 2.1."""
    while len(hashes) > 1:
        pairs = [hashlib.sha256(b"\1" + a + b).digest() for a, b in zip(hashes[::2], hashes[1::2])]
        hashes = pairs + hashes[len(pairs) * 2 :]
    return hashes[0].hex()


def members(predicate: Json, index: int) -> List[Tuple[str, Json, int, int, bytes]]:
    """Name, blob, offset, size and, where they are known, bytes of each member of a volume's payload."""
    wholes, parts = [], []
    for blob in predicate["blobs"]:
        for part in blob["layout"]:
            if part["volume"] == index and "leaves" in blob:
                name = f"seg/{blob['digest'][7:]}/{part['offset']:016x}"
                parts.append((name, blob, part["offset"], part["size"], b""))
            elif part["volume"] == index:
                wholes.append(("blobs/sha256/" + blob["digest"][7:], blob, 0, part["size"], b""))
    files = layout_files(predicate) if index == 0 else []
    return [(name, None, 0, len(data), data) for name, data in files] + wholes + parts


class Volume:
    """Reads and compares; what passes belongs to the payload and is hashed with it."""

    def __init__(self, path: str, head: bytes, size: int) -> None:
        self.name, self.hash = os.path.basename(path), hashlib.sha256()
        need(os.path.isfile(path), f"volume {self.name} is missing")
        self.stream = open(path, "rb")  # noqa: SIM115 - the caller closes it
        found = os.fstat(self.stream.fileno()).st_size
        need(found == len(head) + size, f"{self.name} has {found} bytes, not {len(head) + size}")
        need(self.stream.read(len(head)) == head, f"{self.name}: its SEALIFT line or statement differs")

    def take(self, size: int, what: str) -> bytes:
        data = read(self.stream, size, what)
        self.hash.update(data)
        return data

    def expect(self, data: bytes, what: str) -> None:
        need(self.take(len(data), what) == data, f"{self.name}: {what} is not what the statement says")


def check_volume(volume: Volume, predicate: Json, index: int, blobs: Blobs) -> None:
    for name, blob, offset, size, data in members(predicate, index):
        volume.expect(header(name, size), "the header of " + name)
        if blob is None:
            volume.expect(data, name)
        elif "leaves" not in blob:
            blobs.whole(blob, volume.take(size, name))
        else:
            check_segment(volume, blob, offset, size, blobs)
        volume.expect(bytes(-size % BLOCK), "the padding of " + name)
    volume.expect(END, "the end")
    wanted = predicate["volumes"][index]["sha256"]
    need(volume.hash.hexdigest() == wanted, f"{volume.name}: its payload does not have the hash of the statement")


def check_segment(volume: Volume, blob: Json, offset: int, size: int, blobs: Blobs) -> None:
    leaves, sha256, sha512 = blobs.begin(blob)
    done = 0
    while done < size:
        length, leaf = next(leaves)
        need(done + length <= size, "a segment ends inside a leaf")
        data = volume.take(length, "blob " + blob["digest"])
        place = f"{volume.name}: {length} bytes at {offset + done} of blob {blob['digest']} are damaged"
        need(hashlib.sha256(b"\0" + data).digest() == leaf, place)
        sha256.update(data)
        sha512.update(data)
        done += length
    if offset + size == blob["size"]:
        blobs.end(blob)


def check(path: str, roles: Roles, extra: List[str]) -> List[str]:
    """Raises Refused; returns what to say. `path`: a folder, or a volume of the bundle meant where there are several.
    `extra`: approvals that do not lie in the folder."""
    folder, only = os.path.split(path) if os.path.isfile(path) else (path, "")
    folder = folder or "."
    stem, envelope = open_bundle(folder, only)
    payload, kind, made = add_approvals(folder, stem, extra, envelope)
    trusted = authenticate(payload, kind, made, roles)
    predicate = parse_statement(payload)
    bundle, n = predicate["bundle"], len(predicate["volumes"])
    stems = (f"{bundle['label']}-{bundle['id'][:8]}", f"sealed-{bundle['id'][:8]}")  # the second: label was hidden
    need(stem in stems, f"volumes named {stem} carry another statement")
    names = [f"{stem}.v{number(index, n)}.tar" for index in range(n)]
    here = [name for name in os.listdir(folder) if name.endswith(".tar") and os.path.isfile(os.path.join(folder, name))]
    need(set(names) <= set(here), "volumes missing: {}".format(", ".join(sorted(set(names) - set(here))[:8])))
    for name in sorted(set(here) - set(names)):
        match = VOLUME.fullmatch(name)
        if only and match and match[1] != stem:
            continue  # of a bundle that was not meant
        with open(os.path.join(folder, name), "rb") as stream:
            need(stream.read(8) != b"SEALIFT\0", f"{name} does not belong to this bundle, or is there twice")
    beside = os.path.join(folder, "verify_sealift.py")
    if os.path.lexists(beside):
        need(os.path.isfile(beside), "verify_sealift.py beside the volumes is not a regular file")
        with open(beside, "rb") as stream:
            found = hashlib.sha256(stream.read(MAX_ENVELOPE)).hexdigest()
        need(found == predicate["verifier"]["sha256"], "verify_sealift.py beside the volumes is not the statement's")
    blobs = Blobs(predicate)
    for index, name in enumerate(names):
        mark = f"sealift-bundle/1 {bundle['id']} v{number(index, n)}/{number(n, n)}\n"
        head = b"".join(header(member, len(data)) + padded(data) for member, data in
                        (("SEALIFT", mark.encode()), ("statement.dsse.json", envelope)))  # fmt: skip
        volume = Volume(os.path.join(folder, name), head, predicate["volumes"][index]["size"])
        with volume.stream:
            check_volume(volume, predicate, index, blobs)
        print(f"  {name} ok", file=sys.stderr)
    need(not blobs.open, "a blob is not complete")
    said = ["trusted (profile hybrid)", *trusted]
    said += [f"bundle {bundle['id']}, channel {bundle['channel']}, number {bundle['sequence']}"]
    said += [f"model {model['name']} {model['manifest']}" for model in predicate["models"]]
    absent = [blob for blob in predicate["blobs"] if not blob["layout"]]
    built = [blob for blob in absent if "built" in blob]
    if absent:
        said += [f"not checked: {len(absent) - len(built)} blobs that the other side has"]
    if built:
        said += [f"not checked: {len(built)} blobs that it builds from them and the patches that travel"]
    said += ["not checked: the officer's sheet"]
    said += ["not checked: policy, rollback, expiry, revocation, manifests against blobs, what the models contain"]
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a sealift bundle with nothing installed.")
    parser.add_argument("folder", help="where the volumes are, or one of the volumes")
    parser.add_argument("--pub", action="append", required=True, metavar="FILE", help="public key of a trusted signer")
    parser.add_argument("--threshold", type=int, default=1, help="how many of these signers are needed (default 1)")
    approver = "public key of an approver; with it an approval is needed"
    parser.add_argument("--approver", action="append", default=[], metavar="FILE", help=approver)
    parser.add_argument("--approver-threshold", type=int, default=1, help="how many approvers are needed (default 1)")
    parser.add_argument("--approval", action="append", default=[], metavar="FILE", help="an approval from elsewhere")
    options = parser.parse_args()
    if min(options.threshold, options.approver_threshold) < 1:
        parser.error("thresholds are at least 1")
    try:
        roles = [("publisher", read_signers(options.pub), options.threshold)]  # type: Roles
        if options.approver:
            roles.insert(0, ("approver", read_signers(options.approver), options.approver_threshold))
        for line in check(options.folder, roles, options.approval):
            print(line)
        print("verified: every byte of every volume is as signed")
        return 0
    except Refused as error:
        words = {1: "refused", 3: "not trusted", 4: "cannot be read"}
        print(f"{words[error.code]}: {error}", file=sys.stderr)
        return error.code
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, StopIteration, struct.error) as error:
        print(f"refused: malformed: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot be read: {error}", file=sys.stderr)
        return 4


if __name__ == "__main__":
    sys.exit(main())
