"""A window that closes on every kind of long stream, through a local mesh: how each ended, and what was recorded."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from authz.policy_folder import load_policy_folder
from tests.support.conditions import eventually
from tests.support.long_streams import Ended, LongStream, every_long_stream, path_of

if TYPE_CHECKING:
    from tests.support.local_mesh import LocalMesh

SET: Final = """
apiVersion: authz/v1
kind: Mesh
metadata: {name: shop}
spec: {trustDomains: [shop.example]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: orders}
spec: {identities: ["spiffe://shop.example/orders"]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: catalog}
spec: {identities: ["spiffe://shop.example/catalog"]}
"""
_TIMED: Final = """
apiVersion: authz/v1
kind: MicroPolicy
metadata: {{name: timed}}
spec:
  from: [{{services: [orders]}}]
  to: [{{services: [catalog], operations: all}}]
  window: {{opens: 2026-01-01T00:00:00Z, closes: {closes}}}
"""
WATCH: Final = "/shop.v1.Catalog/Watch"
KINDS: Final = tuple(every_long_stream("", "", ""))
#: enough for a loaded machine to open all streams: at load 7 on two cores 8 s were not
WINDOW: Final = timedelta(seconds=16)
#: a bound for what must happen, never a measure
PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """When the window closed (seconds since the epoch), and how each kind of stream ended.

    `cuts` are the records of those ends by kind and direction, `allowed` those of the decisions, by their ids.
    """

    at_s: float
    ended: dict[str, Ended]
    cuts: dict[str, dict[str, dict[str, Any]]]
    allowed: dict[str, dict[str, Any]]

    def has_all_records(self) -> bool:
        """Whether both sidecars have told of every stream's end."""
        return all(set(each) == {"inbound", "outbound"} for each in self.cuts.values())


def closing(at: datetime) -> str:
    """Give the policy whose window closes then."""
    return _TIMED.format(closes=at.isoformat(timespec="milliseconds").replace("+00:00", "Z"))


def put(mesh: LocalMesh, text: str, *, file: str = "timed.yaml") -> None:
    """Put a policy in place, and wait until every sidecar decides by the folder as it is then."""
    draft = mesh.policies / f".{file}"
    draft.write_text(text)
    draft.replace(mesh.policies / file)

    # Not just "by another revision": an edit before this one may come into force only now.
    revision = load_policy_folder(str(mesh.policies)).revision

    def in_force() -> bool:
        return all(one["policy"]["revision"] == revision for one in mesh.status()["services"])

    assert eventually(in_force)


def close_on_every_stream(mesh: LocalMesh) -> Close:
    """Open every kind of stream within one window, and wait for all of them to end, and for their records."""
    begun_s = time.time()
    closes = datetime.now(UTC) + WINDOW
    put(mesh, closing(closes))
    outbound = mesh.service("orders")["outbound"]
    streams = [LongStream(name, run) for name, run in every_long_stream(outbound, "catalog", WATCH).items()]
    for stream in streams:
        assert stream.begun.wait(PATIENCE_S), stream.name
    assert time.time() < closes.timestamp(), "the machine was too slow to open the streams within their window"
    ended: dict[str, Ended] = {}
    for stream in streams:
        end = stream.ended.get(timeout=PATIENCE_S)
        assert isinstance(end, Ended), (stream.name, end)
        ended[stream.name] = end
    closed: Close | None = None

    def told() -> bool:
        nonlocal closed
        records = records_since(mesh, begun_s)
        closed = Close(
            at_s=closes.timestamp(),
            ended=ended,
            cuts={kind: cuts_of(records, number) for number, kind in enumerate(KINDS)},
            allowed={one["decision_id"]: one for one in records if not one["cut"]},
        )
        return closed.has_all_records()

    eventually(told)
    assert closed is not None
    return closed


def records_since(mesh: LocalMesh, since_s: float) -> list[dict[str, Any]]:
    """Give what the sidecars have recorded since then, without the ends of calls that were decided before it."""
    lines = [
        json.loads(line)
        for service in mesh.status()["services"]
        for line in Path(service["decision_log"]).read_bytes().splitlines()
    ]
    before = {one["decision_id"] for one in lines if not one["cut"] and _at_s(one) < since_s}
    return [one for one in lines if _at_s(one) >= since_s and one["decision_id"] not in before]


def _at_s(record: dict[str, Any]) -> float:
    return datetime.fromisoformat(record["time"]).timestamp()


def cuts_of(records: list[dict[str, Any]], number: int) -> dict[str, dict[str, Any]]:
    """Give the records of a kind's end by direction; there must not be two of one."""
    found = [one for one in records if one["cut"] and one["path"] == path_of(WATCH, number)]
    by_direction = {one["direction"]: one for one in found}
    assert len(by_direction) == len(found), "an end was recorded twice"
    return by_direction
