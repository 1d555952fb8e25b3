"""What `explain` says of a call: the steps, the deciding rule's place, and what the nearest rules lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from authz.policy.asked_call import AskedCall
from authz.policy.explanation import explain
from authz.policy.index import compile_index
from authz.policy.policy_test import directory_of
from authz.policy.window import Window, parse_instant_ns
from authz.policy.window_words import duration, window_in_words
from authz.request import Direction, TlsVersion
from tests.support.policy_texts import document, parsed, rule, service

if TYPE_CHECKING:
    from authz.policy.explanation import Explanation

NOW = "2026-06-01T00:00:00Z"
DAY = 86_400_000_000_000
ACME = document(
    "ThirdParty",
    "acme",
    "{identities: [spiffe://acme.example/x], hosts: [api.acme.example],"
    " window: {opens: 2026-01-01T00:00:00Z, closes: 2026-05-29T00:00:00Z}}",
)
PARTIES = (
    service("a", more=", attributes: {env: dev, team: x}"),
    service("b", more=", api: [{name: getX, methods: [GET], paths: [/x]}]"),
    service("c"),
    ACME,
)


def explained(*rules: str, at: str = NOW, **words: object) -> Explanation:
    policy_set = parsed(*PARTIES, *rules)
    asked = {"caller": "a", "destination": "b", "method": "GET", "path": "/x", **words}
    call = directory_of(policy_set).call(AskedCall(**asked))  # type: ignore[arg-type]
    return explain(policy_set, compile_index(policy_set), call, parse_instant_ns(at))


def last(explanation: Explanation) -> tuple[int, str, str | None]:
    step = explanation.steps[-1]
    return step.number, step.found, None if step.reason is None else step.reason.value


def lacks(*rules: str, **words: object) -> list[str]:
    (near,) = explained(*rules, **words).nearest
    return [str(lack) for lack in near.lacks]


def test_the_steps_are_told_in_the_order_of_the_language_up_to_the_one_that_answers() -> None:
    explanation = explained(rule("r"))
    assert [step.number for step in explanation.steps] == [1, 2, 3, 4, 5, 6]
    assert [step.reason for step in explanation.steps[:-1]] == [None] * 5
    assert last(explanation) == (6, "`r` (set.yaml:26) matches, and is always open", "allowed")
    assert explanation.place == "set.yaml:26"
    assert explanation.nearest == ()


def test_of_several_open_rules_the_smallest_name_is_told_and_the_others_counted() -> None:
    assert last(explained(rule("q"), rule("r"), rule("p")))[1].startswith("`p` (set.yaml:36) matches")
    assert last(explained(rule("q"), rule("r")))[1].endswith("; so does 1 other, of larger names")


@pytest.mark.parametrize(
    ("words", "step", "found"),
    [
        ({"method": "get"}, 1, "the method `get` is not of upper-case letters, `-` and `_`; write `GET`"),
        ({"host": "a@b"}, 1, "the host `a@b` has a byte that no host name, address or port has"),
        ({"host": ""}, 1, "the host is empty"),
        ({"method": "CONNECT"}, 1, "CONNECT is outbound only"),
        ({"path": "x"}, 1, "the path `x` does not begin with `/`"),
        ({"path": "/x#y"}, 1, "the path has a `#`; a request has no fragment"),
        ({"path": "/x y"}, 1, "the path has the character U+0020, which must be percent-encoded"),
        ({"path": "/" + "x" * 8192}, 1, "path and query have 8193 bytes; 8192 are allowed"),
        ({"path": "/a\\b"}, 1, "the path has a backslash"),
        ({"path": "/a//b"}, 1, "the path has an empty segment (`//`), and the destination does not allow"),
        ({"path": "/a;b"}, 1, "the path has a `;`, and the destination does not allow `semicolon`"),
        ({"path": "/a;b//"}, 1, "the path has more than one shape that the destination does not allow, of"),
        ({"path": "/a/../b"}, 1, "the segment `..` is a dot segment, also for a server that cuts parameters off"),
        ({"path": "/a/%zz"}, 1, "the segment `%zz` has a percent-encoding that is invalid"),
        ({"caller": None}, 2, "there is no verified identity"),
        ({"caller": "spiffe://shp.example/a"}, 2, "the trust domain `shp.example` is neither own nor federated; did"),
        ({"caller": "spiffe://acme.example/y"}, 2, "`spiffe://acme.example/y` is of a federated trust domain and"),
        ({"destination": "b.example"}, 3, "the host `b.example` is that of no Service and of no ThirdParty"),
        ({"destination": "api.acme.exmple"}, 3, "the host `api.acme.exmple` is that of no Service and of no Third"),
        ({"destination": "api.acme.example:99"}, 3, "the host `api.acme.example:99` is that of no Service and of no"),
        ({"destination": "api.acme.example"}, 5, "the window of the ThirdParty `acme`: closed 3 days ago, at"),
        ({"path": "/y"}, 8, "what no MicroPolicy allows is denied"),
    ],
)  # fmt: skip
def test_the_step_that_denies_says_why(words: dict[str, object], step: int, found: str) -> None:
    explanation = explained(rule("r"), **words)
    assert explanation.steps[-1].number == step
    assert explanation.steps[-1].found.startswith(found)
    assert explanation.steps[-1].reason is explanation.decision.reason


def test_a_service_that_does_not_exist_is_told_with_the_nearest_name() -> None:
    found = last(explained(rule("r"), destination="bb:80", direction=Direction.INBOUND))[1]
    assert found.startswith("there is no Service `bb:80`")


def test_a_caller_without_a_name_is_told_as_such() -> None:
    step = explained(rule("r"), caller="spiffe://shop.example/zz").steps[1]
    assert step.found.endswith("belongs to no Service or ThirdParty; only `identities` selectors can match it")


@pytest.mark.parametrize(
    ("at", "words", "reason"),
    [
        ("2026-05-31T22:00:00Z", "opens in 2 hours, at 2026-06-01T00:00:00Z", "not_yet_open"),
        ("2026-07-04T12:00:00Z", "closed 3 days ago, at 2026-07-01T00:00:00Z", "closed"),
        ("2026-06-21T00:00:00Z", "matches, and is open until 2026-07-01T00:00:00Z, 10 days more", "allowed"),
    ],
)
def test_the_window_is_said_in_words(at: str, words: str, reason: str) -> None:
    window = ", window: {opens: 2026-06-01T00:00:00Z, closes: 2026-07-01T00:00:00Z}"
    _, found, answered = last(explained(rule("r", more=window), at=at))
    assert (found, answered) == (f"`r` (set.yaml:26) {words}", reason)


@pytest.mark.parametrize(
    ("written", "words", "lacking"),
    [
        (rule("r"), {"method": "HEAD"}, ["method: `HEAD`; wanted: `GET`"]),
        (rule("r"), {"caller": "c"}, ["caller: the Service `c`; wanted: the Service `a`"]),
        (rule("r"), {"destination": "c"}, ["destination: the Service `c`; wanted: the Service `b`"]),
        (rule("r"), {"path": "/x/"}, ["path: the path ends with a slash; wanted: nothing after segment 1, as in `/x`"]),
        (rule("r"), {"path": "/y"}, ["path: segment 1 is `y`; wanted: `x`, as in `/x`"]),
        (rule("r"), {"path": "/x/y"}, ["path: the path goes on with `y`; wanted: nothing after segment 1, as in `/x`"]),
        (
            rule("r", operations='[{methods: all, paths: ["/a/{id}/b", "/a/{**}"]}]'),
            {"path": "/a"},
            ["path: the path ends before segment 2; wanted: segment 2, `{id}`, as in `/a/{id}/b`"],
        ),
        (
            rule("r", operations='[{methods: all, paths: ["/a/{**}"]}]'),
            {"path": "/a/b/"},
            ["path: the path ends with a slash; wanted: `{**}`: segments that are not empty, as in `/a/{**}`"],
        ),
        (
            rule("r", operations="[{grpc: [p.S/M]}]"),
            {"method": "POST", "path": "/p.S/M", "headers": (("content-type", "text/plain"),)},
            ["content-type: `text/plain`; wanted: `application/grpc`, once, alone or followed by `+` or `;`"],
        ),
        (
            rule("r", callers="[{attributes: {env: prod, zone: z}}]"),
            {},
            ["caller: the Service `a` with env=dev and no `zone`; wanted: with env=prod, zone=z"],
        ),
        (
            rule("r", callers='[{identities: ["spiffe://shop.example/z/**"]}]'),
            {},
            ["caller: the Service `a`, `spiffe://shop.example/a`; wanted: `spiffe://shop.example/z/**`"],
        ),
        (
            rule("r", to="{attributes: {env: dev}}"),
            {},
            ["destination: the Service `b` with no `env`; wanted: one with env=dev"],
        ),
        (
            rule("r", operations="[{api: [getX]}]"),
            {"path": "/y"},
            ["path: segment 1 is `y`; wanted: `x`, as in `/x`"],
        ),
        (
            rule("r", more=", window: {closes: 2026-05-31T12:00:00Z}"),
            {"method": "PUT"},
            ["method: `PUT`; wanted: `GET`", "window: closed 12 hours ago, at 2026-05-31T12:00:00Z"],
        ),
    ],
)  # fmt: skip
def test_the_nearest_rule_says_which_field_did_not_match(
    written: str, words: dict[str, object], lacking: list[str]
) -> None:
    assert lacks(written, **words) == lacking


def test_the_rule_that_lacks_least_is_the_nearest() -> None:
    far = rule("far", callers="[{services: [c]}]", operations="[{methods: [PUT], paths: [/x]}]")
    near = explained(far, rule("near", operations="[{methods: [PUT], paths: [/x]}]")).nearest
    assert [each.rule.name for each in near] == ["near", "far"]


def test_a_rule_about_other_callers_and_other_destinations_is_not_near() -> None:
    assert explained(rule("r", callers="[{services: [c]}]", to="{services: [a]}")).nearest == ()


@pytest.mark.parametrize(
    ("length_ns", "words"),
    [
        (0, "less than a second"),
        (10**9, "1 second"),
        (90 * 10**9, "90 seconds"),
        (7200 * 10**9, "2 hours"),
        (2 * DAY - 1, "47 hours"),
        (98 * DAY, "98 days"),
    ],
)
def test_a_duration_is_said_in_its_largest_unit(length_ns: int, words: str) -> None:
    assert duration(length_ns) == words


def test_a_window_without_dates_is_open_without_end_and_one_at_its_close_is_closed() -> None:
    assert window_in_words(Window(), 0) == "open without end"
    assert window_in_words(Window(closes_ns=0), 0) == "closed at this very instant, 1970-01-01T00:00:00Z"


UNANSWERED = "`request.headers['x'] == 'y'` has no answer: `request.headers[x]` is absent, came twice or is not UTF-8"


def guardrail(name: str, spec: str) -> str:
    return document("Guardrail", name, f"{{{spec}}}")


@pytest.mark.parametrize(
    ("spec", "found", "reason"),
    [
        ("to: [{services: [b], operations: all}]", "`g` (set.yaml:31) forbids it", "guardrail"),
        (
            "to: [{attributes: {env: dev}, operations: all}], require: {tls: TLSv1_3}",
            "no Guardrail matches",
            None,
        ),
        (
            "require: {tls: TLSv1_3}",
            "`g` (set.yaml:31) forbids it: it requires TLSv1_3, and the call has TLSv1_2",
            "guardrail",
        ),
        ("require: {tls: TLSv1_2}", "`g` (set.yaml:31) requires TLSv1_2, and the call has TLSv1_2", None),
        ("require: {maxWindow: 90d}", "`g` (set.yaml:31) limits windows to 90 days (step 6)", None),
        (
            "when: [\"request.headers['x'] == 'y'\"]",
            f"`g` (set.yaml:31) forbids it; it matches, because a condition has no answer: {UNANSWERED}",
            "guardrail",
        ),
        (
            "when: [\"request.method == 'PUT'\"]",
            "`g` does not match: `request.method == 'PUT'` is false",
            None,
        ),
        ("mode: observe", "`g` (set.yaml:31) is in observe mode: what it would forbid is only recorded", None),
        (
            "window: {closes: 2026-05-29T00:00:00Z}",
            "`g` (set.yaml:31) would forbid it, and its window: closed 3 days ago, at 2026-05-29T00:00:00Z",
            None,
        ),
    ],
)  # fmt: skip
def test_a_guardrail_is_told_with_what_it_requires(spec: str, found: str, reason: str | None) -> None:
    step = explained(rule("r"), guardrail("g", spec), tls=TlsVersion.TLS_1_2).steps[3]
    assert (step.number, step.found, step.reason) == (4, found, reason)


def test_a_rule_that_a_guardrail_takes_out_is_told_with_the_limit() -> None:
    number, found, reason = last(explained(rule("r"), guardrail("g", "require: {maxWindow: 90d}")))
    assert (number, reason) == (6, "guardrail")
    assert found.startswith("`r` (set.yaml:26) matches, and is open; `g` (set.yaml:31) takes it out: its window has no")


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("request.method == 'PUT'", "`request.method == 'PUT'` is false"),
        ("request.headers['x'] == 'y'", UNANSWERED),
    ],
)  # fmt: skip
def test_a_rule_whose_condition_does_not_hold_is_told_and_near(condition: str, words: str) -> None:
    explanation = explained(rule("r", more=f', when: ["{condition}"]'))
    assert explanation.steps[5].found == f"no MicroPolicy matches; `r` does not match: {words}"
    assert [str(lack) for lack in explanation.nearest[0].lacks] == [f"condition: {words}"]


def test_hours_are_said_in_words_with_what_comes_then() -> None:
    hours = ', window: {during: [{days: [mon], from: "08:00", until: "18:00", timezone: UTC}]}'
    explanation = explained(rule("r", more=hours))
    number, found, reason = last(explanation)
    assert (number, reason) == (7, "outside_hours")
    assert found.endswith("; open again in 8 hours, at 2026-06-01T08:00:00Z")
    assert explanation.then is not None
    assert (explanation.then.number, explanation.then.reason) == (6, "allowed")


def test_what_is_in_observe_mode_is_told_with_the_step_that_would_decide() -> None:
    explanation = explained(rule("r"), guardrail("g", "mode: observe"))
    assert last(explanation)[2] == "allowed"
    assert explanation.if_enforced is not None
    assert (explanation.if_enforced.number, explanation.if_enforced.policy) == (4, "g")


def test_a_call_in_observe_mode_goes_on_and_the_deny_is_told() -> None:
    observed = service("d", more=", mode: observe")
    explanation = explained(observed, destination="d")
    assert last(explanation) == (8, "`d` is in observe mode: what no MicroPolicy allows goes on", "observed")
    assert explanation.if_enforced is not None
    assert (explanation.if_enforced.number, explanation.if_enforced.reason) == (8, "no_policy")
