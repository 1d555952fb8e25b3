"""What a difference cannot tell is said in its notes, and only where the sets say different things."""

from __future__ import annotations

import pytest

from authz.policy.difference import compare
from tests.support.policy_sets import OPEN, document, parsed, service

MESH = document("Mesh", "m", "{trustDomains: [shop.example]}")
RULE = "{from: [{services: [a]}], to: [{services: [b], operations: all}]}"
A, B = service("a"), service("b")
PARTNER = document("ThirdParty", "p", f"{{certificates: [{{authority: p.pem, dns: [p]}}], window: {OPEN}}}")


def notes(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[str, ...]:
    return compare(parsed(MESH, *old), parsed(MESH, *new), now_ns=0).notes


@pytest.mark.parametrize(
    ("special", "note"),
    [
        ((A, B, PARTNER), "not compared: calls that certificates without SPIFFE ID prove, of `p`"),
        ((A, service("b", more=", accepts: [x509-svid, jwt-svid]")), "not compared: calls with JWT-SVIDs, to `b`"),
        (
            (service("a", more=', egress: {connect: ["p.example:1"]}'), B),
            "not compared: opaque tunnels (CONNECT), of `a`",
        ),
    ],
)
def test_calls_that_are_not_compared_are_named(special: tuple[str, ...], note: str) -> None:
    rule = document("MicroPolicy", "r", RULE)
    assert notes(special, (*special, rule)) == (note,)
    assert notes((A, B), special) == notes(special, (A, B)) == (note,)
    renamed = document("MicroPolicy", "renamed", RULE)
    assert notes((*special, rule), (renamed, *special)) == ()
    assert notes((A, B), (A, B, rule)) == ()
