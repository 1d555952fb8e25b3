"""Two Envoys and their sidecars: whose clock is off is shown and logged, and nothing else follows from it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.conditions import eventually
from tests.support.local_mesh import Answer, LocalMesh, authz, request
from tests.support.window_close import SET

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

#: bounds for what must happen, never a measure of how fast it does
PATIENCE_S = 150
#: that none of them tells has a chance of 1 to 37,000; whoever needs one asks again
CALLS = 100
HEADER = "x-authz-received"
FORGED = "1000000000000000"
POLICIES = f"""{SET}---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {{name: orders-use-catalog}}
spec:
  from: [{{services: [orders]}}]
  to: [{{services: [catalog], operations: [{{methods: [GET], paths: ["/items/{{id}}"]}}]}}]
"""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalMesh]:
    folder = tmp_path_factory.mktemp("mesh")
    policies = folder / "policies"
    policies.mkdir()
    (policies / "set.yaml").write_text(POLICIES)
    with LocalMesh(policies=policies, state=folder / "state").running() as running:
        yield running


def called(mesh: LocalMesh, *headers: tuple[str, str], method: str = "GET", times: int = 1) -> list[Answer]:
    outbound = mesh.service("orders")["outbound"]
    return [request(outbound, method, "/items/1", "catalog", headers) for _ in range(times)]


def peers(mesh: LocalMesh, service: str = "orders") -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = mesh.service(service)["clock"]["peers"]
    return told


def peers_after_calls(mesh: LocalMesh) -> list[dict[str, Any]]:
    """Make calls, of which about one in ten tells, and give what is shown then."""
    assert {answer.status for answer in called(mesh, times=CALLS)} == {200}
    return peers(mesh)


class SaysInstead:
    """Has the callee's Envoy say another time, as one whose clock is another would, while the block runs."""

    def __init__(self, mesh: LocalMesh) -> None:
        self._file = mesh.state / "envoy" / "catalog.listeners" / "listeners.json"
        self._before = self._file.read_text()
        self._admin = mesh.service("catalog")["admin"]

    def __call__(self, text: str) -> None:
        listeners = json.loads(self._before)
        for listener in listeners["resources"]:
            for chain in listener["filter_chains"]:
                for one in chain["filters"]:
                    for host in one["typed_config"]["route_config"]["virtual_hosts"]:
                        for route in host["routes"]:
                            for header in route.get("response_headers_to_add", ()):
                                header["header"]["value"] = text
        self._put(json.dumps(listeners))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._put(self._before)

    def _put(self, text: str) -> None:
        draft = self._file.with_name("draft")
        draft.write_text(text)
        draft.replace(self._file)


def test_the_clock_of_a_service_that_was_called_is_shown_and_only_to_who_called_it(mesh: LocalMesh) -> None:
    assert eventually(lambda: bool(peers_after_calls(mesh)), PATIENCE_S)
    (shown,) = peers(mesh)
    assert shown["service"] == "catalog"
    # One clock: whatever is shown is wrong by what it may be at most.
    assert abs(shown["skew_s"]) <= shown["within_s"]
    assert peers(mesh, "catalog") == []
    assert "orders: `catalog` " in authz("mesh", "status", "--state", str(mesh.state), "-o", "pretty").stdout


def test_apps_see_nothing_of_it_and_what_they_say_of_it_is_not_believed(mesh: LocalMesh) -> None:
    for answer in called(mesh, (HEADER, FORGED), times=CALLS):
        assert (answer.status, HEADER in answer.headers, HEADER in answer.echo["headers"]) == (200, False, False)
    for answer in called(mesh, (HEADER, FORGED), method="DELETE", times=CALLS):
        assert (answer.status, answer.reason, HEADER in answer.headers) == (403, "no_policy", False)
    assert eventually(lambda: bool(peers_after_calls(mesh)), PATIENCE_S)
    assert all(abs(shown["skew_s"]) <= shown["within_s"] for shown in peers(mesh))


def test_a_clock_that_is_an_hour_off_is_shown_and_logged_and_decides_nothing(mesh: LocalMesh) -> None:
    log = Path(mesh.state, "logs", "orders.sidecar.log")
    with SaysInstead(mesh) as says:
        says(f"{int((time.time() + 3600) * 1_000_000)}")
        assert eventually(lambda: any(shown["skew_s"] > 3000 for shown in peers_after_calls(mesh)), PATIENCE_S)
        (shown,) = peers(mesh)
        assert shown["skew_s"] <= 3600 + shown["within_s"]
        assert eventually(lambda: "the clock of `catalog` is " in log.read_text(), PATIENCE_S), log.read_text()
        assert "ahead of ours" in log.read_text()
        assert {answer.reason for answer in called(mesh, method="DELETE", times=CALLS)} == {"no_policy"}


@pytest.mark.parametrize("said", ["", "soon", "-1", "9" * 17, "0" * 16, "9" * 8000])
def test_what_is_no_time_is_nothing(mesh: LocalMesh, said: str) -> None:
    with SaysInstead(mesh) as says:
        says(said)
        for answer in called(mesh, times=CALLS):
            assert (answer.status, HEADER in answer.headers) == (200, False)
