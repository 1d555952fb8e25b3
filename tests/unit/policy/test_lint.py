from __future__ import annotations

import re
from pathlib import Path

import pytest

from authz.policy.errors import FaultCode, PolicySetFaults
from authz.policy.finding import LEVELS, MEANING, Finding, Level, LintCode
from authz.policy.lint import faults_as_findings, lint
from authz.policy.window import parse_instant_ns
from tests.support.policy_texts import document, parsed, rule, service

NOW_NS = parse_instant_ns("2026-06-01T00:00:00Z")
A, B = service("a"), service("b")


def third_party(name: str, *, hosts: str, opens: str = "2026-01-01", closes: str = "2027-01-01") -> str:
    window = f"{{opens: {opens}T00:00:00Z, closes: {closes}T00:00:00Z}}"
    return document("ThirdParty", name, f"{{hosts: [{hosts}], window: {window}}}")


def found(*documents: str) -> list[Finding]:
    return list(lint(parsed(*documents), now_ns=NOW_NS))


def codes(*documents: str) -> list[str]:
    return [str(each.code) for each in found(*documents)]


def closing(at: str) -> str:
    return rule("r", more=f", window: {{closes: {at}}}")


def test_a_set_in_order_has_no_findings() -> None:
    assert found(A, B, rule("r")) == []


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2026-05-31T23:59:59.999Z", ["window-ended"]),
        ("2026-06-01T00:00:00Z", ["window-ended"]),
        ("2026-06-01T00:00:00.001Z", ["window-ending"]),
        ("2026-06-15T00:00:00Z", ["window-ending"]),
        ("2026-06-15T00:00:00.001Z", []),
    ],
)
def test_windows_that_end_are_told_two_weeks_before(at: str, expected: list[str]) -> None:
    assert codes(A, B, closing(at)) == expected


def test_a_finding_stands_where_it_can_be_mended() -> None:
    (finding,) = found(A, B, closing("2026-06-02T12:00:00Z"))
    assert str(finding) == (
        "set.yaml:19:118: warning: the window ends in less than two days, at 2026-06-02T12:00:00.000Z [window-ending]"
    )


def test_who_is_in_no_rule_is_unused() -> None:
    assert codes(A, B, service("c"), third_party("p", hosts="p.example"), rule("r")) == [
        "unused-service",
        "unused-third-party",
    ]
    assert (
        codes(A, B, service("c"), rule("r", callers="[{services: [a]}, {identities: ['spiffe://shop.example/c']}]"))
        == []
    )
    assert codes(A, service("b", more=", attributes: {x: y}"), rule("r", to="{attributes: {x: y}}")) == []


@pytest.mark.parametrize(
    ("operations", "column"),
    [
        ("all", True),
        ("[{methods: all, paths: all}]", True),
        ("[{methods: [GET], paths: ['/{**}']}]", True),
        ("[{methods: [GET], paths: ['/{rest=**}', /x]}]", True),
        ("[{methods: [GET], paths: all}]", False),
        ("[{methods: all, paths: [/x]}]", False),
        ("[{methods: [GET], paths: ['/x/{**}']}]", False),
        ("[{grpc: [a.B/*]}]", False),
    ],
)
def test_rules_that_allow_everything_are_over_broad(operations: str, column: bool) -> None:  # noqa: FBT001
    assert codes(A, B, rule("r", operations=operations)) == (["over-broad"] if column else [])


def test_rules_for_a_whole_trust_domain_are_over_broad() -> None:
    everyone = "{identities: ['spiffe://shop.example/**']}"
    assert codes(A, B, rule("r", callers=f"[{everyone}]")) == ["over-broad-caller"]
    assert codes(A, B, rule("r", callers="[{services: [a], identities: ['spiffe://shop.example/**']}]")) == []
    assert (
        codes(A, B, rule("r", callers="[{identities: ['spiffe://shop.example/x/**', spiffe://shop.example/a]}]")) == []
    )


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        (rule("n"), rule("w")),
        (rule("n"), rule("w", operations="[{methods: all, paths: [/x]}]")),
        (rule("n"), rule("w", operations="[{methods: [GET], paths: ['/{y}']}]")),
        (rule("n"), rule("w", callers="[{services: [a, b]}]")),
        (rule("n"), rule("w", to="{services: [a, b]}")),
        (rule("n", more=", window: {closes: 2030-01-01T00:00:00Z}"), rule("w")),
        (rule("n", operations="[{grpc: [p.S/M]}]"), rule("w", operations="[{grpc: ['p.S/*']}]")),
        (rule("n", operations="[{grpc: [p.S/M]}]"), rule("w", operations="[{methods: [POST], paths: ['/p.S/{m}']}]")),
        (
            rule("n", callers="[{identities: [spiffe://shop.example/x/y]}]"),
            rule("w", callers="[{identities: ['spiffe://shop.example/x/*']}]"),
        ),
    ],
)
def test_a_rule_that_another_one_contains_is_shadowed(narrow: str, wide: str) -> None:
    assert [each.message for each in found(A, B, narrow, wide) if each.code == LintCode.SHADOWED] == [
        "all that this rule allows is allowed by `w` in set.yaml:21"
        if narrow != rule("n") or wide != rule("w")
        else "all that this rule allows is allowed by `n` in set.yaml:16"
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (rule("n"), rule("w", operations="[{methods: [PUT], paths: [/x]}]")),
        (rule("n"), rule("w", operations="[{methods: [GET], paths: [/x/]}]")),
        (rule("n"), rule("w", more=", window: {closes: 2030-01-01T00:00:00Z}", operations="all")),
        (rule("n", callers="[{services: [a, b]}]"), rule("w")),
        (rule("n", operations="[{methods: [POST], paths: [/p.S/M]}]"), rule("w", operations="[{grpc: [p.S/M]}]")),
        (rule("n", callers="[{identities: [spiffe://shop.example/a]}]"), rule("w")),
    ],
)
def test_a_rule_that_allows_anything_more_is_not(one: str, other: str) -> None:
    shadowed = [each for each in found(A, B, one, other) if each.code == LintCode.SHADOWED]
    assert [each.line for each in shadowed if each.line == 18] == []


def guardrail(name: str, spec: str) -> str:
    return document("Guardrail", name, spec)


FOREVER = "{opens: 2026-01-01T00:00:00Z}"
ABOUT_B = "to: [{services: [b], operations: [{methods: [GET], paths: [%s]}]}]"


@pytest.mark.parametrize(
    ("spec", "more"),
    [
        ("{mode: enforce}", ""),
        (f"{{from: [{{services: [a]}}], {ABOUT_B % '/x'}}}", ""),
        (f"{{{ABOUT_B % '/x/'}}}", ""),
        ("{to: [{services: [b], operations: [{methods: [GET], paths: ['/x/{**}']}]}]}", ""),
        ("{to: [{services: [b], operations: all}], require: {maxWindow: 30d}}", ""),
        ("{require: {maxWindow: 30d}}", f", window: {FOREVER}"),
        (f"{{window: {FOREVER}}}", f", window: {FOREVER}"),
        ("{when: [\"request.query == ''\"]}", ", when: [\"request.query == ''\", \"tls.version != ''\"]"),
    ],
)
def test_a_rule_that_a_guardrail_forbids_wholly_is_told(spec: str, more: str) -> None:
    (finding,) = found(A, B, rule("r", more=more), guardrail("g", spec))
    assert (finding.code, finding.message) == (
        LintCode.FORBIDDEN,
        "all that this rule allows is forbidden by `g` in set.yaml:21",
    )


@pytest.mark.parametrize(
    ("spec", "more"),
    [
        ("{mode: observe}", ""),
        ("{from: [{services: [b]}]}", ""),
        (f"{{{ABOUT_B % '/y'}}}", ""),
        ("{require: {tls: TLSv1_3}}", ""),
        ("{require: {maxWindow: 30d}}", ", window: {opens: 2026-05-20T00:00:00Z, closes: 2026-06-19T00:00:00Z}"),
        (f"{{window: {FOREVER}}}", ""),
        ("{when: [\"request.query == ''\"]}", ", when: [\"tls.version != ''\"]"),
    ],
)
def test_a_rule_that_a_guardrail_leaves_something_of_is_not(spec: str, more: str) -> None:
    assert codes(A, B, rule("r", more=more), guardrail("g", spec)) == []


def test_a_third_party_whose_tls_is_never_enough_is_told() -> None:
    party = third_party("p", hosts="p.example")
    about = rule("r", to="{thirdParties: [p]}")
    assert codes(A, party, about, guardrail("g", "{require: {tls: TLSv1_3}}")) == ["forbidden"]
    assert codes(A, party, about, guardrail("g", "{require: {tls: TLSv1_2}}")) == []
    # What the ThirdParty's own year cuts to a year is no longer endless.
    assert codes(A, party, about, guardrail("g", "{require: {maxWindow: 364d}}")) == ["forbidden"]
    assert codes(A, party, about, guardrail("g", "{require: {maxWindow: 365d}}")) == []


def test_guardrails_have_windows_and_selectors_too() -> None:
    ended = "{window: {closes: 2026-05-01T00:00:00Z}}"
    assert codes(A, B, rule("r"), guardrail("g", ended)) == ["window-ended"]
    nobody = "{from: [{attributes: {x: y}}], to: [{attributes: {x: y}, operations: all}]}"
    assert codes(A, B, rule("r"), guardrail("g", nobody)) == ["selects-nothing", "selects-nothing"]


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ("", ", mode: observe"),
        ("", ", when: ['true']"),
        (", when: ['true']", ", when: ['false']"),
    ],
)
def test_a_rule_that_is_only_tried_or_has_a_condition_shadows_no_other(narrow: str, wide: str) -> None:
    assert (
        codes(A, B, rule("r", more=narrow), rule("wide", operations="[{methods: all, paths: [/x]}]", more=wide)) == []
    )


def test_a_limit_on_windows_keeps_a_short_rule_beside_an_endless_one() -> None:
    short = rule("r", more=", window: {opens: 2026-05-20T00:00:00Z, closes: 2026-07-01T00:00:00Z}")
    wide = rule("wide", operations="[{methods: all, paths: [/x]}]")
    assert codes(A, B, short, wide) == ["shadowed"]
    limit = guardrail("g", "{from: [{services: [b]}], require: {maxWindow: 90d}}")
    assert codes(A, B, short, wide, limit) == []


def test_selectors_that_select_nothing_are_told() -> None:
    assert codes(A, B, rule("r", callers="[{attributes: {env: prod}}]")) == ["unused-service", "selects-nothing"]
    assert codes(A, B, rule("r", to="{attributes: {env: prod}}")) == ["unused-service", "selects-nothing"]


def test_a_rule_that_is_never_open_with_its_third_party_is_told() -> None:
    party = third_party("p", hosts="p.example")
    late = ", window: {opens: 2027-01-01T00:00:00Z}"
    assert codes(A, party, rule("r", to="{thirdParties: [p]}", more=late)) == ["never-open"]
    assert (
        codes(
            A,
            party,
            rule("r", to="{thirdParties: [p]}", more=late.replace("2027-01-01T00:00:00Z", "2026-12-31T23:59:59.999Z")),
        )
        == []
    )


def test_paths_that_are_always_refused_are_told() -> None:
    double = service("b", more=", paths: {allow: [double-slash]}")
    operations = "[{methods: [GET], paths: ['/x//y', /x/]}]"
    assert codes(A, B, rule("r", operations=operations)) == ["unreachable-path"]
    assert codes(A, double, rule("r", operations=operations)) == []


@pytest.mark.parametrize("segment", [":id", "<int:id>", "[id]", "[0-9]+", "(a|b)", ".+", "items$"])
def test_a_placeholder_of_another_program_is_told(segment: str) -> None:
    operations = f'[{{methods: [GET], paths: ["/items/{{any}}/{segment}"]}}]'
    guardrail = document("Guardrail", "g", f"{{to: [{{services: [b], operations: {operations}}}]}}")
    offered = service("b", more=f', api: [{{name: x, methods: [GET], paths: ["/{segment}"]}}]')
    used = rule("r2")
    assert codes(A, B, rule("r", operations=operations)) == ["literal-placeholder"]
    assert "literal-placeholder" in codes(A, B, used, guardrail)
    assert codes(A, offered, rule("r", operations="[{api: [x]}]")) == ["literal-placeholder"]


@pytest.mark.parametrize("segment", ["items:batchGet", "$metadata", "Products(1)", "a.b", "-", "@me", "~root", "[", ""])
def test_what_only_looks_odd_is_no_placeholder(segment: str) -> None:
    assert codes(A, B, rule("r", operations=f'[{{methods: [GET], paths: ["/{segment}"]}}]')) == []


def test_a_shadowed_rule_is_found_among_thousands_for_the_same_pair() -> None:
    many = [rule(f"r{number}", operations=f"[{{methods: [GET], paths: [/v1/r{number}]}}]") for number in range(600)]
    wide = rule("wide", operations='[{methods: [GET, PUT], paths: ["/v1/a/{id}"]}]')
    narrow = rule("narrow", operations="[{methods: [GET], paths: [/v1/a/b]}]")
    found_in = [each.message for each in found(A, B, *many, wide, narrow)]
    assert [message.partition(" in ")[0] for message in found_in] == ["all that this rule allows is allowed by `wide`"]


def test_who_waits_is_told_after_each_rule_how_many_there_are() -> None:
    told: list[tuple[int, int]] = []
    lint(parsed(A, B, rule("r"), rule("s")), now_ns=NOW_NS, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_hosts_that_only_the_port_tells_apart_are_told() -> None:
    used = rule("r", to="{thirdParties: [p, q]}")
    assert codes(A, third_party("p", hosts="x.example"), third_party("q", hosts="'x.example:443'"), used) == [
        "host-overlap"
    ]
    assert codes(A, third_party("p", hosts="x.example"), third_party("q", hosts="'x.example:8443'"), used) == []


# --- acceptance


def accepted(text: str) -> list[tuple[str, Level, str]]:
    annotation = f', annotations: {{authz/accept: "{text}"}}'
    return [
        (str(each.code), each.level, each.accepted)
        for each in found(A, B, rule("r", operations="all", metadata=annotation))
    ]


def test_an_accepted_finding_is_a_note() -> None:
    assert accepted("over-broad the team agreed") == [("over-broad", Level.NOTE, "the team agreed")]
    assert accepted("shadowed for now\\nover-broad the team agreed") == [
        ("unused-accept", Level.NOTE, ""),
        ("over-broad", Level.NOTE, "the team agreed"),
    ]


def test_an_acceptance_without_code_or_reason_is_none() -> None:
    assert accepted("over-broad") == [("bad-accept", Level.WARNING, ""), ("over-broad", Level.WARNING, "")]
    assert accepted("over-brod why not") == [("bad-accept", Level.WARNING, ""), ("over-broad", Level.WARNING, "")]


def test_faults_are_errors_with_their_code() -> None:
    with pytest.raises(PolicySetFaults) as raised:
        parsed(A, rule("r"))
    assert [(each.code, each.level) for each in faults_as_findings(raised.value)] == [("reference", Level.ERROR)]


def test_a_tunnel_that_leads_to_no_third_party_is_told() -> None:
    hosts = 'api.p.example, "*.w.example", "db.p.example:5432"'
    reachable = ["api.p.example:443", "API.P.example.:80", "x.w.example:443", "db.p.example:5432"]
    others = ["api.p.example:8443", "w.example:443", "a.b.w.example:443", "db.p.example:443", "b.local:443"]
    connect = ", ".join(f'"{each}"' for each in (*reachable, *others))
    texts = [each.message for each in found(
        service("a", more=f", egress: {{connect: [{connect}]}}"),
        service("b", more=", hosts: [b.local]"),
        third_party("p", hosts=hosts),
        rule("r"),
    ) if each.code == LintCode.UNREACHABLE_TUNNEL]  # fmt: skip
    assert texts == [f"no ThirdParty has the host `{each}`: the tunnel is never opened" for each in others]


def test_forwarders_without_tokens_are_told_and_forwarders_are_used() -> None:
    c = service("c")
    assert codes(service("a", more=", forwarders: [c]"), B, c, rule("r")) == ["unused-forwarders"]
    assert codes(service("a", more=", accepts: [x509-svid, jwt-svid], forwarders: [c]"), B, c, rule("r")) == []


def test_every_code_has_a_meaning_a_level_and_a_line_in_the_docs() -> None:
    every = {*FaultCode, *LintCode}
    assert set(MEANING) == set(LEVELS) == every
    text = (Path(__file__).parents[3] / "docs" / "lint-codes.md").read_text("utf-8")
    assert set(re.findall(r"^### `([a-z-]+)`", text, re.MULTILINE)) == {str(each) for each in every}
    for code in every:
        assert MEANING[code] in text
