"""The seam between a worker and whatever speaks HTTP/2 for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import socket

#: the bytes of a CheckRequest -> the bytes of a CheckResponse
Answer: TypeAlias = Callable[[bytes], bytes]


class CheckServer(Protocol):
    """Serves on a socket that other processes may accept on too."""

    async def serve(self, listening: socket.socket) -> None:
        """Accept on a socket that listens, from when this returns."""

    async def drain(self, *, within_s: float) -> None:
        """Accept nobody more at once, tell every connection (GOAWAY), and return when all have ended, or been cut."""

    def lag_s(self) -> float:
        """Give how long a peer waits for an answer by now, and begin to measure it anew."""


#: makes a server of what answers checks and what answers rechecks (of held calls); what it is given third is told of
#: faults of the program
ServerMaker: TypeAlias = Callable[[Answer, Answer, Callable[[Exception], None]], CheckServer]
