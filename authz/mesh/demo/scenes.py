"""The steps of the demo: what each shows, what it does, and what must come out of it."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from authz.mesh.demo.stage import Stage, seen_by_app, words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

#: the window of the scene in which one opens and closes while you watch
_OPENS_IN = timedelta(seconds=3)
_OPEN_FOR = timedelta(seconds=3)
_WATCH_EVERY = timedelta(milliseconds=500)

_THIRD_PARTY_FILE: Final = "partners/acme-analytics.yaml"
_STOCKTAKING: Final = """\
apiVersion: authz/v1
kind: MicroPolicy
metadata: {{name: stocktaking, owner: catalog}}
spec:
  from: [{{services: [orders]}}]
  to: [{{services: [catalog], operations: [{{methods: [PUT], paths: ["/items/{{id}}"]}}]}}]
  window: {{opens: {opens}, closes: {closes}}}
"""
_RETURNS: Final = """\
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: returns, owner: orders}
spec:
  from: [{services: [storefront]}]
  to: [{services: [orders], operations: [{methods: [DELETE], paths: ["/orders/{id}"]}]}]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What must come out of a scene, and what came."""

    expected: str
    came: str

    @property
    def as_told(self) -> bool:
        """Whether the scene came out as the story says."""
        return self.expected == self.came


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One step of the story."""

    title: str
    why: str
    play: Callable[[Stage], Outcome]


def _edge(stage: Stage) -> Outcome:
    page = words(stage.call("gateway", "storefront", "GET", "/pages/welcome"))
    behind = words(stage.call("gateway", "catalog", "GET", "/items/42"))
    return Outcome(expected="page 200 allowed, catalog 403 no_policy", came=f"page {page}, catalog {behind}")


def _allowed(stage: Stage) -> Outcome:
    answer = stage.call("storefront", "catalog", "GET", "/items/42")
    caller = seen_by_app(answer, "x-authz-caller") if answer.allowed else "nobody"
    return Outcome(
        expected="200 allowed; the app was told: spiffe://shop.example/ns/shop/sa/storefront",
        came=f"{words(answer)}; the app was told: {caller}",
    )


def _wrong_method(stage: Stage) -> Outcome:
    return Outcome(expected="403 no_policy", came=words(stage.call("storefront", "catalog", "DELETE", "/items/42")))


def _wrong_caller(stage: Stage) -> Outcome:
    return Outcome(expected="403 no_policy", came=words(stage.call("payments", "catalog", "GET", "/items/42")))


def _no_certificate(stage: Stage) -> Outcome:
    asked, refused = stage.checks("catalog"), stage.failed_handshakes("catalog")
    told = len(stage.refused_handshakes("catalog"))
    stage.say("(a TLS connection to catalog's inbound port, without a client certificate)")
    stage.say(f"refused: {stage.knock_without_certificate('catalog')}")
    stage.until(lambda: stage.failed_handshakes("catalog") > refused, "the refused handshake to be counted")
    stage.until(lambda: len(stage.refused_handshakes("catalog")) > told, "its record")
    stage.say(f"recorded: {stage.refused_handshakes('catalog')[-1]}")
    reached = stage.checks("catalog") - asked
    return Outcome(
        expected="handshake refused, counted and recorded; checks asked: 0",
        came=f"handshake refused, counted and recorded; checks asked: {reached}",
    )


def _forged_header(stage: Stage) -> Outcome:
    forged = "spiffe://shop.example/ns/shop/sa/storefront"
    refused = stage.call(
        "payments",
        "catalog",
        "GET",
        "/items/42",
        ("x-authz-caller", forged),
        ("x-forwarded-client-cert", f"URI={forged}"),
    )
    passed = stage.call("storefront", "catalog", "GET", "/items/42", ("x-authz-caller", "spiffe://shop.example/admin"))
    told = seen_by_app(passed, "x-authz-caller") if passed.allowed else "nobody"
    return Outcome(
        expected=f"403 no_policy; a true caller's forgery is replaced: {forged}",
        came=f"{words(refused)}; a true caller's forgery is replaced: {told}",
    )


def _window(stage: Stage) -> Outcome:
    opens = datetime.now(UTC) + _OPENS_IN
    closes = opens + _OPEN_FOR
    stage.say(f"shop/stocktaking.yaml: window {{opens: {_clock(opens)}, closes: {_clock(closes)}}}")
    stage.edit("shop/stocktaking.yaml", lambda _: _STOCKTAKING.format(opens=_rfc3339(opens), closes=_rfc3339(closes)))
    stage.say("$ authz mesh call --from orders --to catalog --method PUT --path /items/42    (every half second)")
    wrong: list[str] = []
    told: list[str] = []
    at = datetime.now(UTC)
    while at < closes + 2 * _WATCH_EVERY:
        time.sleep(max(0.0, (at - datetime.now(UTC)).total_seconds()))  # the clock is what is shown
        before = datetime.now(UTC)
        came = words(stage.quiet_call("orders", "catalog", "PUT", "/items/42"))
        after = datetime.now(UTC)
        stage.say(f"{_clock(before)}  {came}")
        # A call that was under way at an edge may have been decided on either side of it.
        possible = {_expected_at(instant, opens, closes) for instant in (before, after)}
        if came not in possible:
            wrong.append(f"{_clock(before)} {came}")
        if not told or told[-1] != came:
            told.append(came)
        at += _WATCH_EVERY
    came = " -> ".join(told) if not wrong else "wrong at " + ", ".join(wrong)
    return Outcome(expected="403 not_yet_open -> 200 allowed -> 403 closed", came=came)


def _expected_at(instant: datetime, opens: datetime, closes: datetime) -> str:
    if instant < opens:
        return "403 not_yet_open"
    return "200 allowed" if instant < closes else "403 closed"


def _third_party(stage: Stage) -> Outcome:
    def both() -> str:
        calling = words(stage.call("acme-analytics", "orders", "GET", "/reports/daily"))
        called = words(stage.call("orders", "acme-analytics", "POST", "/v1/events"))
        return f"in {calling}, out {called}"

    before = both()
    now = _rfc3339(datetime.now(UTC))
    stage.say(f"{_THIRD_PARTY_FILE}: window closes: {now}")
    stage.edit(_THIRD_PARTY_FILE, lambda text: _dated(text, "closes", now))
    after = both()
    return Outcome(
        expected="in 200 allowed, out 200 allowed -> in 403 decommissioned, out 403 decommissioned",
        came=f"{before} -> {after}",
    )


def _edited(stage: Stage) -> Outcome:
    before = words(stage.call("storefront", "orders", "DELETE", "/orders/7"))
    stage.say("shop/returns.yaml: storefront may DELETE /orders/{id}")
    stage.edit("shop/returns.yaml", lambda _: _RETURNS)
    after = words(stage.call("storefront", "orders", "DELETE", "/orders/7"))
    return Outcome(expected="403 no_policy -> 200 allowed", came=f"{before} -> {after}")


def _authz_killed(stage: Stage) -> Outcome:
    pid = stage.kill_sidecar("catalog")
    stage.say(f"(catalog's authz sidecar, process {pid}, hangs and is then killed with kill -9)")
    # Its workers notice at their next heartbeat.
    stage.until(
        lambda: stage.quiet_call("storefront", "catalog", "GET", "/items/42").status == HTTPStatus.SERVICE_UNAVAILABLE,
        "a refusal",
    )
    gone = stage.call("storefront", "catalog", "GET", "/items/42").status
    stage.finish(pid)
    began = time.monotonic()
    stage.until(lambda: stage.quiet_call("storefront", "catalog", "GET", "/items/42").allowed, "the sidecar to be back")
    stage.say(f"(allowed again {time.monotonic() - began:.1f} s after the kill)")
    return Outcome(expected="503 while it is gone -> 200 allowed", came=f"{gone} while it is gone -> 200 allowed")


def prepare(policies: Path) -> None:
    """Move the third party's two dates around today, so that the story can be told in any year."""
    now = datetime.now(UTC)
    path = policies / _THIRD_PARTY_FILE
    text = _dated(path.read_text(), "opens", _rfc3339(now - timedelta(days=30)))
    path.write_text(_dated(text, "closes", _rfc3339(now + timedelta(days=90))))


def _dated(text: str, edge: str, instant: str) -> str:
    return re.sub(rf"^( *{edge}:) .*$", rf"\1 {instant}", text, count=1, flags=re.MULTILINE)


def _rfc3339(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _clock(instant: datetime) -> str:
    return instant.strftime("%H:%M:%S.%f")[:-5]


SCENES: Final = (
    Scene(
        title="The edge",
        why="What comes from outside comes through the gateway, a Service with an identity of its own. It may fetch"
        " pages from storefront, and reaches nothing behind it.",
        play=_edge,
    ),
    Scene(
        title="A call that a policy allows",
        why="storefront may read items of catalog. Its sidecar lets the call out, catalog's lets it in, and the app"
        " learns who calls.",
        play=_allowed,
    ),
    Scene(
        title="The wrong method",
        why="Nothing lets storefront delete items: what no policy allows is refused, before it leaves.",
        play=_wrong_method,
    ),
    Scene(
        title="The wrong caller",
        why="payments has a valid identity, but no policy for catalog.",
        play=_wrong_caller,
    ),
    Scene(
        title="No certificate",
        why="Whoever cannot prove an identity fails in the TLS handshake: neither the sidecar nor the app is reached.",
        play=_no_certificate,
    ),
    Scene(
        title="A forged identity header",
        why="Headers prove nothing: identity comes from the certificate alone, and forged headers never reach the app.",
        play=_forged_header,
    ),
    Scene(
        title="A window that opens and closes while you watch",
        why="For stocktaking, orders may change items of catalog, but only inside two dates; nobody does anything"
        " when they come.",
        play=_window,
    ),
    Scene(
        title="A third party, decommissioned in both directions by one date",
        why="acme-analytics pulls reports from orders, and orders pushes events to it. Setting its closing date to now"
        " ends both.",
        play=_third_party,
    ),
    Scene(
        title="A policy edited in place",
        why="A new file is in force on every sidecar as soon as it is saved, without a restart and without a failed"
        " call.",
        play=_edited,
    ),
    Scene(
        title="The authz server killed",
        why="Without an answer nothing passes; the supervisor brings the sidecar back.",
        play=_authz_killed,
    ),
)
