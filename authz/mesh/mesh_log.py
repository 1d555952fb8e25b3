"""What a mesh says while it runs: to whoever listens, and for later into STATE/logs/mesh.log."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Protocol, Self

from authz.instant import rfc3339_from_ns

if TYPE_CHECKING:
    from pathlib import Path


class Listener(Protocol):
    """Who is told how the mesh is doing."""

    def progress(self, text: str) -> None:
        """Take one line about what has just happened."""

    def ready(self, text: str) -> None:
        """Take the line that says that everything serves; comes once at most."""


class MeshLog:
    """A listener that writes each line with its time into a file and hands it on to another listener."""

    def __init__(self, path: Path, listener: Listener, *, takes_output: bool) -> None:
        """Open the file; `takes_output` sends what this process prints there too."""
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._listener = listener
        if takes_output:
            for stream in (sys.stdout, sys.stderr):
                os.dup2(self._fd, stream.fileno())

    def progress(self, text: str) -> None:
        """Write one line and hand it on."""
        self._write(text)
        self._listener.progress(text)

    def ready(self, text: str) -> None:
        """Write the line that says that everything serves and hand it on."""
        self._write(text)
        self._listener.ready(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _write(self, text: str) -> None:
        # A log that cannot be written (a full disk) does not stop a mesh.
        with contextlib.suppress(OSError):
            os.write(self._fd, f"{rfc3339_from_ns(time.time_ns())} {text}\n".encode())
