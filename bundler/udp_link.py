"""The two ends of a network diode: a socket that is only written to, and one that is only read."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bundler.errors import BadRequest, MediumUnavailable
from bundler.gf256 import Bytes
from bundler.udp_receive import Receiver

BUFFER = 64 << 20  # bytes asked of the kernel: a second at 500 Mbit/s
SILENCE = 30.0  # seconds without a datagram that count as the end
TELL = 10.0  # seconds between two reports
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
SOL_UDP, UDP_SEGMENT = 17, 103  # linux/udp.h: the kernel cuts one buffer into datagrams


def parse_address(text: str, option: str) -> tuple[str, int]:
    """`192.0.2.7:5000` or `[2001:db8::7]:5000`. Raises BadRequest."""
    match = re.fullmatch(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<host>[^:\s\[\]]+)):(?P<port>[0-9]{1,5})", text.strip())
    if not match or not 0 < int(match["port"]) < 65_536:
        raise BadRequest(f"{option} {text[:80]!r}: expected an address and a port, such as 192.0.2.7:5000")
    return match["six"] or match["host"], int(match["port"])


class UdpLink:
    """A socket that is written to and never read."""

    def __init__(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(found[0], socket.SOCK_DGRAM)
        except OSError as error:
            raise MediumUnavailable(f"{host}: {error.strerror or error}") from None
        self._to: Any = found[4]
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._segments = True

    def __enter__(self) -> UdpLink:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, packets: Bytes) -> None:
        if self._segments and len(packets) > 1:
            try:
                cut = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", packets.shape[1]))]
                self._retry(lambda: self._socket.sendmsg([packets.tobytes()], cut, 0, self._to))
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EIO, errno.ENOPROTOOPT, errno.EMSGSIZE, errno.EOPNOTSUPP):
                    raise MediumUnavailable(f"cannot send: {error.strerror}") from None
                self._segments = False  # this kernel or interface does not cut
        try:
            for packet in packets:
                self._retry(partial(self._socket.sendto, packet.tobytes(), self._to))
        except OSError as error:
            raise MediumUnavailable(f"cannot send: {error.strerror}", hint="is --mtu too large?") from None

    def _retry(self, call: Callable[[], object]) -> None:
        """A full queue of the interface is waited for; nobody answering is none of our business."""
        for _ in range(1000):
            with contextlib.suppress(ConnectionRefusedError):
                try:
                    call()
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    time.sleep(0.001)
                    continue
            return


def open_socket(host: str, port: int) -> tuple[socket.socket, int]:
    """Bound, and the bytes of the kernel's buffer. Raises BadRequest for a name, MediumUnavailable."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        raise BadRequest(f"--udp {host[:80]!r}: expected an address of this host, such as 0.0.0.0") from None
    try:
        found = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        for option in (SO_RCVBUFFORCE, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, option, BUFFER)
                break
        found.bind((host, port))
    except OSError as error:
        raise MediumUnavailable(f"cannot listen on {host} port {port}: {error.strerror}") from None
    return found, found.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles it (socket(7))


def serve(found: socket.socket, receiver: Receiver, *, once: bool, silence: float = SILENCE) -> None:
    """Until interrupted; or `once`: until every sender that was heard has ended, or all are silent."""
    found.settimeout(0.2)
    heard = time.monotonic()
    told, began = heard, False
    while True:
        try:
            came = receiver.take(found.recv(65_535))
        except TimeoutError:
            came = False
        now = time.monotonic()
        if came:
            heard, began = now, True
            if now - told > TELL:
                told = now
                receiver.tell()
            continue
        if began and (now - heard > silence or (receiver.ended and now - heard > 1)):
            receiver.finish()
            receiver.ended.clear()
            began = False
            if once:
                return
