"""Ten thousand long calls that cost their client little, and what each process of a machine spends while they end.

The frames of HTTP/2 are cut and counted, nothing more: a client that took longer than what it waits for would measure
itself.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from array import array
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Final

from tests.support import http2_frames
from tests.support.http2_frames import DATA, END_STREAM, PING, RST_STREAM, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_HEADER: Final = Struct(">IBI")
_WINDOW: Final = 2**31 - 1
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
#: a bound for what must happen, never a measure
PATIENCE_S: Final = 60.0


class HeldStreams:
    """Streams over connections of one thread; when each ended, on the monotonic clock.

    `ends` says which frame ends a stream, and gives what is answered to it.
    """

    def __init__(
        self, connect: Callable[[], socket.socket], *, ends: Callable[[int, int, bytes], bool], answer: bool = False
    ) -> None:
        self._connect = connect
        self._ends = ends
        self._answer = answer
        self._selector = selectors.DefaultSelector()
        self._unread: dict[socket.socket, bytes] = {}
        self._running: dict[socket.socket, set[int]] = {}
        self._begun: dict[socket.socket, set[int]] = {}
        self.begun = self.refused = 0
        self.ended_s = array("d")

    def open(self, requests: list[bytes], *, at_once: int = 100) -> None:
        """Open a connection with a stream for each request (its frames, of the stream it is given)."""
        connection = self._connect()
        connection.sendall(http2_frames.PREFACE + http2_frames.settings({4: _WINDOW}) + http2_frames.SETTINGS_ACK)
        connection.sendall(http2_frames.window_update(0, _WINDOW - 65_535))
        self._unread[connection] = b""
        self._running[connection] = set()
        self._begun[connection] = set()
        self._selector.register(connection, selectors.EVENT_READ)
        wanted = self.begun + self.refused
        for first in range(0, len(requests), at_once):
            some = requests[first : first + at_once]
            self._running[connection].update(range(2 * first + 1, 2 * (first + len(some)), 2))
            connection.sendall(b"".join(some))
            wanted += len(some)
            self.until(lambda wanted=wanted: self.begun + self.refused >= wanted)

    def until(self, true: Callable[[], bool]) -> None:
        """Read until it is so; fails where it takes too long."""
        end_s = time.monotonic() + PATIENCE_S
        while not true():
            found = self._selector.select(timeout=1.0)
            assert time.monotonic() < end_s, (self.begun, len(self.ended_s))
            for key, _ in found:
                assert isinstance(key.fileobj, socket.socket)
                self._read(key.fileobj)

    def _read(self, connection: socket.socket) -> None:
        received = connection.recv(1 << 20)
        assert received, "a connection has ended"
        now_s = time.monotonic()
        data = self._unread[connection] + received
        running = self._running[connection]
        at = 0
        said = []
        while len(data) - at >= _HEADER.size:
            word, flags, stream_id = _HEADER.unpack_from(data, at)
            next_at = at + _HEADER.size + (word >> 8)
            if next_at > len(data):
                break
            kind = word & 0xFF
            if kind == PING and not flags:
                said.append(http2_frames.ping(data[at + _HEADER.size : next_at], ack=True))
            elif kind == SETTINGS or stream_id not in running:
                pass
            elif kind == RST_STREAM or flags & END_STREAM or self._ends(kind, flags, data[at + _HEADER.size : next_at]):
                running.discard(stream_id)
                if stream_id in self._begun[connection]:
                    self.ended_s.append(now_s)
                else:
                    self.refused += 1
                if self._answer:
                    said.append(http2_frames.rst_stream(stream_id))
            elif kind == DATA and stream_id not in self._begun[connection]:
                self._begun[connection].add(stream_id)
                self.begun += 1
            at = next_at
        self._unread[connection] = data[at:]
        if said:
            connection.sendall(b"".join(said))

    def close(self) -> None:
        for connection in self._unread:
            connection.close()


def get_requests(count: int, path: str, *fields: tuple[str, str]) -> list[bytes]:
    """Give so many GETs, as the streams 1, 3, 5... of a connection."""
    head = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "catalog"), *fields]
    return [http2_frames.headers(number, raw=raw, end=True) for number, raw in _blocks(count, head)]


def grpc_requests(path: str, messages: list[bytes], *, end: bool = False) -> list[bytes]:
    """Give a gRPC stream for each message, as the streams 1, 3, 5... of a connection."""
    return [
        http2_frames.headers(number, raw=raw) + http2_frames.data(number, http2_frames.message(message), end=end)
        for (number, raw), message in zip(_blocks(len(messages), http2_frames.grpc_fields(path)), messages, strict=True)
    ]


def _blocks(count: int, fields: Sequence[tuple[str, str]]) -> Iterator[tuple[int, bytes]]:
    block = http2_frames.block(fields)
    for number in range(count):
        yield 2 * number + 1, block if number else http2_frames.EMPTY_TABLE + block


def never(_kind: int, _flags: int, _payload: bytes) -> bool:
    """Only what ends a stream by HTTP/2's own rules does."""
    return False


def spent_s(root: int) -> dict[str, float]:
    """Give the seconds of processor time that a process and its descendants have had by now, by name."""
    spent: dict[str, float] = {}
    for pid in _family(root):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        name, _, rest = stat.partition("(")[2].rpartition(")")
        words = rest.split()
        spent[name] = spent.get(name, 0.0) + (int(words[11]) + int(words[12])) / _TICKS_A_SECOND
    return spent


def _family(root: int) -> Iterator[int]:
    yield root
    for children in Path(f"/proc/{root}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _family(int(child))
