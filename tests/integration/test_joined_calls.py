"""Real Envoy, sidecar, app and an intake: of every call the decision and the end find each other."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_failed_handshakes import Bench, running, tls
from tests.integration.test_sidecar_processes import another
from tests.support.conditions import eventually
from tests.support.intake import Intake
from tests.support.local_mesh import raw_request

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.envoy

PATIENCE_S = 150


@pytest.fixture
def hub() -> Iterator[Intake]:
    with Intake() as listening:
        yield listening


def call(bench: Bench, context: ssl.SSLContext, many: int, *, method: str = "GET", path: str = "/items/1") -> list[int]:
    """Make so many calls on one connection, and give their statuses."""
    with context.wrap_socket(bench.connection()) as connection:
        return [raw_request(connection, method, path, "catalog").status for _ in range(many)]


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "decisions").read_bytes().splitlines()]


def test_every_call_is_joined_with_its_decision(tmp_path: Path, hub: Intake) -> None:
    with running(tmp_path, "--hub", hub.url, "--state", str(tmp_path / "state")) as bench:
        good = tls(bench.svid(bench.own))
        assert call(bench, good, 30) == [200] * 30
        assert call(bench, good, 5, method="DELETE") == [403] * 5
        taken = hub.taken
        assert eventually(lambda: taken.total("count") == taken.joined == 35, PATIENCE_S), (
            taken.total("count"),
            taken.joined,
        )
        assert bench.sidecar.stop() == 0
        flows = [flow for batch in taken.in_order for flow in batch.flows]
        assert {(flow.key.reason.value, status) for flow in flows for status, _ in flow.statuses} == {
            ("allowed", 200),
            ("no_policy", 403),
        }
        assert taken.total("unjoined") == taken.total("unreached") == taken.total("cut") == 0
        assert taken.total("bytes_sent") > 35
        written = lines(bench.folder)
        assert len(written) == 35
        assert all(one["status"] in {200, 403} and one["duration_ms"] > 0 and one["bytes_sent"] > 0 for one in written)
        kept = {record.decision_id: record for record in taken.records}
        denied = [one["decision_id"] for one in written if one["decision"] == "deny"]
        assert set(denied) <= set(kept)
        assert all(kept[one].status == 403 and kept[one].duration_us for one in denied)
        assert sum(record.reason.allows for record in kept.values()) >= 1


def test_kill_9_of_control_leaves_no_decision_uncounted_and_those_without_an_end_are_unjoined(
    tmp_path: Path, hub: Intake
) -> None:
    with running(tmp_path, "--hub", hub.url, "--state", str(tmp_path / "state")) as bench:
        good = tls(bench.svid(bench.own))
        many = 0
        for _ in range(3):
            call(bench, good, 50)
            many += 50
            (control,) = bench.sidecar.forked()["authz-control"]
            os.kill(control, signal.SIGKILL)
            assert another(bench.sidecar, "authz-control", control)
        call(bench, good, 50)
        many += 50
        taken = hub.taken
        assert eventually(lambda: taken.total("count") == many, PATIENCE_S), taken.total("count")
        assert bench.sidecar.stop() == 0
        assert taken.total("count") == many == len(lines(bench.folder))
        assert taken.status("lost") == 0
        assert taken.joined <= many


def test_bytes_of_a_call_that_runs_are_counted_while_it_runs_and_none_of_them_twice(
    tmp_path: Path, hub: Intake
) -> None:
    with running(tmp_path, "--hub", hub.url, "--state", str(tmp_path / "state")) as bench:
        good = tls(bench.svid(bench.own))
        with good.wrap_socket(bench.connection()) as connection:
            connection.sendall(b"GET /items/1 HTTP/1.1\r\nhost: catalog\r\nx-echo-stream: 25\r\n\r\n")
            taken, body = hub.taken, b""
            assert eventually(lambda: taken.total("bytes_sent") > 0, PATIENCE_S), bench.envoy.log()
            assert (taken.total("count"), taken.joined) == (1, 0)
            while not body.endswith(b"\r\n0\r\n\r\n"):
                body += connection.recv(65536)
        chunks = body.partition(b"\r\n\r\n")[2]
        assert eventually(lambda: taken.joined == 1, PATIENCE_S)
        assert taken.total("bytes_sent") == _length_of(chunks)
        assert bench.sidecar.stop() == 0


def _length_of(chunks: bytes) -> int:
    """Give how long a body is that came in chunks (RFC 9112 7.1)."""
    length = 0
    while True:
        size, _, rest = chunks.partition(b"\r\n")
        if not int(size, 16):
            return length
        length += int(size, 16)
        chunks = rest[int(size, 16) + 2 :]
