"""A grant that is taken back under every kind of held stream, through a local mesh: how each ended."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.support.conditions import eventually
from tests.support.local_mesh import request
from tests.support.long_streams import Ended, LongStream, every_long_stream
from tests.support.window_close import KINDS, PATIENCE_S, SET, WATCH, Close, closing, cuts_of, put, records_since

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.local_mesh import LocalMesh

#: A GET that says nothing of itself may be answered for long, and nobody can tell before.
HELD_KINDS: Final = tuple(kind for kind in KINDS if not kind.startswith(("chunked answer", "silent answer")))
#: What nothing holds is ended by draining its connections.
DRAINED_KINDS: Final = tuple(kind for kind in KINDS if kind not in HELD_KINDS)
ORDERS: Final = "spiffe://shop.example/orders"
REVOKING_SET: Final = SET.replace(
    "trustDomains: [shop.example]", f'trustDomains: [shop.example], revoked: ["{ORDERS}"]'
)
#: rounding down to whole milliseconds, and the clocks' reading
EARLY_S: Final = 0.05
KEPT: Final = """
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: kept}
spec:
  from: [{services: [orders]}]
  to: [{services: [catalog], operations: [{methods: all, paths: ["/kept/{**}"]}]}]
"""


def replace_file(mesh: LocalMesh, name: str, text: str) -> None:
    """Put a file into the policy folder, at one stroke."""
    draft = mesh.policies / f".{name}"
    draft.write_text(text)
    draft.replace(mesh.policies / name)


def allow_for_an_hour(mesh: LocalMesh) -> None:
    """Have everything of the streams allowed, whatever an edit has left behind."""
    # One file after the other: a set that has only one of them may be in force for a moment.
    if (mesh.policies / "set.yaml").read_text() != SET:
        put(mesh, SET, file="set.yaml")
    put(mesh, closing(datetime.now(UTC) + timedelta(hours=1)))
    # A workload whose identity was revoked has it back a moment after the set that allows it is in force.
    outbound = mesh.service("orders")["outbound"]
    assert eventually(lambda: request(outbound, "GET", f"{WATCH}0", "catalog").status == HTTPStatus.OK)


def remove_policy(mesh: LocalMesh) -> None:
    """Remove the policy that allows the streams."""
    (mesh.policies / "timed.yaml").unlink()


def revoke_identity(mesh: LocalMesh) -> None:
    """Revoke the identity of who calls."""
    replace_file(mesh, "set.yaml", REVOKING_SET)


def move_close_back(mesh: LocalMesh) -> None:
    """Have the window closed already."""
    replace_file(mesh, "timed.yaml", closing(datetime.now(UTC) - timedelta(seconds=1)))


#: each way to take a grant back, and what a new call hears from then on
EDITS: Final[dict[str, tuple[Callable[[LocalMesh], None], set[str]]]] = {
    "a policy is removed": (remove_policy, {"no_policy"}),
    # The sidecar of who is revoked has no identity a moment later, and Envoy's configuration still says that it has.
    "an identity is revoked": (revoke_identity, {"unidentified", "internal_error"}),
    "a close is moved into the past": (move_close_back, {"closed"}),
}


def opened(mesh: LocalMesh, kinds: tuple[str, ...], path: str = WATCH) -> list[LongStream]:
    """Open these kinds of streams, and wait until they run."""
    runs = every_long_stream(mesh.service("orders")["outbound"], "catalog", path)
    streams = [LongStream(kind, runs[kind]) for kind in kinds]
    for stream in streams:
        assert stream.begun.wait(PATIENCE_S), stream.name
    return streams


def ends_of(streams: list[LongStream]) -> dict[str, Ended]:
    """Wait for the ends of streams."""
    ended = {}
    for stream in streams:
        end = stream.ended.get(timeout=PATIENCE_S)
        assert isinstance(end, Ended), (stream.name, end)
        ended[stream.name] = end
    return ended


def cut_by(mesh: LocalMesh, edit: Callable[[LocalMesh], None], kinds: tuple[str, ...] = HELD_KINDS) -> Close:
    """Open every held kind of stream, take the grant back by an edit, and wait for all ends and their records.

    `at_s` is the instant before the edit.
    """
    allow_for_an_hour(mesh)
    begun_s = time.time()
    streams = opened(mesh, kinds)
    assert eventually(lambda: _are_recorded(mesh, begun_s, len(kinds)), PATIENCE_S)
    at_s = time.time()
    edit(mesh)
    ended = ends_of(streams)
    closed: Close | None = None

    def told() -> bool:
        nonlocal closed
        records = records_since(mesh, begun_s)
        closed = Close(
            at_s=at_s,
            ended=ended,
            cuts={kind: cuts_of(records, KINDS.index(kind)) for kind in kinds},
            allowed={one["decision_id"]: one for one in records if not one["cut"]},
        )
        return closed.has_all_records()

    eventually(told)
    assert closed is not None
    return closed


def _are_recorded(mesh: LocalMesh, since_s: float, streams: int) -> bool:
    """Whether both sidecars have allowed every stream: an upload, too, has begun by then."""
    allowed = [
        one
        for one in records_since(mesh, since_s)
        if (one["path"] or one["route"] or "").startswith(WATCH) and not one["cut"]
    ]
    return len(allowed) >= 2 * streams


def hold_of(sidecar: int) -> int:
    """Give the process that holds the calls of a sidecar."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            _, name, rest = stat.read_text().replace("(", ")").split(")", 2)
        except (OSError, ValueError):
            continue
        if name == "authz-hold" and int(rest.split()[1]) == sidecar:
            return int(stat.parent.name)
    raise AssertionError(f"the sidecar {sidecar} has no hold")
