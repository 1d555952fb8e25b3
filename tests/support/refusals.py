"""Decision records of calls that a window refused, as a sidecar writes them."""

from __future__ import annotations

from typing import Any

from authz.decision import Decision, Reason
from authz.identity.spiffe_id import SpiffeId
from authz.policy.window import parse_instant_ns
from authz.request import Call, Direction
from tests.support.decision_record import DecisionRecord, WireFacts


def line(
    time: str,
    *,
    policy: str = "acme",
    reason: str = "decommissioned",
    identity: str | None = "spiffe://acme.example/pull",
    service: str | None = None,
    address: str = "10.0.0.7:4711",
    direction: str = "inbound",
    sidecar: str = "orders",
    request_id: str | None = None,
    **call: Any,
) -> bytes:
    """Give the line of a record, its end included."""
    return DecisionRecord(
        decision_id="d" * 32,
        time_ns=parse_instant_ns(time),
        sidecar=sidecar,
        call=Call(
            direction=Direction(direction),
            service=sidecar,
            caller=None if identity is None else SpiffeId.parse(identity),
            method="GET",
            path="/report",
            host=call.get("host", "orders"),
            address=address,
        ),
        decision=Decision(reason=Reason(reason), policy=policy, revision="r", caller_service=service),
        wire=WireFacts(request_id=request_id, protocol="http/2", tls_version=None, tls_cipher=None, peer_serial=None),
        check_us=20,
    ).json_line()
