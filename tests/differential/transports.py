"""The same bytes to the check path's two transports, and what each makes of them."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf import json_format
from google.protobuf.message import DecodeError

from tests.differential.check_sessions import opening
from tests.support import http2_frames as http2
from tests.support.http2_frames import Answered, data, headers, heard, message
from tests.support.sidecar_process import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.differential.check_sessions import Session

#: `grpc-timeout`, and how it is said in the metadata
_TIME_LEFT = re.compile(r'(?<=")[0-9]{8,9}(?:m|S|ms|s)(?=")')
_DEFAULT_WINDOW_BYTES = 65_535
_INITIAL_WINDOW = 4
#: RFC 9113 6.5.2: what a peer's encoder may keep where nothing else was said
_TABLE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """What came of a stream: in short, and the whole answer where there is one, without its id."""

    short: str
    whole: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a session's streams, and of its connection."""

    streams: tuple[Came, ...]
    connection: str

    def __str__(self) -> str:
        return ", ".join([*(each.short for each in self.streams), self.connection])


def outcome(path: Path, session: Session, asked: bytes) -> Outcome:
    """Say a session to the server on this socket; give what came of each stream, and of the connection."""
    last = session.last_call
    pieces = [http2.HANDSHAKE, *session.said]
    begins = headers(last) if any(each[3:4] == b"\1" for each in session.said) else opening(stream_id=last)
    pieces += [begins, data(last, message(asked), end=True)]
    awaited = {*session.answered, last}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(path))
        talk = _Talk(connection)
        for piece in pieces:
            talk.say(piece)
        talk.until(lambda: awaited <= talk.settled)
    said = talk.heard
    goes_on = said.of(last).message is not None
    streams = tuple(_of(said.of(each)) for each in session.answered)
    return Outcome(
        # Who closes a connection may or may not come to say of each stream that it is closed.
        streams=streams if goes_on else tuple(each if each.whole else Came(short="nothing") for each in streams),
        connection="it goes on" if goes_on else "it ends" if said.goaway is None else f"GOAWAY {said.goaway}",
    )


class _Talk:
    """One connection: sends as windows allow, and keeps what is heard."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._said = bytearray()
        self._sent: dict[int, int] = {}
        self._is_over = False
        self.heard = heard(b"", table_bytes=_TABLE_BYTES)

    @property
    def settled(self) -> set[int]:
        streams = self.heard.streams
        return {each for each, answered in streams.items() if answered.ended or answered.reset is not None}

    def say(self, piece: bytes) -> None:
        size = len(piece) - 9
        stream_id = int.from_bytes(piece[5:9], "big")
        if piece[3:4] == b"\0" and size > 0 and stream_id:
            self.until(lambda: self._room(stream_id) >= size or stream_id in self.settled)
            if stream_id in self.settled and self._room(stream_id) < size:
                return
            for each in (0, stream_id):
                self._sent[each] = self._sent.get(each, 0) + size
        try:
            self._connection.sendall(piece)
        except OSError:
            self._is_over = self._is_over or not self._hear()

    def until(self, done: Callable[[], bool]) -> None:
        """Listen until it is so, or until the connection has ended."""
        while not self._is_over and not done():
            self._is_over = not self._hear()

    def _room(self, stream_id: int) -> int:
        initial = self.heard.settings.get(_INITIAL_WINDOW, _DEFAULT_WINDOW_BYTES)
        windows = {0: _DEFAULT_WINDOW_BYTES, stream_id: initial}
        for each, increment in self.heard.windows:
            if each in windows:
                windows[each] += increment
        return min(size - self._sent.get(each, 0) for each, size in windows.items())

    def _hear(self) -> bool:
        try:
            said = self._connection.recv(65_536)
        except ConnectionError:
            said = b""
        self._said += said
        whole = at = 0
        while at + 9 <= len(self._said):
            at += 9 + int.from_bytes(self._said[at : at + 3], "big")
            whole = at if at <= len(self._said) else whole
        self.heard = heard(self._said[:whole], table_bytes=_TABLE_BYTES)
        return bool(said) and not self.heard.goaway


def _of(answered: Answered) -> Came:
    content = answered.message
    if content is not None:
        return _answer(content)
    if answered.ended and answered.grpc_status is not None:
        return Came(short=f"grpc-status {answered.grpc_status}")
    if answered.ended:
        return Came(short=f"HTTP {answered.head.get(':status')}")
    return Came(short="nothing" if answered.reset is None else f"RST_STREAM {answered.reset}")


def _answer(content: bytes) -> Came:
    try:
        response = external_auth_pb2.CheckResponse.FromString(content)
    except DecodeError:
        return Came(short=f"message {content.hex()}")
    told = response.dynamic_metadata
    if "reason" not in told:
        return Came(short=f"message {content.hex()}")
    # It is another one each time, in three places.
    text = json_format.MessageToJson(response, indent=None, sort_keys=True).replace(told["decision_id"], "ID")
    # Both say how long the call may still run; they were not asked in the same instant.
    text = _TIME_LEFT.sub("TIME", text)
    return Came(short=told["reason"], whole=text)
