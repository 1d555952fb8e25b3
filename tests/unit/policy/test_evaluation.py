"""What the vectors do not say: labels and routes of an answer, serial numbers, and that large sets of callers count."""

from __future__ import annotations

import pytest

from authz.decision import Decision, Reason
from authz.identity.spiffe_id import SpiffeId
from authz.policy.document import SourceFile
from authz.policy.evaluation import evaluate
from authz.policy.index import LARGE_SET, compile_index
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.request import Call, Direction
from tests.support.policy_texts import document, joined, parsed, rule, service

NOW_NS = 1_780_000_000 * 10**9
GRPC = (("content-type", b"application/grpc"),)
OPEN = "window: {opens: 2026-01-01T00:00:00Z, closes: 2027-01-01T00:00:00Z}"


def answer(policy_set: PolicySet, **words: object) -> Decision:
    given: dict[str, object] = {
        "direction": Direction.INBOUND,
        "service": "b",
        "caller": SpiffeId.parse("spiffe://shop.example/a"),
        "method": "GET",
        "path": "/x",
        "host": "b",
        **words,
    }
    return evaluate(compile_index(policy_set), Call(**given), NOW_NS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("serial", "reason"),
    [
        ("0ab", Reason.UNIDENTIFIED),
        ("AB", Reason.UNIDENTIFIED),
        ("ab0", Reason.ALLOWED),
        (None, Reason.ALLOWED),
        ("", Reason.ALLOWED),
    ],
)
def test_a_revoked_serial_number_is_one_certificate_of_its_trust_domain(serial: str | None, reason: Reason) -> None:
    mesh = document(
        "Mesh",
        "m",
        '{trustDomains: [shop.example, x.example], revoked: ["serial:shop.example/00Ab", "serial:x.example/c"]}',
    )
    policy_set = parse_policy_set([SourceFile("set", joined(mesh, service("a"), service("b"), rule("r")))])
    assert answer(policy_set, serial=serial).reason is reason
    assert answer(policy_set, serial="c").reason is Reason.ALLOWED


def test_an_answer_says_between_whom_the_call_is() -> None:
    party = document("ThirdParty", "p", f"{{hosts: [p.example], identities: [spiffe://acme.example/p], {OPEN}}}")
    policy_set = parsed(service("a"), service("b"), party, rule("r"))
    inbound = answer(policy_set, caller=SpiffeId.parse("spiffe://acme.example/p"))
    assert (inbound.caller_service, inbound.caller_third_party) == (None, "p")
    assert (inbound.destination_service, inbound.destination_third_party) == ("b", None)
    outbound = answer(policy_set, direction=Direction.OUTBOUND, host="p.example", service="a")
    assert (outbound.caller_service, outbound.destination_third_party) == ("a", "p")
    malformed = answer(policy_set, path="//")
    assert (malformed.reason, malformed.caller_service, malformed.destination_service) == (Reason.MALFORMED, "a", "b")
    stranger = answer(policy_set, caller=SpiffeId.parse("spiffe://shop.example/stranger"))
    assert (stranger.caller_service, stranger.caller_third_party) == (None, None)


API = (
    ", api: [{name: one, methods: [GET], paths: ['/items/{id}', '/items/new', '/{**}']}, "
    "{name: list, grpc: [s.C/List]}]"
)


@pytest.mark.parametrize(
    ("words", "reason", "route"),
    [
        ({"path": "/items/7?x=1"}, Reason.NO_POLICY, "/items/{id}"),
        ({"path": "/items/new"}, Reason.NO_POLICY, "/items/new"),
        ({"path": "/a/b/c"}, Reason.NO_POLICY, "/{**}"),
        ({"path": "/"}, Reason.NO_POLICY, None),
        ({"path": "/allowed/7"}, Reason.ALLOWED, "/{**}"),
        ({"path": "/allowed/7", "method": "PUT"}, Reason.ALLOWED, "/allowed/{id}"),
        ({"path": "/any", "method": "DELETE"}, Reason.ALLOWED, None),
        ({"path": "/s.C/List", "method": "POST", "headers": GRPC}, Reason.NO_POLICY, "/s.C/List"),
        ({"path": "/s.D/Get", "method": "POST", "headers": GRPC}, Reason.ALLOWED, "/s.D/Get"),
        ({"path": "/s.D/%20", "method": "POST", "headers": GRPC}, Reason.ALLOWED, "/s.D/*"),
        ({"path": "/s.E/Get", "method": "POST", "headers": GRPC}, Reason.NO_POLICY, None),
        ({"path": "/../x"}, Reason.MALFORMED, None),
    ],
)
def test_the_route_is_the_most_literal_template(words: dict[str, object], reason: Reason, route: str | None) -> None:
    operations = "[{methods: [GET, PUT], paths: ['/allowed/{id}']}, {methods: [DELETE], paths: all}, {grpc: [s.D/*]}]"
    policy_set = parsed(service("a"), service("b", more=API), rule("r", operations=operations))
    got = answer(policy_set, **words)
    assert (got.reason, got.route) == (reason, route)


def test_a_rule_that_allows_everything_has_the_name_of_the_grpc_method_as_route() -> None:
    policy_set = parsed(service("a"), service("b"), rule("r", operations="all"))
    assert answer(policy_set, path="/s.E/Get", method="POST", headers=GRPC).route == "/s.E/Get"
    assert answer(policy_set, path="/s.E/Get", method="POST").route is None
    assert answer(policy_set, path="/a b/".replace(" ", "%20"), method="POST", headers=GRPC).route is None


def test_a_rule_for_very_many_callers_is_for_each_of_them() -> None:
    names = [f"s{number}" for number in range(LARGE_SET + 5)]
    attributes = ", attributes: {env: prod}"
    policy_set = parsed(
        *(service(name, more=attributes) for name in names),
        service("b"),
        service("other"),
        rule("by-attribute", callers="[{attributes: {env: prod}}]"),
        rule(
            "by-name",
            callers=f"[{{services: [{', '.join(names)}]}}, {{services: [other]}}]",
            operations="[{methods: [PUT], paths: all}]",
        ),
    )
    for name in names:
        caller = SpiffeId.parse(f"spiffe://shop.example/{name}")
        assert answer(policy_set, caller=caller).policy == "by-attribute"
        assert answer(policy_set, caller=caller, method="PUT").policy == "by-name"
    other = SpiffeId.parse("spiffe://shop.example/other")
    assert answer(policy_set, caller=other).reason is Reason.NO_POLICY
    assert answer(policy_set, caller=other, method="PUT").policy == "by-name"


def test_spaces_in_a_path_are_of_the_path() -> None:
    policy_set = parsed(
        service("a"), service("b"), rule("r", operations="[{methods: [GET], paths: ['/b c', '/b/{x}']}]")
    )
    for path, reason in (("/b%20c", Reason.ALLOWED), ("/b/c%20d", Reason.ALLOWED), ("/c", Reason.NO_POLICY)):
        assert answer(policy_set, path=path).reason is reason, path


def test_an_index_knows_names_and_identities() -> None:
    index = compile_index(
        parsed(service("a"), service("w", identity="'spiffe://shop.example/w/*', spiffe://shop.example/w1"))
    )
    assert index.has_service("a")
    assert not index.has_service("x")
    assert index.service_identity("w") == SpiffeId.parse("spiffe://shop.example/w1")
    assert index.service_identity("x") is None
    assert index.identity_owner(SpiffeId.parse("spiffe://shop.example/w/5")) == "w"
    assert index.identity_owner(SpiffeId.parse("spiffe://shop.example/x")) is None
