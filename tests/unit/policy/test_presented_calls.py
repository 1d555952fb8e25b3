"""Calls whose caller is the subject of a JWT-SVID, presented by another workload: by engine and reference alike."""

from __future__ import annotations

from dataclasses import replace

import pytest

from authz.decision import Reason
from authz.identity.spiffe_id import SpiffeId
from authz.policy.evaluation import evaluate
from authz.policy.explanation import explain
from authz.policy.index import compile_index
from authz.request import Call, Direction, TlsVersion
from tests.conformance.reference import reference_answer
from tests.support.policy_sets import OPEN, document, parsed, service

NOW_NS = 1_780_000_000 * 10**9


def rule(name: str, spec: str) -> str:
    return document("MicroPolicy", name, spec)


def guardrail(name: str, path: str, more: str) -> str:
    target = f"{{services: [catalog], operations: [{{methods: all, paths: [{path}]}}]}}"
    return document("Guardrail", name, f"{{to: [{target}], {more}}}")


#: `s1` is the Service of users: a condition of the vectors names it
SET = parsed(
    document(
        "Mesh",
        "m",
        "{trustDomains: [shop.example], federates: [{trustDomain: acme.example, bundle: acme.pem}], "
        'revoked: [spiffe://shop.example/gateway/stolen, spiffe://shop.example/user/gone, "serial:shop.example/0a"]}',
    ),
    service("gateway", "spiffe://shop.example/gateway/**", more=", attributes: {edge: 'yes'}"),
    service("s1", "spiffe://shop.example/user/**"),
    service("batch", "spiffe://shop.example/batch", more=", mode: enforce"),
    service("catalog", more=", accepts: [x509-svid, jwt-svid], forwarders: [gateway]"),
    service("orders", more=", forwarders: [gateway]"),
    document("ThirdParty", "acme", f'{{identities: ["spiffe://acme.example/**"], window: {OPEN}}}'),
    document(
        "ThirdParty",
        "hook",
        f"{{hosts: [hook.example], certificates: [{{authority: h, dns: [h]}}], window: {OPEN}}}",
    ),
    rule(
        "users",
        "{from: [{services: [s1]}, {thirdParties: [acme, hook]}], "
        "to: [{services: [catalog, orders], operations: all}, {thirdParties: [hook], operations: all}]}",
    ),
    guardrail("not-from-the-edge", "/internal", "from: [{attributes: {edge: 'yes'}}]"),
    guardrail("by-condition", "/conditional", "when: [\"caller.service != 's1'\"]"),
    guardrail("short", "/short", "from: [{services: [gateway]}], require: {maxWindow: 1d}"),
    guardrail("strong", "/strong", "from: [{services: [gateway]}], require: {tls: TLSv1_3}"),
)
INDEX = compile_index(SET)
USER, GATEWAY, BATCH = (
    SpiffeId.parse(f"spiffe://shop.example/{path}") for path in ("user/anna", "gateway/one", "batch")
)
CALL = Call(
    direction=Direction.INBOUND,
    service="catalog",
    caller=USER,
    presenter=GATEWAY,
    method="GET",
    path="/",
    host="catalog",
    tls=TlsVersion.TLS_1_3,
)


def answer(call: Call) -> tuple[str, str | None]:
    got = evaluate(INDEX, call, NOW_NS)
    expected = reference_answer(SET, call, NOW_NS)
    assert (got.reason, got.policy) == (expected.reason, expected.policy)
    last = explain(SET, INDEX, call, NOW_NS).steps[-1]
    assert (last.reason, last.policy) == (got.reason, got.policy)
    return got.reason.value, got.policy


def test_the_caller_is_the_subject_whom_a_forwarder_presents() -> None:
    assert answer(CALL) == ("allowed", "users")
    got = evaluate(INDEX, CALL, NOW_NS)
    assert (got.caller_service, got.destination_service) == ("s1", "catalog")


def test_both_sides_answer_a_presented_call_alike() -> None:
    assert answer(replace(CALL, direction=Direction.OUTBOUND, service="gateway")) == ("allowed", "users")


def test_whoever_presents_their_own_token_is_no_forwarder() -> None:
    assert answer(replace(CALL, presenter=USER)) == ("allowed", "users")


@pytest.mark.parametrize(
    "call",
    [
        replace(CALL, presenter=BATCH),
        replace(CALL, presenter=SpiffeId.parse("spiffe://shop.example/nobodys")),
        replace(CALL, presenter=SpiffeId.parse("spiffe://acme.example/gateway")),
        replace(CALL, presenter=SpiffeId.parse("spiffe://x.example/gateway/one")),
        replace(CALL, service="orders", host="orders"),
        replace(CALL, direction=Direction.OUTBOUND, service="gateway", host="hook.example"),
        replace(CALL, service="nobody"),
        replace(CALL, caller=None),
        replace(CALL, caller=None, third_party="hook"),
    ],
    ids=[
        "a service that is no forwarder",
        "an identity that is nobody's",
        "a third party",
        "a foreign trust domain",
        "a service that accepts no tokens",
        "a third party as destination",
        "no destination",
        "no subject",
        "a certificate as subject",
    ],
)
def test_a_token_that_nobody_may_present_there_identifies_nobody(call: Call) -> None:
    assert answer(call) == ("unidentified", None)


@pytest.mark.parametrize(
    "call",
    [
        replace(CALL, presenter=SpiffeId.parse("spiffe://shop.example/gateway/stolen")),
        replace(CALL, caller=SpiffeId.parse("spiffe://shop.example/user/gone")),
        replace(CALL, serial="A"),
    ],
    ids=["the presenter", "the subject", "the presenter's certificate"],
)
def test_whoever_is_revoked_makes_a_presented_call_unidentified(call: Call) -> None:
    assert answer(call) == ("unidentified", None)


def test_a_serial_number_is_of_the_trust_domain_of_the_presenter() -> None:
    federated = replace(CALL, caller=SpiffeId.parse("spiffe://acme.example/a"), serial="A")
    assert answer(federated) == ("unidentified", None)
    assert answer(replace(federated, presenter=federated.caller)) == ("allowed", "users")


def test_a_subject_of_no_trust_domain_of_ours_is_untrusted() -> None:
    assert answer(replace(CALL, caller=SpiffeId.parse("spiffe://x.example/a"))) == ("untrusted", None)


def test_a_malformed_call_is_malformed_whoever_presents_it() -> None:
    assert answer(replace(CALL, path="//", presenter=BATCH)) == ("malformed", None)


def test_guardrails_are_judged_for_subject_and_presenter_both() -> None:
    assert answer(replace(CALL, path="/internal")) == ("guardrail", "not-from-the-edge")
    assert answer(replace(CALL, path="/internal", presenter=USER)) == ("allowed", "users")
    assert answer(replace(CALL, path="/conditional")) == ("guardrail", "by-condition")
    assert answer(replace(CALL, path="/conditional", presenter=USER)) == ("allowed", "users")


def test_what_guardrails_require_holds_for_the_presenter_too() -> None:
    assert answer(replace(CALL, path="/short")) == ("guardrail", "short")
    assert answer(replace(CALL, path="/short", presenter=USER)) == ("allowed", "users")
    assert answer(replace(CALL, path="/strong")) == ("allowed", "users")
    assert answer(replace(CALL, path="/strong", tls=TlsVersion.TLS_1_2)) == ("guardrail", "strong")


def test_what_a_forwarder_may_do_itself_does_not_matter_for_what_it_presents() -> None:
    assert answer(replace(CALL, caller=GATEWAY, presenter=GATEWAY)) == (Reason.NO_POLICY.value, None)


def test_an_explanation_names_the_presenter_and_what_it_lacks() -> None:
    steps = explain(SET, INDEX, CALL, NOW_NS).steps
    assert steps[1].found.endswith("; its token is presented by `spiffe://shop.example/gateway/one`")
    steps = explain(SET, INDEX, replace(CALL, presenter=BATCH), NOW_NS).steps
    assert steps[1].found == (
        "`spiffe://shop.example/batch` presents the token of another, and is not among the `forwarders` of `catalog`"
    )
    steps = explain(SET, INDEX, replace(CALL, path="/internal"), NOW_NS).steps
    assert steps[-1].found.startswith("`not-from-the-edge` (set.yaml:")


def test_a_third_party_that_a_certificate_proves_counts_only_without_a_spiffe_id() -> None:
    certified = replace(CALL, caller=None, presenter=None, third_party="hook")
    assert answer(certified) == ("allowed", "users")
    assert evaluate(INDEX, certified, NOW_NS).caller_third_party == "hook"
    assert answer(replace(certified, caller=BATCH)) == ("no_policy", None)
    assert answer(replace(certified, third_party="acme")) == ("unidentified", None)
    assert answer(replace(certified, third_party="catalog")) == ("unidentified", None)
    assert answer(replace(certified, third_party="nobody")) == ("unidentified", None)
