"""A tunnel that the policies allow is still refused where this Envoy's routes lead nowhere, as those for CONNECT do."""

from __future__ import annotations

import pytest
from envoy.service.auth.v3 import external_auth_pb2

from authz.identity.spiffe_id import SpiffeId
from authz.identity.verification import VerifiedIdentity
from authz.policy.index import compile_index
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.in_force import InForce, PolicyInForce
from tests.support.check_request import check_request
from tests.support.policy_sets import OPEN, document, parsed, service

ALLOWED = '{from: [{services: [a]}], to: [{thirdParties: [p], operations: [{methods: [CONNECT], paths: ["/"]}]}]}'
SET = parsed(
    document("Mesh", "m", "{trustDomains: [shop.example]}"),
    service("a", more=', egress: {connect: ["db.p.example:5432"]}'),
    document("ThirdParty", "p", f'{{hosts: ["db.p.example:5432", "db.p.example:5433"], window: {OPEN}}}'),
    document("MicroPolicy", "r", ALLOWED),
)
NOW_NS = 1_780_000_000 * 10**9


@pytest.mark.parametrize(
    ("host", "extensions", "reason"),
    [
        ("db.p.example:5432", {"destination": ""}, "internal_error"),
        ("db.p.example:5432", {"destination": "p"}, "allowed"),
        ("db.p.example:5432", {}, "allowed"),
        ("db.p.example:5433", {"destination": "p"}, "no_policy"),
    ],
)
def test_a_tunnel_is_opened_where_policies_and_routes_agree(host: str, extensions: dict[str, str], reason: str) -> None:
    own = VerifiedIdentity(
        spiffe_id=SpiffeId.parse("spiffe://shop.example/a"), serial="1", not_before_ns=0, not_after_ns=NOW_NS
    )
    in_force = InForce()
    in_force.policy = PolicyInForce(index=compile_index(SET))
    checker = Checker(
        workload=Workload(service="a", identity=lambda: own),
        in_force=in_force,
        record=lambda _: None,
        clock=lambda: NOW_NS,
    )
    message = check_request(direction="outbound", method="CONNECT", path="", host=host, extensions=extensions)
    response = external_auth_pb2.CheckResponse.FromString(checker.answer(message.SerializeToString()))
    assert response.dynamic_metadata["reason"] == reason
