"""The hold's server as a connection knows it, with calls that the test has allowed, and what it told of them.

    .venv/bin/python -m tests.support.held_service PORT [TABLE_BYTES]

serves it on a loopback port, as `tests.support.http2_server` does: every id may be held, as often as it is asked for,
but for `UNKNOWN`. What is held yet when all connections have gone is a complaint.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING

from envoy.service.ext_proc.v3 import external_processor_pb2

from authz.sidecar.hold.held_call import HeldCall
from authz.sidecar.hold.hold_server import hold_service
from authz.sidecar.hold.notice import Notice
from tests.support.http2_server import serve

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.decision import Reason
    from authz.sidecar.check.http2.grpc import Service

UNKNOWN = b"0" * 32


class HeldService:
    """Holds every call but one; `held` are those that have not ended, by the order in which they came."""

    def __init__(self) -> None:
        self.held: dict[int, HeldCall] = {}
        self.claims: list[bytes] = []
        self.ends = 0
        self.service: Service = hold_service(claim=self._claim, end=self._end)

    def _claim(self, decision_id: bytes, cut: Callable[[Reason], None]) -> HeldCall | None:
        if len(decision_id) != len(UNKNOWN) or decision_id == UNKNOWN:
            return None
        self.claims.append(decision_id)
        call = HeldCall(Notice(decision_id=decision_id, generation=1, checked_ns=0, ends_ns=None, message=b""), 0.0)
        call.claim(cut)
        self.held[id(call)] = call
        return call

    def _end(self, call: HeldCall) -> None:
        del self.held[id(call)]  # a second end is a KeyError
        self.ends += 1


def begins(decision_id: bytes) -> bytes:
    """Give the first message of a call, as Envoy tells of it."""
    request = external_processor_pb2.ProcessingRequest()
    header = request.request_headers.headers.headers.add()
    header.key, header.raw_value = "x-authz-hold", decision_id
    content: bytes = request.SerializeToString()
    return content


#: the message at the end of an answer with trailers
TRAILERS = external_processor_pb2.ProcessingRequest(
    response_trailers=external_processor_pb2.HttpTrailers()
).SerializeToString()


async def _run(port: int, table_bytes: int) -> None:
    logging.disable()  # that nobody has told of a call; faults of the program come by themselves
    held = HeldService()
    await serve(held.service, port, table_bytes)
    if held.held:
        sys.stderr.write(f"{len(held.held)} calls are held for nobody\n")


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 0))
