"""Long calls whose grant is taken back while they run: real Envoys cut them, by the hold, in both directions."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.support.conditions import eventually
from tests.support.local_mesh import LocalMesh, mesh_of, request
from tests.support.long_streams import Ended, LongStream, grpc_unanswered
from tests.support.revoking_edit import (
    EARLY_S,
    EDITS,
    HELD_KINDS,
    KEPT,
    allow_for_an_hour,
    cut_by,
    ends_of,
    hold_of,
    opened,
    remove_policy,
    replace_file,
)
from tests.support.window_close import PATIENCE_S, SET, Close, closing, put, records_since

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

STATUS = {"no_policy": 403, "unidentified": 401, "internal_error": 503, "closed": 403}
LONG_LIVED = SET.replace(
    '"spiffe://shop.example/catalog"]',
    '"spiffe://shop.example/catalog"], api: [{name: tail, methods: [GET], paths: ["/tail/{file}"], longLived: true}]',
)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    with mesh_of(tmp_path_factory.mktemp("mesh"), SET) as running:
        yield running


@pytest.fixture(scope="module", params=EDITS)
def edit(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def close(mesh: LocalMesh, edit: str) -> Close:
    return cut_by(mesh, EDITS[edit][0])


@pytest.mark.parametrize("kind", HELD_KINDS)
def test_a_held_call_ends_with_its_grant_and_nothing_gets_through_afterwards(close: Close, kind: str) -> None:
    end, record = close.ended[kind], close.cuts[kind]["outbound"]
    assert end.at_s > close.at_s
    # The sidecar's count ended with the cut: who called has not heard a byte more.
    assert 0 < end.received_bytes <= record["bytes_sent"]


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
@pytest.mark.parametrize("kind", HELD_KINDS)
def test_each_sidecar_records_the_cut_with_what_a_new_call_gets(
    close: Close, edit: str, kind: str, direction: str
) -> None:
    record = close.cuts[kind][direction]
    allowed = close.allowed[record["decision_id"]]
    assert (record["decision"], record["policy"]) == ("deny", "timed")
    assert record["reason"] in (EDITS[edit][1] if direction == "outbound" else EDITS[edit][1] - {"internal_error"})
    for same in ("sidecar", "direction", "request_id", "policy", "protocol", "method", "tls"):
        assert record[same] == allowed[same], same
    assert record["bytes_received"] + record["bytes_sent"] > 0


@pytest.mark.parametrize("kind", [kind for kind in HELD_KINDS if "upload" in kind])
def test_a_held_call_without_an_answer_hears_what_a_new_call_would(close: Close, edit: str, kind: str) -> None:
    end = close.ended[kind]
    assert end.reason in EDITS[edit][1]
    assert end.status == STATUS[end.reason]


@pytest.mark.parametrize("kind", [kind for kind in HELD_KINDS if "upload" in kind])
def test_nothing_of_a_held_upload_arrives_after_the_cut(close: Close, kind: str) -> None:
    end, outbound, inbound = close.ended[kind], close.cuts[kind]["outbound"], close.cuts[kind]["inbound"]
    assert end.sent_bytes >= outbound["bytes_received"]
    assert outbound["bytes_received"] >= inbound["bytes_received"] > 0


def test_a_close_that_is_moved_to_a_near_instant_cuts_then_and_not_before(mesh: LocalMesh) -> None:
    closes = datetime.now(UTC)

    def near(mesh: LocalMesh) -> None:
        nonlocal closes
        closes = datetime.now(UTC) + timedelta(seconds=4)
        replace_file(mesh, "timed.yaml", closing(closes))

    close = cut_by(mesh, near)
    for kind, end in close.ended.items():
        assert end.at_s >= closes.timestamp() - EARLY_S, kind
        assert {record["reason"] for record in close.cuts[kind].values()} == {"closed"}, kind
        assert len(close.cuts[kind]) == 2, kind


def test_a_close_that_is_moved_later_lengthens_no_held_call(mesh: LocalMesh) -> None:
    closes = datetime.now(UTC) + timedelta(seconds=6)
    put(mesh, closing(closes))
    streams = opened(mesh, ("server-sent events, HTTP/2", "gRPC bidirectional, idle"))
    put(mesh, closing(closes + timedelta(hours=1)))
    for kind, end in ends_of(streams).items():
        assert closes.timestamp() - EARLY_S <= end.at_s < closes.timestamp() + PATIENCE_S, kind


def test_a_call_that_another_policy_still_allows_goes_on(mesh: LocalMesh) -> None:
    begun_s = time.time()
    replace_file(mesh, "kept.yaml", KEPT)
    allow_for_an_hour(mesh)
    kinds = ("server-sent events, HTTP/1.1", "WebSocket, active, HTTP/2", "gRPC bidirectional, active")
    kept = opened(mesh, kinds, "/kept/x")
    lost = opened(mesh, kinds)
    remove_policy(mesh)
    ends_of(lost)
    heard = [stream.received_bytes for stream in kept]
    assert eventually(
        lambda: all(stream.received_bytes > before + 100 for stream, before in zip(kept, heard, strict=True))
    )
    (mesh.policies / "kept.yaml").unlink()
    ends_of(kept)
    ended = {one["path"]: one for one in records_since(mesh, begun_s) if one["cut"]}
    assert {one["reason"] for one in ended.values()} == {"no_policy"}


def test_an_operation_that_is_long_lived_is_held_whatever_it_says_of_itself(mesh: LocalMesh) -> None:
    replace_file(mesh, "set.yaml", LONG_LIVED)
    put(mesh, closing(datetime.now(UTC) + timedelta(hours=1)))
    streams = opened(mesh, ("silent answer, HTTP/1.1", "silent answer, HTTP/2"), "/tail/x")
    remove_policy(mesh)
    assert set(ends_of(streams)) == {stream.name for stream in streams}


def test_a_held_grpc_call_without_an_answer_hears_what_a_new_call_would(mesh: LocalMesh) -> None:
    allow_for_an_hour(mesh)
    begun_s = time.time()
    outbound, app = mesh.service("orders")["outbound"], mesh.service("catalog")["pids"]["app"]
    os.kill(app, signal.SIGSTOP)
    try:
        path = "/shop.v1.Catalog/Watch"
        stream = LongStream("unanswered", lambda stream: grpc_unanswered(stream, outbound, "catalog", path))
        assert eventually(
            lambda: sum((one["path"] or one["route"]) == path for one in records_since(mesh, begun_s)) == 2, PATIENCE_S
        )
        remove_policy(mesh)
        end = stream.ended.get(timeout=PATIENCE_S)
    finally:
        os.kill(app, signal.SIGCONT)
    assert isinstance(end, Ended), end
    assert (end.grpc_status, end.reason) == (grpc.StatusCode.PERMISSION_DENIED.value[0], "no_policy")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("side", ["catalog", "orders"])
def test_without_the_hold_what_it_held_ends_and_short_calls_go_on(
    mesh: LocalMesh, side: str, number: signal.Signals
) -> None:
    allow_for_an_hour(mesh)
    begun_s = time.time()
    streams = opened(mesh, HELD_KINDS)
    service = mesh.service(side)
    os.kill(hold_of(service["pids"]["sidecar"]), number)
    for _ in range(20):
        assert request(mesh.service("orders")["outbound"], "GET", "/short", "catalog").status == 200
    ends_of(streams)

    def reasons() -> set[str]:
        lines = map(json.loads, Path(service["decision_log"]).read_bytes().splitlines())
        return {
            one["reason"] for one in lines if one["cut"] and datetime.fromisoformat(one["time"]).timestamp() >= begun_s
        }

    assert eventually(lambda: reasons() == {"internal_error"}, PATIENCE_S), reasons()

    assert eventually(lambda: is_held(mesh), PATIENCE_S)
    (again,) = opened(mesh, HELD_KINDS[:1])
    remove_policy(mesh)
    assert ends_of([again])


def service_of(mesh: LocalMesh) -> str:
    outbound: str = mesh.service("orders")["outbound"]
    return outbound


def is_held(mesh: LocalMesh) -> bool:
    """Whether a long call is let through: there is a hold for it."""
    answer = request(service_of(mesh), "GET", "/x", "catalog", (("accept", "text/event-stream"),))
    return answer.status == 200


def test_a_long_call_that_cannot_be_held_is_refused(mesh: LocalMesh) -> None:
    allow_for_an_hour(mesh)
    service = mesh.service("orders")
    hold = hold_of(service["pids"]["sidecar"])
    os.kill(hold, signal.SIGSTOP)
    answer = request(service["outbound"], "GET", "/x", "catalog", (("accept", "text/event-stream"),))
    os.kill(hold, signal.SIGKILL)
    assert (answer.status, answer.reason) == (503, "internal_error")
    assert eventually(lambda: is_held(mesh), PATIENCE_S)


def test_nobody_but_the_check_has_a_call_held(mesh: LocalMesh) -> None:
    allow_for_an_hour(mesh)
    answer: Any = request(service_of(mesh), "GET", "/x", "catalog", (("x-authz-hold", "0" * 32),))
    assert answer.status == 200
    assert "x-authz-hold" not in answer.echo["headers"]
    held = request(service_of(mesh), "GET", "/x", "catalog", (("accept", "text/event-stream"),))
    assert held.status == 200
    assert "x-authz-hold" not in held.echo["headers"]
