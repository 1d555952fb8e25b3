"""What the echo app answers: the request as it was received, or a stream of lines when the request asks for one.

It decides what the headers `x-echo-stream`, `x-echo-idle` and `x-echo-headers` mean, and what the answers look like;
how they travel is the business of each protocol's own module. Pure.

- `x-echo-stream: SECONDS` is a decimal number; more than a day is a day, anything else is refused with 400, because a
  stream that silently is none would make a test pass for the wrong reason.
- `x-echo-idle` and `x-echo-headers` are on when they are `1`, and off otherwise; without `x-echo-stream` the former
  says nothing.
- Header values are shown as latin-1, one character a byte, so that none is lost.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from authz.mesh.errors import MeshError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Envoy lets 60 KiB of headers through and adds its own: the app is never the one to refuse.
MAX_HEADERS_BYTES = 128 * 1024
#: a stream that nobody ends must end: a day
MAX_STREAM_S = 86_400.0
TICK_S = 0.1

_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class EchoProtocol(StrEnum):
    """The protocols under the names that decision records give them."""

    HTTP_1_1 = "http/1.1"
    HTTP_2 = "http/2"
    GRPC = "grpc"
    WEBSOCKET = "websocket"


class EchoRefusal(MeshError):  # noqa: N818 it is an answer, not a failure
    """The request cannot be done as it asks; `status` is the HTTP status of the answer, `headers` belong to it."""

    def __init__(self, message: str, *, status: int, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers

    @property
    def body(self) -> bytes:
        """The answer's JSON."""
        return json.dumps({"error": str(self)}).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoRequest:
    """One request as received: `path` is the request target with its query, `headers` have lower-case names."""

    service: str
    method: str
    path: str
    host: str
    protocol: EchoProtocol
    headers: Mapping[str, str]

    @property
    def body(self) -> bytes:
        """The JSON that is answered: ASCII on one line."""
        return json.dumps(
            {
                "service": self.service,
                "method": self.method,
                "path": self.path,
                "host": self.host,
                "protocol": self.protocol,
                "headers": self.headers,
            }
        ).encode()

    @property
    def wants_headers(self) -> bool:
        """Whether a gRPC or WebSocket answer begins with the JSON that HTTP would have got."""
        return self.headers.get("x-echo-headers") == "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamWish:
    """A stream of lines for so many seconds from the start of the request; an idle one says its first line only."""

    seconds: float
    idle: bool
    server_sent_events: bool

    @property
    def content_type(self) -> bytes:
        """The media type of the lines."""
        return b"text/event-stream" if self.server_sent_events else b"text/plain; charset=utf-8"

    def line(self, number: int) -> bytes:
        """One line of the answer, or one event."""
        return b"data: tick %d\n\n" % number if self.server_sent_events else b"tick %d\n" % number


def stream_wish(request: EchoRequest) -> StreamWish | None:
    """Give the stream that a request asks for, None for none; raises EchoRefusal for a duration that is no number."""
    seconds = request.headers.get("x-echo-stream")
    if seconds is None:
        return None
    if not _SECONDS.fullmatch(seconds):
        raise EchoRefusal(f"x-echo-stream: `{seconds[:64]}` is no number of seconds", status=400)
    media_types = [part.partition(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    return StreamWish(
        seconds=min(float(seconds), MAX_STREAM_S),
        idle=request.headers.get("x-echo-idle") == "1",
        server_sent_events="text/event-stream" in media_types,
    )


def joined_headers(fields: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Give header fields by lower-case name, those of one name joined by a comma and a blank, in their order."""
    headers: dict[str, str] = {}
    for name_bytes, value_bytes in fields:
        name, value = name_bytes.decode("latin-1").lower(), value_bytes.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers
