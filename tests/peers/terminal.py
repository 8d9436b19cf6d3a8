"""`sealift run` under a pseudo-terminal, for tests that type and look."""

from __future__ import annotations

import codecs
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Terminal:
    """Use it as a context manager: whatever happens, the program has ended after it.

    `kind`: TERM. With "dumb" the prompt draws nothing but lines; keys other than Enter and Ctrl-C are heard for sure
    once a drawn prompt shows its placeholder.
    """

    def __init__(self, url: str, home: Path, *arguments: str, kind: str = "dumb", **environment: str) -> None:
        self._master, slave = pty.openpty()
        own = {"SEALIFT_HOME": str(home), "SEALIFT_HOST": url, "TERM": kind, "PYTHONPATH": str(ROOT)}
        quiet = {"PROMPT_TOOLKIT_NO_CPR": "1", "COLUMNS": "80", "LINES": "24"}
        command = [sys.executable, str(ROOT / "sealift.py"), "run", *arguments]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, **own, **quiet, **environment},
            start_new_session=True, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end within a character

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def wait_for(self, text: str, after: int = 0) -> int:
        """Reads until `text` appears; returns where it ends."""
        end = time.monotonic() + 60
        while text not in self.seen[after:]:
            assert time.monotonic() < end, f"waited 60 s for {text!r}, saw {self.seen!r}"
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    self.seen += self._decoder.decode(os.read(self._master, 65536))
                except OSError:
                    break  # the other side is closed
        assert text in self.seen[after:], f"the program ended before {text!r}, saw {self.seen!r}"
        return self.seen.index(text, after) + len(text)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())


def _take_terminal() -> None:
    """As a shell starts a program: the terminal is its own, and Ctrl-C is heard even where the tests ignore it."""
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
