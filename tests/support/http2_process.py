"""A small server of our HTTP/2 as a process, on a loopback port of its own: it echoes, or is what a module serves."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]


class Http2Process:
    def __init__(self, *, table_bytes: int = 0, module: str = "tests.support.http2_server") -> None:
        command = [sys.executable, "-m", module, "0", str(table_bytes)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.port = int(line)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def drain(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> tuple[int, str]:
        """Wait for its end; give its status and what it complained of."""
        complaints = self.process.communicate(timeout=20)[1]
        return self.process.returncode, complaints

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
