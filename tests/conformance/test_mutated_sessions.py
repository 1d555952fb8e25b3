"""Damaged sessions of checks are never let through against the policy; 100,000 of them: `make proof-http2`."""

from __future__ import annotations

import pytest
from envoy.service.auth.v3 import external_auth_pb2

from tests.conformance.mutated_sessions import SERVICE, Damage, checks_in, is_allowed
from tests.support import http2_frames as http2
from tests.support.certificates import leaf, pem
from tests.support.check_fields import fields_of
from tests.support.check_request import check_request
from tests.support.envoy_check import as_envoy_says
from tests.support.http2_frames import grpc_fields, message


def test_no_damaged_session_gets_an_ok_that_the_policy_would_not_give() -> None:
    damage = Damage(seed=0)
    damage.more(1000)
    told = damage.told
    assert not told.wrong
    # It says something only where sessions come to all of these.
    assert min(told.allowed, told.denied) > told.sessions // 4
    assert told.unanswered > told.sessions // 40


@pytest.mark.parametrize("direction", ["inbound", "outbound"])
def test_the_judge_reads_a_check_as_envoys_own_classes_do(direction: str) -> None:
    headers = (("accept", b"*/*"), ("accept", b"\xff"), ("x-authz-caller", b"forged"), ("cookie", b""))
    request = check_request(
        direction=direction, headers=headers, path="/a?b", certificate_pem=pem(leaf()), extensions={"a": "b"}
    )
    request.attributes.request.http.headers["joined"] = "1,2"
    said = as_envoy_says(request)
    read = fields_of(request.SerializeToString())
    # What comes once more behind it is merged: texts replaced, lists made longer.
    more = external_auth_pb2.CheckRequest()
    more.attributes.request.http.method = "PUT"
    more.attributes.context_extensions["a"] = "c"
    assert fields_of(request.SerializeToString() + more.SerializeToString())["context"][b"a"] == b"c"
    assert read["headers"] == [(name.encode(), value) for name, value in said["headers"]]
    assert read["certificate"] == said["certificate"]
    assert {name.decode(): value.decode() for name, value in read["context"].items()} == said["context"]
    assert [read[each].decode() for each in ("method", "path", "host")] == [
        said[each] for each in ("method", "path", "host")
    ]


def test_the_judge_lets_lets_through_what_is_allowed_and_nothing_else() -> None:
    good = {"certificate_pem": pem(leaf()), "extensions": {"service": SERVICE}}
    asked = [check_request(**each).SerializeToString() for each in (good, {**good, "method": "POST"}, {})]  # type: ignore[arg-type]
    assert [is_allowed(each) for each in (*asked, b"", None)] == [True, False, False, False, False]
    said = [http2.HANDSHAKE]
    for at, fields in enumerate((grpc_fields(), grpc_fields("/x"), grpc_fields())):
        said.append(http2.headers(2 * at + 1, fields))
        said.append(http2.data(2 * at + 1, message(asked[0]), end=at < 2))
    assert checks_in(b"".join(said)) == {1: asked[0]}
