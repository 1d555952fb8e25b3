"""Every reason on real Envoys: the vectors of `on_envoy.yaml` through outbound and inbound listeners, today."""

from __future__ import annotations

import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from authz.mesh.running_mesh import Mesh
from authz.mesh.state import RunningService, RunningThirdParty
from authz.policy.document import SourceFile
from authz.policy.policy_set import parse_policy_set
from authz.sidecar.control.last_good import FILE_NAME as LAST_GOOD
from tests.conformance.vector_cases import VECTORS, Case, cases_of
from tests.support.conditions import eventually
from tests.support.local_mesh import Answer, raw_request, request, tls_connection, tls_context
from tests.support.policy_sets import service, write

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

VECTOR: dict[str, Any] = yaml.safe_load(next(path for path in VECTORS if path.stem == "on_envoy").read_text("utf-8"))
CASES = {case.name: case for case in cases_of(VECTOR)}
HOURS = 'from: "14:00", until: "16:00"'
#: a Service while the mesh starts, so that it has an Envoy and an SVID; nobody's when the vectors are asked
VISITOR = service("visitor", "spiffe://acme.example/visitor")
STATUS = {"allowed": 200, "observed": 200, "malformed": 400, "unidentified": 401, "untrusted": 401}
FORBIDDEN = 403


def set_of_today(now: datetime) -> str:
    """Give the vectors' set with its hours two to four hours from now: outside of them whenever this runs."""
    begin, end = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (2, 4))
    assert VECTOR["set"].count(HOURS) == 1
    return str(VECTOR["set"].replace(HOURS, f'from: "{begin}", until: "{end}"'))


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(write(tmp_path_factory.mktemp("reasons") / "policies", set_of_today(datetime.now(UTC))))


@pytest.fixture(scope="module")
def mesh(policies: Path) -> Iterator[Mesh]:
    visitor = policies / "visitor.yaml"
    visitor.write_text(VISITOR)
    revision = parse_policy_set([SourceFile("set.yaml", (policies / "set.yaml").read_bytes())]).revision
    with Mesh.start(str(policies), state=str(policies.parent / "state")) as running:
        visitor.unlink()
        assert eventually(lambda: all(one.policy.revision == revision for one in running.status().services))
        yield running


class Asked:
    """One call through one listener, and what the sidecar behind it wrote down."""

    def __init__(self, mesh: Mesh, case: Case) -> None:
        record = mesh.record()
        parties = [*record.services, *record.third_parties]
        self._call = case.call
        self.caller = next(one for one in parties if case.call["from"] in (one.name, one.identity))
        self.destination = next((one for one in parties if one.name == case.call["to"]), None)

    def outbound(self) -> tuple[Answer, dict[str, Any]] | None:
        """Ask through the caller's own Envoy; None if the caller is none of the mesh."""
        if not isinstance(self.caller, RunningService):
            return None
        answer = request(self.caller.outbound, self._call["method"], self._call["path"], self._host())
        return answer, record_of(answer, self.caller)

    def inbound(self) -> tuple[Answer, dict[str, Any]] | None:
        """Ask the callee's Envoy, with the caller's certificate; None if the callee is none of the mesh."""
        if not isinstance(self.destination, RunningService) or self._call.get("direction") == "outbound":
            return None
        answer = self.asked_inbound(self.destination)
        return answer, record_of(answer, self.destination)

    def asked_inbound(self, destination: RunningService) -> Answer:
        context = tls_context(certificate=self.caller.certificate or "", key=self.caller.key or "")
        with tls_connection(destination.inbound, context) as connection:
            return raw_request(connection, self._call["method"], self._call["path"], self._host())

    def _host(self) -> str:
        if isinstance(self.destination, RunningThirdParty):
            return self.destination.hosts[0]
        return str(self._call["to"])


def request_inbound(mesh: Mesh, case: Case) -> Answer:
    asked = Asked(mesh, case)
    assert isinstance(asked.destination, RunningService)
    return asked.asked_inbound(asked.destination)


def records(of: RunningService) -> list[bytes]:
    return Path(of.decision_log).read_bytes().splitlines()


def record_of(answer: Answer, of: RunningService) -> dict[str, Any]:
    """Give the record of an answer, which is written soon after it: by its id, or else by what the app has seen."""
    decision_id = answer.headers.get("x-authz-decision-id")
    mark = (decision_id or json.loads(answer.body)["headers"]["x-request-id"]).encode()
    assert eventually(lambda: any(mark in each for each in records(of)))
    record: dict[str, Any] = json.loads(next(each for each in records(of) if mark in each))
    return record


def assert_as_expected(asked: Asked, case: Case, answer: Answer, record: dict[str, Any]) -> None:
    reason = case.expect["reason"]
    assert {key: record[key] for key in case.expect} == case.expect, (case.name, record)
    assert answer.status == STATUS.get(reason, FORBIDDEN), (case.name, answer)
    if case.expect["decision"] == "allow":
        assert answer.reason is None
        assert asked.destination is not None
        assert answer.echo["service"] == asked.destination.name
        if isinstance(asked.destination, RunningService):
            assert answer.echo["headers"]["x-authz-caller"] == asked.caller.identity
        return
    assert answer.reason == reason
    expected = {"error": "denied", "reason": reason, "decision_id": record["decision_id"]}
    assert json.loads(answer.body) == expected
    # One answer in ten says when its call came in, for the caller's sidecar: who calls without one sees it.
    own = {name for name in answer.headers if name.startswith("x-")} - {"x-authz-received"}
    assert own == {"x-authz-reason", "x-authz-decision-id"}
    assert ("www-authenticate" in answer.headers) == (answer.status == 401)
    seen = json.dumps(answer.headers).replace(reason, "") + answer.body.decode().replace(reason, "")
    for secret in (record["revision"], case.expect.get("policy"), record["caller"]["identity"]):
        assert secret is None or secret not in seen, case.name


@pytest.mark.parametrize("name", CASES)
def test_a_real_envoy_gives_the_answer_that_is_expected(mesh: Mesh, name: str) -> None:
    case = CASES[name]
    asked = Asked(mesh, case)
    given = [each for each in (asked.outbound(), asked.inbound()) if each is not None]
    assert given
    for answer, record in given:
        assert_as_expected(asked, case, answer, record)


def test_every_reason_of_this_version_is_given_by_outbound_and_by_inbound_listeners(mesh: Mesh) -> None:
    given = set()
    for case in CASES.values():
        asked = Asked(mesh, case)
        for each in (asked.outbound(), asked.inbound()):
            if each is not None:
                given.add((each[1]["reason"], each[1]["direction"]))
    assert given == {
        (reason, direction)
        for direction in ("inbound", "outbound")
        for reason in (
            "allowed", "observed", "malformed", "unidentified", "untrusted", "unknown_destination", "guardrail",
            "not_commissioned", "decommissioned", "not_yet_open", "outside_hours", "closed", "no_policy",
        )
    } - {("unknown_destination", "inbound")}  # fmt: skip


def test_a_service_that_is_no_longer_in_the_set_is_an_unknown_destination_to_its_own_sidecar(mesh: Mesh) -> None:
    record = mesh.record()
    visitor = next(one for one in record.services if one.name == "visitor")
    orders = next(one for one in record.services if one.name == "orders")
    with tls_connection(visitor.inbound, tls_context(certificate=orders.certificate, key=orders.key)) as connection:
        answer = raw_request(connection, "GET", "/always", "visitor")
    assert (answer.status, answer.reason) == (403, "unknown_destination")
    told = record_of(answer, visitor)
    assert (told["direction"], told["reason"], told["policy"]) == ("inbound", "unknown_destination", None)


def test_without_a_usable_set_a_real_envoy_answers_internal_error(mesh: Mesh, policies: Path) -> None:
    case = CASES["allowed"]
    good = (policies / "set.yaml").read_bytes()
    (policies / "set.yaml").write_bytes(b"no policy set")
    try:
        assert eventually(lambda: all(one.policy.stale for one in mesh.status().services))
        record = mesh.record()
        catalog = next(one for one in record.services if one.name == "catalog")
        Path(catalog.sidecar_state, LAST_GOOD).unlink()
        sidecar = next(one for one in record.processes if (one.of, one.role) == ("catalog", "sidecar"))
        assert sidecar.mark is not None
        os.kill(sidecar.mark.pid, signal.SIGKILL)

        def inbound() -> tuple[Answer, dict[str, Any]]:
            asked = Asked(mesh, case).inbound()
            assert asked is not None
            return asked

        # Until then Envoy's own 503: nobody answers, and nothing is recorded.
        assert eventually(lambda: request_inbound(mesh, case).reason is not None)
        answer, told = inbound()
        assert (answer.status, answer.reason) == (503, "internal_error")
        assert (told["decision"], told["reason"], told["policy"]) == ("deny", "internal_error", None)
        assert told["decision_id"] == answer.headers["x-authz-decision-id"]
    finally:
        (policies / "set.yaml").write_bytes(good)
    assert eventually(lambda: request_inbound(mesh, case).status == 200)
