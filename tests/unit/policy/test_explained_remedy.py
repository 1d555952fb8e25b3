"""Every denial says what to change, and where."""

from __future__ import annotations

import pytest

from authz.decision import Reason
from authz.policy.asked_call import AskedCall
from authz.policy.explained_remedy import remedy_of
from authz.policy.explanation import explain
from authz.policy.index import compile_index
from authz.policy.policy_test import directory_of
from authz.policy.window import parse_instant_ns
from authz.request import TlsVersion
from tests.support.policy_texts import document, parsed, rule, service

DATES = "{opens: 2026-03-01T00:00:00Z, closes: 2026-09-01T00:00:00Z}"
HOURS = '{during: [{days: [mon], from: "08:00", until: "09:00", timezone: UTC}]}'
SET = (
    service("a"),
    service("b"),
    document("ThirdParty", "p", f"{{hosts: [p.example], window: {DATES}}}"),
    document("Guardrail", "no-admin", '{to: [{services: [b], operations: [{methods: all, paths: ["/admin/{**}"]}]}]}'),
    document(
        "Guardrail",
        "short",
        "{to: [{services: [b], operations: [{methods: all, paths: [/long]}]}], require: {maxWindow: 90d}}",
    ),
    rule("long", operations="[{methods: [GET], paths: [/long]}]"),
    rule("dated", operations="[{methods: [GET], paths: [/dated]}]", more=f", window: {DATES}"),
    rule("hours", operations="[{methods: [GET], paths: [/hours]}]", more=f", window: {HOURS}"),
    rule("out", to="{thirdParties: [p]}"),
)


def remedy(
    path: str, *, caller: str = "a", to: str = "b", at: str = "2026-06-02T00:00:00Z"
) -> tuple[Reason, str | None]:
    policy_set = parsed(*SET)
    index = compile_index(policy_set)
    asked = AskedCall(caller=caller, destination=to, method="GET", path=path, tls=TlsVersion.TLS_1_3)
    explanation = explain(policy_set, index, directory_of(policy_set).call(asked), parse_instant_ns(at))
    return explanation.decision.reason, remedy_of(policy_set, explanation)


@pytest.mark.parametrize(
    ("path", "to", "at", "reason", "expected"),
    [
        ("x", "b", "2026-06-02", Reason.MALFORMED, "mend the request as step 1 says"),
        ("/x", "q.example", "2026-06-02", Reason.UNKNOWN_DESTINATION, "call a Service or a host of the set"),
        ("/admin", "b", "2026-06-02", Reason.GUARDRAIL, "change the call, or the Guardrail `no-admin` (set.yaml:"),
        ("/long", "b", "2026-06-02", Reason.GUARDRAIL, "give the rule of step 6 an `opens` and a `closes`"),
        ("/x", "p", "2026-02-01", Reason.NOT_COMMISSIONED, "move `opens` of the ThirdParty `p` (set.yaml:"),
        ("/x", "p", "2026-09-01", Reason.DECOMMISSIONED, "move `closes` of the ThirdParty `p` (set.yaml:"),
        ("/dated", "b", "2026-02-01", Reason.NOT_YET_OPEN, "move `opens` of `dated` (set.yaml:"),
        ("/dated", "b", "2026-09-01", Reason.CLOSED, "move `closes` of `dated` (set.yaml:"),
        (
            "/hours",
            "b",
            "2026-06-02",
            Reason.OUTSIDE_HOURS,
            "or change `during` of `hours` (set.yaml:",
        ),
        ("/q", "b", "2026-06-02", Reason.NO_POLICY, "change the path of the call or of `dated` (set.yaml:"),
    ],
)
def test_a_denial_says_what_to_change_and_where(path: str, to: str, at: str, reason: Reason, expected: str) -> None:
    found, told = remedy(path, to=to, at=f"{at}T00:00:00Z")
    assert found is reason
    assert expected in (told or "")


def test_nobody_and_strangers_are_told_what_they_need() -> None:
    assert remedy("/x", caller="") == (
        Reason.UNIDENTIFIED,
        "call with a valid SVID whose identity is not revoked; without an identity nothing is allowed",
    )
    reason, told = remedy("/x", caller="spiffe://else.example/a")
    assert reason is Reason.UNTRUSTED
    assert "`federates`" in (told or "")


def test_what_is_allowed_needs_no_change() -> None:
    assert remedy("/dated") == (Reason.ALLOWED, None)


def test_a_closed_tunnel_is_opened_in_the_callers_egress_and_by_no_rule() -> None:
    policy_set = parsed(*SET)
    asked = AskedCall(caller="a", destination="p.example:443", method="CONNECT", path="/")
    call = directory_of(policy_set).call(asked)
    explanation = explain(policy_set, compile_index(policy_set), call, parse_instant_ns("2026-06-02T00:00:00Z"))
    assert explanation.decision.reason is Reason.NO_POLICY
    assert explanation.nearest == ()
    assert remedy_of(policy_set, explanation) == (
        "open the tunnel first: `p.example:443` is not in `egress.connect` of `a`, which names each `host:port`"
    )
