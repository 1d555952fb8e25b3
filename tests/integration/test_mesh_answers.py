"""A mesh of eleven Services answers every call as `authz check` does, whoever calls whom, over whatever protocol."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from authz.mesh.calls.call import CallAnswer, MeshCall
from authz.mesh.running_mesh import Mesh
from tests.support.policy_sets import eleven_services, write

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

SERVICES = [f"s{number}" for number in range(11)]
CALLERS = [*SERVICES, "acme", "left"]
DESTINATIONS = [*SERVICES, "acme", "left", "hooks"]
OPERATIONS = [
    {"method": "GET", "path": "/items/7?a=%2F"},
    {"method": "GET", "path": "/"},
    {"method": "POST", "path": "/orders"},
    {"method": "PUT", "path": "/items/7"},
    {"method": "DELETE", "path": "/files/a/b"},
    {"method": "GET", "path": "/a//b"},
    {"grpc": "shop.v1.Orders/Get"},
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    mesh: Mesh
    policies: str


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("eleven")
    policies = write(folder / "policies", *eleven_services())
    with Mesh.start(policies, state=str(folder / "state")) as mesh:
        yield Running(mesh=mesh, policies=policies)


def checked(running: Running, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask `authz check` for the answers to all of the calls, by the identities that the callers have in the mesh."""
    record = running.mesh.record()
    identities = {one.name: one.identity for one in record.services}
    identities |= {one.name: one.identity for one in record.third_parties if one.identity is not None}
    asked = subprocess.run(
        [sys.executable, "-m", "authz", "check", "--policies", running.policies, "--calls", "-"],
        input="".join(json.dumps({**call, "from": identities[call["from"]]}) + "\n" for call in calls),
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in asked.stdout.splitlines()]


def called(mesh: Mesh, call: dict[str, Any]) -> CallAnswer:
    return mesh.call(
        MeshCall(
            caller=call["from"],
            destination=call["to"],
            method=call.get("method", "").encode(),
            path=call.get("path", "").encode(),
            grpc=call.get("grpc"),
            body=b"hello" if "grpc" in call else None,
        )
    )


def test_every_call_gets_the_answer_that_check_gives(running: Running) -> None:
    calls = [
        {"from": caller, "to": destination, **operation}
        for caller, destination, operation in product(CALLERS, DESTINATIONS, OPERATIONS)
        # A ThirdParty on both sides is no call of this mesh.
        if caller in SERVICES or destination in SERVICES
    ]
    expected = checked(running, calls)
    reasons: Counter[str] = Counter()
    for call, answer in zip(calls, expected, strict=True):
        came = called(running.mesh, call)
        reasons[answer["reason"]] += 1
        assert (came.reason or "allowed") == answer["reason"], (call, answer, came)
        assert came.allowed == (answer["decision"] == "allow"), (call, answer, came)
        if came.allowed:
            assert came.decision_id is None
            assert came.body == "hello" if "grpc" in call else json.loads(came.body)["service"] == call["to"]
    # The set is such that nothing of this is vacuous.
    assert {"allowed", "no_policy", "closed", "not_yet_open", "decommissioned", "malformed"} <= set(reasons)
    assert min(reasons.values()) > 5


def test_hosts_of_third_parties_are_reached_by_every_form_that_matches_and_by_no_other(running: Running) -> None:
    hosts = [
        "api.acme.example",
        "API.acme.example.",
        "api.acme.example:443",
        "api.acme.example:80",
        "api.acme.example:8443",
        "hooks.example:8443",
        "hooks.example",
        "a.wild.example",
        "A.Wild.Example:443",
        "a.b.wild.example",
        "wild.example",
        "127.0.0.1",
        "s2.evil.example",
    ]
    calls = [{"from": "s0", "to": host, "method": "GET", "path": "/items/7"} for host in hosts]
    answers = {call["to"]: called(running.mesh, call) for call in calls}
    assert {host: answer.reason or "allowed" for host, answer in answers.items()} == {
        call["to"]: answer["reason"] for call, answer in zip(calls, checked(running, calls), strict=True)
    }
    assert {host: json.loads(answer.body)["service"] for host, answer in answers.items() if answer.allowed} == {
        "api.acme.example": "acme",
        "API.acme.example.": "acme",
        "api.acme.example:443": "acme",
        "api.acme.example:80": "acme",
        "hooks.example:8443": "hooks",
        "a.wild.example": "wild",
        "A.Wild.Example:443": "wild",
    }


def test_a_service_is_reached_by_all_of_its_names(running: Running) -> None:
    for host in ("s2", "S2", "s2:8080", "s2.shop.local", "s2.shop.local:80"):
        answer = called(running.mesh, {"from": "s0", "to": host, "method": "GET", "path": "/items/7"})
        assert answer.allowed, (host, answer)
        assert json.loads(answer.body)["service"] == "s2"


def test_a_grpc_library_of_the_world_is_served_through_both_sidecars(running: Running) -> None:
    record = running.mesh.record()
    outbound = {one.name: one.outbound for one in record.services}
    expected = checked(running, [{"from": "s1", "to": name, "grpc": "shop.v1.Orders/Get"} for name in SERVICES])
    assert {answer["decision"] for answer in expected} == {"allow", "deny"}
    for name, answer in zip(SERVICES, expected, strict=True):
        with grpc.insecure_channel(outbound["s1"], options=[("grpc.default_authority", name)]) as channel:
            get = channel.unary_unary("/shop.v1.Orders/Get")
            if answer["decision"] == "allow":
                assert get(b"hello", timeout=30) == b"hello"
                continue
            with pytest.raises(grpc.RpcError) as refused:
                get(b"hello", timeout=30)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert dict(refused.value.trailing_metadata())["x-authz-reason"] == answer["reason"]
