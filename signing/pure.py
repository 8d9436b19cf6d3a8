"""Signature verification with the standard library alone: Ed25519 (RFC 8032), ECDSA P-384 (FIPS 186-5) and ML-DSA-65
/ -87 (FIPS 204).

For the one-file verifier on a bare host, Python 3.8 and newer, and as the slow twin that the tests compare the fast
library with. Verification only: nothing here holds a secret, so nothing here needs constant time.

* A malformed key, signature or point is an invalid signature: every function answers True or False and does not raise.
* Ed25519 is the strict, cofactorless check: S below the group's order, points in their one encoding.
* ECDSA is over SHA-384, its signature in DER, its key a compressed point.
* ML-DSA is the pure variant with an empty context.
"""

# ruff: noqa: UP006, UP035, B905, RUF007 - Python 3.8 has no list[int] in an alias, zip(strict=) or pairwise.
from __future__ import annotations

import hashlib
from typing import List, NamedTuple, Tuple

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
