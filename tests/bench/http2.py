"""What HTTP/2 costs a call: prebuilt bytes of whole calls through a connection, no sockets, a method that does nothing.

    .venv/bin/python -m tests.bench.http2

"known": every call has the same header block, as Envoy's have. "new": each has another (its deadline is in it).
"apart": the HEADERS of all calls come first and then their DATA. "split": two reads for each batch, cut inside of
a call.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from authz.sidecar.check.http2.connection import Connection
from authz.sidecar.check.http2.grpc import Service
from tests.support.http2_frames import (
    CHECK,
    EMPTY_TABLE,
    HANDSHAKE,
    block,
    call,
    data,
    grpc_fields,
    headers,
    message,
    window_update,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MESSAGE = bytes(1915)  # the size of Envoy's check with 16 headers
ANSWER = bytes(60)
CALLS = 64 * 400
ROUNDS = 5
STREAMS = (1, 16, 64)
OPEN = window_update(0, 2**30)


def connection() -> Connection:
    service = Service({CHECK: lambda _message: ANSWER}, max_message_bytes=1024 * 1024)
    made = Connection(service=service, known={}, clock=time.monotonic, failed=lambda _error: None)
    made.receive(HANDSHAKE + OPEN + headers(1, raw=EMPTY_TABLE + block(grpc_fields()), end=True))
    return made


def known(ids: range) -> list[bytes]:
    return [b"".join(call(each, MESSAGE, TIMED) for each in ids)]


def new(ids: range) -> list[bytes]:
    return [b"".join(call(each, MESSAGE, grpc_fields(CHECK, ("grpc-timeout", f"{each}m"))) for each in ids)]


def apart(ids: range) -> list[bytes]:
    heads = b"".join(headers(each, TIMED) for each in ids)
    return [heads + b"".join(data(each, message(MESSAGE), end=True) for each in ids)]


def split(ids: range) -> list[bytes]:
    whole = known(ids)[0]
    return [whole[:-1000], whole[-1000:]]


TIMED = grpc_fields(CHECK, ("grpc-timeout", "200m"), ("user-agent", "envoy"), ("x-envoy-internal", "true"))
WAYS: tuple[Callable[[range], list[bytes]], ...] = (known, new, apart, split)


def chunks(way: Callable[[range], list[bytes]], streams: int) -> Iterator[bytes]:
    for first in range(3, 3 + 2 * CALLS, 2 * streams):
        yield from way(range(first, first + 2 * streams, 2))


def us_per_call(way: Callable[[range], list[bytes]], streams: int) -> float:
    prebuilt = list(chunks(way, streams))
    spent = []
    for _ in range(ROUNDS):
        receive = connection().receive
        answered = 0
        before = time.process_time()
        for each in prebuilt:
            answered += len(receive(each))
        spent.append((time.process_time() - before) / CALLS * 1e6)
        assert answered > CALLS * len(ANSWER), "not every call was answered"
    return statistics.median(spent)


def main() -> None:
    print(
        f"CPU us a call, median of {ROUNDS} rounds of {CALLS} calls; {len(MESSAGE)} bytes asked, {len(ANSWER)} answered"
    )
    print("streams " + "".join(f"{way.__name__:>9}" for way in WAYS))
    for streams in STREAMS:
        print(f"{streams:7} " + "".join(f"{us_per_call(way, streams):9.2f}" for way in WAYS))


if __name__ == "__main__":
    main()
