"""Control's part in records without its process: rings filled by hand, and controls that follow one another."""

from __future__ import annotations

import contextlib
import gzip
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from authz.decision import Decision, Reason
from authz.identity.spiffe_id import SpiffeId
from authz.records.batch import Batch, batch_from_json
from authz.records.call_end import CallEnd
from authz.records.packed_record import DecisionPacker
from authz.request import Call, Direction
from authz.sidecar.check.ring_entry import RECORD
from authz.sidecar.control.control_records import ControlRecords
from authz.sidecar.control.ended_calls import HeardCalls
from authz.sidecar.record_ring import RingProducer
from authz.sidecar.settings import SidecarSettings
from authz.sidecar.shared_memory import SharedMemory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import FrameType

RING_BYTES = 64 * 1024
ORDERS = "spiffe://shop.example/orders"


class Killed(BaseException):
    """What a control that is killed never gets to see."""


class RecordingBench:
    """Two workers' rings; `control` makes the control that follows the one before."""

    def __init__(self, folder: Path, *, joins: bool = True, log: bool = True, **settings: Any) -> None:
        self.folder = folder
        self.log = folder / "decisions.jsonl"
        self.settings = SidecarSettings(
            **{
                "service": "catalog",
                "policies": "unused",
                "socket": "unused",
                "state": folder / "state",
                "hub": "http://127.0.0.1:1",
                "decision_log": str(self.log) if log else None,
                "access_log_socket": "unused" if joins else None,
                "ring_bytes": RING_BYTES,
                **settings,
            }
        )
        self.shared = SharedMemory.for_workers(1, ring_bytes=RING_BYTES)
        self.producers = [RingProducer(memory, wake=lambda: None) for memory in self.shared.rings[:2]]
        self._packer = DecisionPacker()
        self.put_ids: list[str] = []
        self._controls: list[ControlRecords] = []

    def control(self, **told: Any) -> ControlRecords:
        control = ControlRecords(
            self.settings,
            self.shared,
            heard=HeardCalls() if self.settings.access_log_socket else None,
            status=lambda: ("r" * 64, True, None),
            written=lambda: None,
            **told,
        )
        self._controls.append(control)
        return control

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close what the system would close at a process's end."""
        for control in self._controls:
            if control._decision_log is not None:
                with contextlib.suppress(OSError):
                    control._decision_log.close()
        self.shared.records_bell.close()

    def put(
        self, *, reason: Reason = Reason.ALLOWED, ring: int = 0, time_ns: int | None = None, **call: Any
    ) -> tuple[str, bool]:
        """Have a worker decide; gives the decision's id and whether its record found room."""
        decision_id = os.urandom(16).hex()
        made = Call(
            **{
                "direction": Direction.INBOUND,
                "service": "catalog",
                "caller": SpiffeId.parse(ORDERS),
                "method": "GET",
                "path": "/items/1",
                "host": "catalog",
                "address": "127.0.0.1:4000",
                **call,
            }
        )
        packed = self._packer.packed(
            decision_id=decision_id.encode(),
            time_ns=time.time_ns() if time_ns is None else time_ns,
            call=made,
            caller=None if made.caller is None else str(made.caller),
            decision=Decision(
                reason=reason,
                policy=None if reason is Reason.NO_POLICY else "orders-read-catalog",
                revision="a" * 64,
                caller_service="orders",
                destination_service="catalog",
                route="/items/{id}" if reason.allows else None,
            ),
            request_id=None,
            protocol="http/2",
            tls_version="TLSv1_3",
            tls_cipher="TLS_AES_128_GCM_SHA256",
            peer_serial="0a",
            check_us=30,
        )
        found_room = self.producers[ring].put(RECORD + packed)
        if found_room:
            self.put_ids.append(decision_id)
        return decision_id, found_room

    def batches(self) -> list[Batch]:
        """Give what is in the spool, in order."""
        folder = self.folder / "state" / "spool"
        return [batch_from_json(gzip.decompress(each.read_bytes())) for each in sorted(folder.glob("*-*.json.gz"))]

    def counted(self) -> int:
        return sum(flow.count for batch in self.batches() for flow in batch.flows)


def end_of(
    decision_id: str, *, status: int = 200, sent: int = 10, ended_ns: int | None = None
) -> tuple[bytes, CallEnd]:
    return decision_id.encode(), CallEnd(ended_ns or time.time_ns(), 1500, status, 5, sent)


def killed_at(line: int, run: Callable[[], None]) -> bool:
    """Run something, and kill it at its so-manieth line of control's code; says whether it came that far."""
    left = line

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if "/authz/sidecar/control/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                raise Killed
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except Killed:
        return True
    finally:
        sys.settrace(before)
    return False
