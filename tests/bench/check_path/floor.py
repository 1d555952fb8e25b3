"""The least that an ext_authz server can be: it answers every stream OK and reads nothing of it.

Run as `python -m tests.bench.check_path.floor SOCKET`. Only for measuring: what it costs to be asked at all. It knows
frames apart by their length, acknowledges SETTINGS and PING, and writes the same bytes for each stream that ends.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import cast

from tests.bench.check_path.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HEADER_BYTES,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_STEP_BYTES,
    field,
    frame,
    greeting,
    grpc_message,
    window_update,
)

#: a CheckResponse of status 0 with an empty ok_response; an empty one would be an ALLOW too
OK_MESSAGE = b"\x0a\x00\x1a\x00"
_GREETING = greeting()
_HEAD = b"\x88" + field(b"content-type", b"application/grpc")
_BODY = grpc_message(OK_MESSAGE)
_TRAILERS = field(b"grpc-status", b"0")


def answer(stream: int) -> bytes:
    return (
        frame(HEADERS, END_HEADERS, stream, _HEAD)
        + frame(DATA, 0, stream, _BODY)
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, _TRAILERS)
    )


class Floor(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._unread = b""
        self._skip = len(PREFACE)
        self._used_bytes = 0
        self._transport.write(_GREETING)

    def data_received(self, data: bytes) -> None:
        data = self._unread + data
        at, out = self._skip, []
        end = len(data)
        while end - at >= HEADER_BYTES:
            length_and_kind, flags, stream = FRAME_HEADER.unpack_from(data, at)
            length = length_and_kind >> 8
            after = at + HEADER_BYTES + length
            if after > end:
                break
            kind = length_and_kind & 0xFF
            if kind == DATA:
                self._used_bytes += length
            if kind in {DATA, HEADERS}:
                if flags & END_STREAM:
                    out.append(answer(stream))
            elif kind == PING and not flags & ACK:
                out.append(frame(PING, ACK, 0, data[after - length : after]))
            elif kind == SETTINGS and not flags & ACK:
                out.append(frame(SETTINGS, ACK, 0, b""))
            at = after
        self._skip = max(0, at - end)
        self._unread = data[at:]
        if self._used_bytes >= WINDOW_STEP_BYTES:
            out.append(window_update(self._used_bytes))
            self._used_bytes = 0
        if out:
            self._transport.write(b"".join(out))


async def serve(path: str) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(Floor, path)
    print("listening", flush=True)
    told_to_end = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told_to_end.set)
    await told_to_end.wait()
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
