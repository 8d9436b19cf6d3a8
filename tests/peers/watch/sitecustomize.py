"""A watch on the network: put this folder on PYTHONPATH, and name a FIFO in SEALIFT_WATCH.

Every Python that starts with it writes `start <pid> <arguments>` into the FIFO. An attempt to reach anything but this
machine (connect, send without a connection, a name look-up) writes `attempt <pid> <event> <target>` and ends the
process with status 97 before the system call is made, so that no `except` can hide it. Children are watched too, also
those that get an environment of their own. A FIFO and no file: a confined child may not write files.

It sees what Python does. What native code does is the business of the network namespace and of the look at its symbols.
"""

from __future__ import annotations

import ipaddress
import os
import sys

STATUS = 97
_FIFO = os.environ.get("SEALIFT_WATCH", "")
_HERE = os.path.dirname(os.path.abspath(__file__))


def _local(host: object) -> bool:
    if host is None or host in ("", b"", "localhost", b"localhost"):
        return True
    text = host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else str(host)
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _target(event: str, arguments: tuple[object, ...]) -> object:
    """The host an event wants to reach; None for what stays on this machine."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        return (
            address[0] if isinstance(address, tuple) and address else None
        )  # else: a Unix socket, or connected already
    if event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        return arguments[0]
    return None


if _FIFO:
    _out = os.open(_FIFO, os.O_RDWR | os.O_CLOEXEC)

    def _say(line: str) -> None:
        os.write(_out, (line.replace("\n", " ")[:2000] + "\n").encode("utf-8", "replace"))

    def _hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "subprocess.Popen":
            environment = arguments[3]
            if isinstance(environment, dict):
                environment["SEALIFT_WATCH"] = _FIFO
                environment["PYTHONPATH"] = os.pathsep.join([_HERE, *filter(None, [environment.get("PYTHONPATH")])])
        elif event.startswith("socket.") and not _local(_target(event, arguments)):
            _say(f"attempt {os.getpid()} {event} {_target(event, arguments)!r}")
            os._exit(STATUS)

    sys.addaudithook(_hook)
    _say(f"start {os.getpid()} {' '.join(sys.orig_argv[1:])}")
