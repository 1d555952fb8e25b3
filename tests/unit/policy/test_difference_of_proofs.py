"""What two sets answer differently for one way to prove who calls only, and for opaque tunnels."""

from __future__ import annotations

import pytest

from authz.decision import Verdict
from authz.policy.difference import Comparison, compare
from authz.policy.difference_json import difference_object
from authz.policy.evaluation import evaluate
from authz.policy.index import compile_index
from tests.support.policy_sets import OPEN, document, parsed, service

MESH = document("Mesh", "m", "{trustDomains: [shop.example]}")
RULE = document("MicroPolicy", "r", "{from: [{services: [a]}], to: [{services: [b], operations: all}]}")
A, B, GATEWAY = service("a"), service("b"), service("gateway")
TOKENS = service("b", more=", accepts: [x509-svid, jwt-svid]")
FORWARDED = service("b", more=", accepts: [x509-svid, jwt-svid], forwarders: [gateway]")
GUARD = document("Guardrail", "g", "{from: [{services: [gateway]}]}")
TUNNEL = document(
    "MicroPolicy",
    "t",
    "{from: [{services: [a]}], to: [{thirdParties: [p], operations: [{methods: [CONNECT], paths: all}]}]}",
)
HOSTS = document("ThirdParty", "p", f'{{hosts: ["p.example:1", "p.example:2"], window: {OPEN}}}')


def partner(name: str, *, authority: str = "p.pem") -> str:
    return document("ThirdParty", "p", f"{{certificates: [{{authority: {authority}, dns: [{name}]}}], window: {OPEN}}}")


def compared(old: tuple[str, ...], new: tuple[str, ...]) -> Comparison:
    """Compare two sets, and put each example to both."""
    sides = [parsed(MESH, *side) for side in (old, new)]
    comparison = compare(sides[0], sides[1], now_ns=0)
    for each in comparison.differences:
        verdicts = [evaluate(compile_index(side), each.example, each.change.example_at_ns).verdict for side in sides]
        assert verdicts[0] is not verdicts[1] is each.change.becomes
    return comparison


def told(old: tuple[str, ...], new: tuple[str, ...]) -> list[tuple[str, Verdict]]:
    comparison = compared(old, new)
    assert comparison.notes == ()
    return [(str(each), each.change.becomes) for each in comparison.differences]


ALLOW, DENY = Verdict.ALLOW, Verdict.DENY


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ((A, B, RULE), (A, TOKENS, RULE), "a -> b: any method on any path with a JWT-SVID"),
        (
            (A, service("b", more=", accepts: [jwt-svid]"), RULE),
            (A, TOKENS, RULE),
            "a -> b: any method on any path",
        ),
        (
            (A, TOKENS, GATEWAY, RULE),
            (A, FORWARDED, GATEWAY, RULE),
            "a -> b: any method on any path with a JWT-SVID presented by gateway",
        ),
        (
            (A, FORWARDED, GATEWAY, RULE, GUARD),
            (A, FORWARDED, GATEWAY, RULE),
            "a -> b: any method on any path with a JWT-SVID presented by gateway",
        ),
    ],
)
def test_what_proves_a_caller_is_compared(old: tuple[str, ...], new: tuple[str, ...], line: str) -> None:
    assert told(old, new) == [(line, ALLOW)]
    assert told(new, old) == [(line, DENY)]


def test_what_tokens_and_certificates_come_to_alike_is_told_once() -> None:
    assert told((A, FORWARDED, GATEWAY), (A, FORWARDED, GATEWAY, RULE)) == [("a -> b: any method on any path", ALLOW)]


def test_a_presenter_whose_identity_is_revoked_is_compared() -> None:
    revoked = document("Mesh", "m", "{trustDomains: [shop.example], revoked: ['spiffe://shop.example/gateway']}")
    gateway = document("Service", "gateway", "{identities: ['spiffe://shop.example/gateway']}")
    policies = (A, FORWARDED, gateway, RULE)
    comparison = compare(parsed(MESH, *policies), parsed(revoked, *policies), now_ns=0)
    assert [(str(each), each.change.becomes) for each in comparison.differences] == [
        ("a -> b: any method on any path with a JWT-SVID presented by gateway", DENY)
    ]


def test_a_workload_that_presents_the_token_of_another_one_of_its_service_is_compared() -> None:
    many = document("Service", "a", "{identities: ['spiffe://shop.example/many/*']}")
    sides = [
        (many, service("b", more=f", accepts: [x509-svid, jwt-svid]{forwarders}"), RULE)
        for forwarders in ("", ", forwarders: [a]")
    ]
    assert told(sides[0], sides[1]) == [("a -> b: any method on any path with a JWT-SVID presented by a", ALLOW)]


def test_a_caller_that_a_certificate_proves_is_compared() -> None:
    rule = document("MicroPolicy", "r", "{from: [{thirdParties: [p]}], to: [{services: [b], operations: all}]}")
    (change,) = compared((B, partner("p")), (B, partner("p"), rule)).differences
    assert (str(change), change.example.third_party) == ("p -> b: any method on any path", "p")
    assert compared((B, partner("p"), rule), (B, partner("p"), rule)).same


def test_other_certificates_of_the_same_caller_are_told_in_a_note() -> None:
    both = (B, partner("p")), (B, partner("p", authority="other.pem"))
    comparison = compared(*both)
    assert comparison.notes == ("other certificates prove that `p` calls (`certificates`)",)
    assert not comparison.differences


def test_whom_tokens_must_be_for_is_told_in_a_note() -> None:
    other = document("Service", "b", "{identities: ['spiffe://shop.example/other'], accepts: [jwt-svid]}")
    (note,) = compared((service("b", more=", accepts: [jwt-svid]"),), (other,)).notes
    assert note.startswith("`b`: JWT-SVIDs must be for `spiffe://shop.example/other`, and had to be for ")


def test_an_example_in_json_says_who_calls_and_who_presents_the_token() -> None:
    (change,) = compared((A, TOKENS, GATEWAY, RULE), (A, FORWARDED, GATEWAY, RULE)).differences
    example = difference_object(change)["example"]
    assert (example["from"], example["presentedBy"]) == (str(change.example.caller), str(change.example.presenter))
    assert example["from"] != example["presentedBy"]
    rule = document("MicroPolicy", "r", "{from: [{thirdParties: [p]}], to: [{services: [b], operations: all}]}")
    (change,) = compared((B, partner("p")), (B, partner("p"), rule)).differences
    example = difference_object(change)["example"]
    assert (example["from"], example.get("presentedBy")) == ("p", None)


def test_a_condition_about_the_presenter_is_compared() -> None:
    guard = document("Guardrail", "g", """{when: ["caller.service == 'gateway'"]}""")
    assert told((A, FORWARDED, GATEWAY, RULE, guard), (A, FORWARDED, GATEWAY, RULE)) == [
        ("a -> b: any method on any path with a JWT-SVID presented by gateway", ALLOW)
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ', egress: {connect: ["p.example:2"]}'),
        (', egress: {connect: ["p.example:1"]}', ', egress: {connect: ["p.example:1", "P.example.:2"]}'),
    ],
)
def test_a_tunnel_is_compared_by_host_and_port(old: str, new: str) -> None:
    sides = [(service("a", more=more), B, HOSTS, TUNNEL) for more in (old, new)]
    assert told(sides[0], sides[1]) == [("a -> p.example:2: CONNECT", ALLOW)]
    assert told(sides[1], sides[0]) == [("a -> p.example:2: CONNECT", DENY)]


def test_a_rule_for_tunnels_that_nobody_may_open_is_no_difference() -> None:
    assert compared((A, B, HOSTS), (A, B, HOSTS, TUNNEL)).same
