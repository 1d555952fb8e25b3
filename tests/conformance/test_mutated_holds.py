"""Damaged sessions of held calls free none of them; 100,000 of them: `make proof-http2`."""

from __future__ import annotations

import pytest

from authz.decision import Reason
from authz.sidecar.check.http2.grpc import GRPC_HEAD, GRPC_TRAILERS, Status, status_trailers
from authz.sidecar.hold.reply import BEGINS, cut
from tests.conformance.mutated_holds import Damage, freed
from tests.support import http2_frames as http2
from tests.support.http2_frames import data, headers, heard, message

DENIED = status_trailers(Status.PERMISSION_DENIED, "no")
CUT = cut(Reason.NO_POLICY, b"d" * 32)


def test_no_damaged_session_frees_a_call_that_is_held() -> None:
    damage = Damage(seed=0)
    damage.more(1000)
    told = damage.told
    assert not told.wrong
    # It says something only where calls come to all of these.
    assert told.held > told.sessions
    assert min(told.ended, told.cut) > told.sessions // 4


@pytest.mark.parametrize(
    ("by_client", "messages", "trailers", "claimed", "is_freed"),
    [
        (False, [BEGINS], b"", 1, False),
        (False, [BEGINS], b"", 0, True),
        (False, [BEGINS], GRPC_TRAILERS, 1, True),
        (True, [BEGINS], GRPC_TRAILERS, 1, False),
        (True, [BEGINS, CUT], GRPC_TRAILERS, 1, True),
        (False, [BEGINS, CUT], DENIED, 1, False),
        (False, [CUT, BEGINS], DENIED, 1, True),
    ],
)
def test_the_judge_knows_a_call_that_is_freed(
    by_client: bool,  # noqa: FBT001 a case of a table
    messages: list[bytes],
    trailers: bytes,
    claimed: int,
    is_freed: bool,  # noqa: FBT001
) -> None:
    said = http2.HANDSHAKE + data(1, b"", end=by_client)
    told = headers(1, raw=http2.EMPTY_TABLE + GRPC_HEAD) + data(1, b"".join(map(message, messages)))
    told += headers(1, raw=trailers, end=True) if trailers else b""
    assert bool(list(freed(said, heard(told), claimed=claimed))) == is_freed
