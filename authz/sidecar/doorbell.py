"""How one process wakes another that waits in `poll`, without ever waiting itself."""

from __future__ import annotations

import contextlib
import os


class Doorbell:
    """A pipe that is shared by fork; any number may ring it, one waits for `descriptor` to be readable."""

    def __init__(self) -> None:
        self.descriptor, self._rung = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def ring(self) -> None:
        """Wake who waits; a pipe that is full says so already."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._rung, b"\0")

    def answer(self) -> None:
        """Take what was rung out of the pipe."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass

    def close(self) -> None:
        """Give the descriptors back; who shares the bell keeps theirs."""
        os.close(self.descriptor)
        os.close(self._rung)
