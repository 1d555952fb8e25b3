"""The hold of a real sidecar, with the test in Envoy's place: who may have a call held, and when it is cut."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2

from tests.integration.test_sidecar_processes import SET
from tests.support.check_request import check_request
from tests.support.conditions import eventually
from tests.support.sidecar_process import PATIENCE_S, SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Request = external_processor_pb2.ProcessingRequest
Response = external_processor_pb2.ProcessingResponse
ALL = """
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: all}
spec:
  from: [{services: [orders]}]
  to: [{services: [catalog], operations: all}]
"""
EVENTS = check_request(direction="outbound", headers=(("accept", b"text/event-stream"),))


class Holding:
    """A sidecar with a hold, and its policies."""

    def __init__(self, folder: Path, sidecar: SidecarProcess) -> None:
        self.policies = folder / "policies"
        self.socket = folder / "hold"
        self.log = folder / "decisions"
        self.sidecar = sidecar

    def allowed(self) -> str:
        """Have a long call allowed; gives what its request carries on to the hold."""
        answer = self.sidecar.check(EVENTS)
        (header,) = (each.header for each in answer.ok_response.headers if each.header.key == "x-authz-hold")
        assert header.value == answer.dynamic_metadata["decision_id"]
        return header.value

    @contextmanager
    def held(self, *ids: str) -> Iterator[Iterator[Response]]:
        """Open the stream of a call with these headers; gives what the hold says."""
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            process = channel.stream_stream(
                "/envoy.service.ext_proc.v3.ExternalProcessor/Process",
                Request.SerializeToString,
                Response.FromString,
            )
            begin = Request()
            for each in ids:
                header = begin.request_headers.headers.headers.add()
                header.key, header.raw_value = "x-authz-hold", each.encode()
            ended = threading.Event()
            call = process(_messages(begin, ended), timeout=PATIENCE_S, wait_for_ready=True)
            try:
                yield call
            finally:
                ended.set()
                call.cancel()

    def replace_policies(self, text: str) -> None:
        draft = self.policies / ".draft"
        draft.write_text(text)
        draft.replace(self.policies / "set.yaml")


def _messages(first: Request, ended: threading.Event) -> Iterator[Request]:
    yield first
    ended.wait(PATIENCE_S)


@contextmanager
def sidecar_of(folder: Path, policies: str, *more: str) -> Iterator[Holding]:
    (folder / "policies").mkdir()
    (folder / "policies" / "set.yaml").write_text(policies)
    flags = ("--hold-socket", str(folder / "hold"), "--decision-log", str(folder / "decisions"), *more)
    with SidecarProcess(*flags, service="orders", policies=folder / "policies", folder=folder) as sidecar:
        sidecar.wait_for("READY=1")
        yield Holding(folder, sidecar)


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[Holding]:
    with sidecar_of(tmp_path, f"{SET}---{ALL}") as holding:
        yield holding


def cut_of(response: Response) -> tuple[int, str]:
    """Give the status and the reason that a call is ended with."""
    assert response.WhichOneof("response") == "immediate_response", response
    reply = response.immediate_response
    headers = {each.header.key: each.header.raw_value.decode() for each in reply.headers.set_headers}
    assert reply.details == f"authz_hold_cut:{headers['x-authz-reason']}"
    return reply.status.code, headers["x-authz-reason"]


def test_a_sidecar_is_ready_when_there_is_who_holds_long_calls(tmp_path: Path) -> None:
    with sidecar_of(tmp_path, f"{SET}---{ALL}") as holding, socket.socket(socket.AF_UNIX) as envoy:
        envoy.connect(str(holding.socket))


def test_a_call_that_was_allowed_is_held_until_its_grant_is_lost(holding: Holding) -> None:
    with holding.held(holding.allowed()) as said:
        assert next(said).WhichOneof("response") == "request_headers"
        holding.replace_policies(SET)
        assert cut_of(next(said)) == (403, "no_policy")
        with pytest.raises(grpc.RpcError) as ended:
            next(said)
        assert ended.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_a_call_that_lost_its_grant_before_it_was_held_is_cut_at_once(holding: Holding) -> None:
    waiting = holding.allowed()
    with holding.held(holding.allowed()) as said:
        assert next(said).WhichOneof("response") == "request_headers"
        holding.replace_policies(SET)
        assert cut_of(next(said)) == (403, "no_policy")
    with holding.held(waiting) as said:
        assert cut_of(next(said)) == (403, "no_policy")


def test_a_call_that_the_clock_as_it_was_set_does_not_allow_is_cut(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("2026-06-01T16:00:00Z")
    closing = f"{SET}---{ALL}  window: {{closes: 2026-06-01T17:00:00Z}}\n"
    flags = ("--unsafe-clock-file", str(clock), "--state", str(tmp_path / "state"))
    with sidecar_of(tmp_path, closing, *flags) as holding, holding.held(holding.allowed()) as said:
        assert next(said).WhichOneof("response") == "request_headers"
        clock.write_text("2026-06-02T16:00:00Z")
        assert cut_of(next(said)) == (403, "closed")


@pytest.mark.parametrize("ids", [(), ("0" * 32,), ("",), ("x" * 4096,)])
def test_a_call_that_no_worker_has_told_of_is_refused(holding: Holding, ids: tuple[str, ...]) -> None:
    with holding.held(*ids) as said:
        assert cut_of(next(said)) == (503, "internal_error")


def test_one_grant_holds_one_call(holding: Holding) -> None:
    allowed = holding.allowed()
    with holding.held(allowed) as first:
        assert next(first).WhichOneof("response") == "request_headers"
        with holding.held(allowed) as second:
            assert cut_of(next(second)) == (503, "internal_error")
    with holding.held(allowed, allowed) as said:
        assert cut_of(next(said)) == (503, "internal_error")


def test_another_hold_takes_the_place_of_one_that_was_killed_and_knows_no_calls_of_it(holding: Holding) -> None:
    (hold,) = holding.sidecar.forked()["authz-hold"]
    waiting = holding.allowed()
    with holding.held(holding.allowed()) as said:
        assert next(said).WhichOneof("response") == "request_headers"
        workers = {name: pids for name, pids in holding.sidecar.forked().items() if "hold" not in name}
        os.kill(hold, signal.SIGKILL)
        with pytest.raises(grpc.RpcError):
            next(said)
    assert eventually(lambda: holding.sidecar.forked().get("authz-hold", [hold]) != [hold])
    with holding.held(waiting) as said:
        assert cut_of(next(said)) == (503, "internal_error")
    with holding.held(holding.allowed()) as said:
        assert next(said).WhichOneof("response") == "request_headers"
    now = {name: pids for name, pids in holding.sidecar.forked().items() if "hold" not in name}
    assert now == workers, "nobody else is started anew"


def test_the_hold_ends_with_the_sidecar_and_leaves_no_socket(holding: Holding) -> None:
    assert eventually(holding.socket.exists)
    assert holding.socket.stat().st_mode & 0o777 == 0o660
    assert holding.sidecar.stop() == 0
    assert not holding.socket.exists()


def test_a_socket_that_cannot_be_had_is_said_at_the_start(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "set.yaml").write_text(SET)
    (tmp_path / "hold").write_text("no socket")
    flags = ("--hold-socket", str(tmp_path / "hold"))
    with SidecarProcess(*flags, service="orders", policies=policies, folder=tmp_path) as sidecar:
        assert sidecar.wait() == 2
        assert "is there already and is no socket" in sidecar.errors.read_text()
