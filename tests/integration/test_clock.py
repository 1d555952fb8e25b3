"""A clock that is set back or forward, on real sidecars of both transports, with restarts and kills in between."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from authz.policy.window import parse_instant_ns
from authz.sidecar.latest_instant import UNSAFE_FILE_NAME, kept_instant_ns
from tests.support.check_request import check_request
from tests.support.conditions import eventually
from tests.support.local_mesh import LocalMesh, authz
from tests.support.sidecar_process import SidecarProcess, reason
from tests.support.window_close import SET

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WINDOWS = {
    "/closing": "{closes: 2026-06-01T16:30:00Z}",
    "/opening": "{opens: 2026-06-02T08:00:00Z}",
    "/daily": "{during: [{days: [mon, tue, wed, thu, fri], from: '09:00', until: '17:00', timezone: UTC}]}",
}
POLICY = """
---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {{name: {name}}}
spec:
  from: [{{services: [orders]}}]
  to: [{{services: [catalog], operations: [{{methods: [GET], paths: ["{path}"]}}]}}]
  window: {window}
"""
MONDAY = "2026-06-01T16:00:00Z"


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    folder = tmp_path / "policies"
    folder.mkdir()
    rules = [POLICY.format(name=path[1:], path=path, window=window) for path, window in WINDOWS.items()]
    (folder / "set.yaml").write_text(SET + "".join(rules))
    return folder


class Sidecar:
    """A sidecar of `orders` whose clock is a file; it may be restarted as often as wanted."""

    def __init__(self, transport: str, policies: Path, folder: Path) -> None:
        self.clock = folder / "clock"
        self.state = folder / "state"
        self._transport, self._policies, self._folder = transport, policies, folder
        self.clock.write_text(MONDAY)
        self.process = self.started()

    def started(self, *more: str, ready: bool = True) -> SidecarProcess:
        words = ("--state", str(self.state), "--check-transport", self._transport, *more)
        clock = ("--unsafe-clock-file", str(self.clock))
        process = SidecarProcess(*words, *clock, service="orders", policies=self._policies, folder=self._folder)
        if ready:
            process.wait_for("READY=1")
        return process

    def restart(self, *more: str) -> None:
        self.process.__exit__()
        self.process = self.started(*more)

    def set(self, text: str) -> None:
        """Set the clock, and wait until a call is recorded at the new instant, by every worker."""
        draft = self.clock.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self.clock)
        wanted = parse_instant_ns(text)
        assert eventually(lambda: self.kept_ns() >= wanted), text
        assert eventually(lambda: self._says_behind() == (self.kept_ns() > wanted)), text

    def kept_ns(self) -> int:
        path = self.state / UNSAFE_FILE_NAME
        return kept_instant_ns(path.read_bytes()) if path.exists() else 0

    def _says_behind(self) -> object:
        return self.status()["behind"]

    def status(self) -> dict[str, object]:
        clock: dict[str, object] = json.loads((self.state / "status.json").read_bytes())["clock"]
        return clock

    def reasons(self) -> dict[str, str]:
        return {path: self.reason(path) for path in WINDOWS}

    def reason(self, path: str) -> str:
        return reason(self.process.check(check_request(direction="outbound", path=path)))


@pytest.fixture(params=["native", "grpcio"])
def sidecar(request: pytest.FixtureRequest, policies: Path, tmp_path: Path) -> Iterator[Sidecar]:
    started = Sidecar(request.param, policies, tmp_path)
    yield started
    started.process.__exit__()


def test_back_by_an_hour_forward_by_a_day_and_restarts_in_between(sidecar: Sidecar) -> None:
    monday = {"/closing": "allowed", "/opening": "not_yet_open", "/daily": "allowed"}
    assert sidecar.reasons() == monday
    sidecar.set("2026-06-01T17:00:00Z")
    after = {"/closing": "closed", "/opening": "not_yet_open", "/daily": "outside_hours"}
    assert sidecar.reasons() == after
    # Back by an hour: nothing reopens, by whatever end of the sidecar in between.
    sidecar.set("2026-06-01T16:00:00Z")
    assert sidecar.reasons() == after
    assert sidecar.status()["latest"] == "2026-06-01T17:00:00.000Z"
    assert (sidecar.status()["steps_forward"], sidecar.status()["steps_back"]) == (1, 1)
    sidecar.process.kill()
    sidecar.restart()
    assert sidecar.reasons() == after
    sidecar.process.stop()
    sidecar.restart()
    assert sidecar.reasons() == after
    for name, pids in sidecar.process.forked().items():
        if name.startswith(("authz-worker", "authz-control")):
            os.kill(pids[0], signal.SIGKILL)
            assert eventually(lambda name=name, gone=pids: sidecar.process.forked().get(name, gone) not in (gone, []))
    assert sidecar.reasons() == after
    # The next morning, daily hours open again.
    sidecar.set("2026-06-02T07:59:59Z")
    assert sidecar.reasons() == {"/closing": "closed", "/opening": "not_yet_open", "/daily": "outside_hours"}
    sidecar.set("2026-06-02T09:00:00Z")
    assert sidecar.reasons() == {"/closing": "closed", "/opening": "allowed", "/daily": "allowed"}
    # Forward by a day, and back again: nothing that opens in between is open, and what had closed is not.
    sidecar.set("2026-06-01T16:00:00Z")
    assert sidecar.reasons() == {"/closing": "closed", "/opening": "not_yet_open", "/daily": "allowed"}
    sidecar.process.kill()
    sidecar.restart()
    assert sidecar.reasons() == {"/closing": "closed", "/opening": "not_yet_open", "/daily": "allowed"}
    # An operator says that the clock is right.
    sidecar.restart("--accept-clock")
    assert sidecar.reasons() == monday
    assert eventually(lambda: sidecar.kept_ns() == parse_instant_ns(MONDAY))


def test_a_damaged_latest_instant_keeps_it_from_starting_and_says_what_to_do(sidecar: Sidecar) -> None:
    assert sidecar.process.stop() == 0
    sidecar.process.__exit__()
    (sidecar.state / UNSAFE_FILE_NAME).write_text("tomorrow")
    sidecar.process = sidecar.started(ready=False)
    assert sidecar.process.wait() == 2
    said = (sidecar.process.errors).read_text()
    assert f"{UNSAFE_FILE_NAME}: the latest instant cannot be read" in said
    assert "start once with --accept-clock" in said
    assert "Traceback" not in said


def test_a_time_that_cannot_be_read_denies_internal_error_until_it_can_be(sidecar: Sidecar) -> None:
    assert sidecar.reason("/closing") == "allowed"
    sidecar.clock.write_text("five o'clock")
    assert eventually(lambda: sidecar.reason("/closing") == "internal_error")
    assert eventually(lambda: "is no time of RFC 3339" in str(sidecar.status()["fault"]))
    sidecar.clock.write_text(MONDAY)
    assert eventually(lambda: sidecar.reason("/closing") == "allowed")


def test_a_clock_for_tests_is_warned_of_and_the_machines_own_is_the_default(sidecar: Sidecar) -> None:
    assert "for tests only" in sidecar.process.errors.read_text()
    assert sidecar.status()["unsafe"] is True


@pytest.mark.envoy
def test_a_mesh_keeps_its_latest_instants_from_one_up_to_the_next_until_the_clock_is_accepted(
    policies: Path, tmp_path: Path
) -> None:
    clock = tmp_path / "clock"
    clock.write_text(MONDAY)
    asked = ("--from", "orders", "--to", "catalog", "--method", "GET", "--path", "/closing")
    mesh = LocalMesh(policies=policies, state=tmp_path / "state", more=("--unsafe-clock-file", str(clock)))
    with mesh.running():
        assert mesh.call(*asked)["status"] == 200
        clock.write_text("2026-06-01T17:00:00Z")
        assert eventually(lambda: mesh.call(*asked)["reason"] == "closed")
        clock.write_text(MONDAY)
        assert eventually(lambda: all(each["clock"]["behind"] for each in mesh.status()["services"]))
        assert mesh.call(*asked)["reason"] == "closed"
        table = authz("mesh", "status", "--state", str(mesh.state), "-o", "pretty").stdout
        assert "orders: behind 2026-06-01T17:00:00Z, which it has shown before" in table
    with mesh.running():
        assert mesh.call(*asked)["reason"] == "closed"
        clock.write_text("+0")  # the machine's own
        assert eventually(lambda: not any(each["clock"]["behind"] for each in mesh.status()["services"]))
        assert mesh.call(*asked)["reason"] == "closed"
    clock.write_text(MONDAY)
    accepted = LocalMesh(policies=policies, state=mesh.state, more=(*mesh.more, "--accept-clock"))
    with accepted.running():
        assert mesh.call(*asked)["status"] == 200
