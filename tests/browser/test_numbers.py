"""Every number of a view is what the API says, and the page says how to ask for it."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.sight import VIEWS, Sight

if TYPE_CHECKING:
    from tests.support.hub_process import Hub


def short(name: str) -> str:
    domain, _, path = name.removeprefix("spiffe://").partition("/")
    return f"{path.rsplit('/', 1)[-1]}@{domain}" if name.startswith("spiffe://") else name


def by_ends(edges: list[dict[str, Any]], *names: str) -> dict[str, list[float | None]]:
    return {f"{short(each['from'])} → {short(each['to'])}": [each[name] for name in names] for each in edges}


def answered(sight: Sight, address: str, path: str) -> Any:
    """Open a view, and give what the hub answered to it: what comes in a second later is another number."""
    with sight.page.expect_response(lambda response: f"/api/v1/{path}" in response.url) as told:
        sight.open(address)
    return told.value.json()


def test_the_map_and_its_list(sight: Sight) -> None:
    told = answered(sight, "#/map?as=list&since=24h", "edges?")
    names = ("calls", "allowed", "observed", "denied", "p50_ms", "p99_ms")
    shown = sight.numbers("who calls whom", ["calls", "allowed", "observed", "denied", "p50", "p99"])
    assert shown == by_ends(told["edges"], *names)
    facts = sight.facts(".counts")
    assert facts["calls"] == sum(each["calls"] for each in told["edges"])
    assert facts["denied"] == sum(each["denied"] for each in told["edges"])
    assert facts["edges"] == len(told["edges"])


def test_the_drawing_has_the_same_edges_as_the_list(sight: Sight) -> None:
    told = answered(sight, "#/map?since=24h", "edges?")
    drawn = sight.page.evaluate(
        """document.querySelector('[data-map]')._cyreg.cy.edges()
            .map((each) => each.data()).map(({ from, to, calls, denied }) => [from, to, calls, denied])"""
    )
    assert sorted(drawn) == sorted([each["from"], each["to"], each["calls"], each["denied"]] for each in told["edges"])


def test_an_edge(sight: Sight) -> None:
    told = answered(sight, "#/map/edge/storefront/orders?since=24h", "edges/storefront/orders?")
    facts = sight.facts("#edge > .facts")
    names = {"p50": "p50_ms", "p99": "p99_ms", "received": "bytes_received", "sent": "bytes_sent"}
    assert facts == {each: told[names.get(each, each)] for each in facts}
    assert len(facts) == 10
    shown = sight.numbers("routes of this edge", ["calls", "denied"])
    assert shown == {
        f"{each['method']} {each['route'] or 'no route'}": [each["calls"], each["denied"]] for each in told["routes"]
    }


@pytest.mark.parametrize("span", ["24h", "7d", "30d"])
def test_the_bars_above_the_slider_are_those_of_the_history(sight: Sight, span: str) -> None:
    points = answered(sight, f"#/map?span={span}", "history")["points"]
    assert sum(each["calls"] for each in points) > 0
    bars = sight.find(".density i")
    bars.nth(len(points) - 1).wait_for(state="attached")
    shown = bars.evaluate_all("(all) => all.map(({ dataset }) => [Number(dataset.calls), Number(dataset.denied)])")
    assert shown == [[each["calls"], each["denied"]] for each in points]
    label = sight.find(".density").get_attribute("aria-label")
    assert label is not None
    assert label.startswith("calls over time: ")


def test_an_edges_charts_have_the_points_of_its_history(sight: Sight) -> None:
    told = answered(sight, "#/map/edge/storefront/orders", "edges/storefront/orders/history?")
    sight.find(".points summary").click()
    rows = sight.page.evaluate(
        """[...document.querySelectorAll('.points tbody tr')].map((row) => [
            row.querySelector('time').dateTime, row.children[1].textContent])"""
    )
    points = {each["time"]: each["allowed"] for each in told["points"]}
    assert rows
    for time, rate in rows:
        allowed = points.get(time, 0)
        assert float(rate.removesuffix("/s")) == pytest.approx(allowed / told["step_s"], rel=0.02)


@pytest.mark.parametrize("group", ["source", "reason", "policy", "destination"])
def test_denials(sight: Sight, group: str) -> None:
    told = answered(sight, f"#/denials/{group}?since=24h", "denials?")
    shown = sight.numbers(f"denials by {group}", ["denied"])
    assert sorted(each[0] for each in shown.values()) == sorted(each["count"] for each in told["denials"])
    for each in told["denials"]:
        name = {None: "no policy"}.get(each["key"], short(str(each["key"])))
        assert [count for key, (count,) in shown.items() if key.startswith(name)] == [each["count"]]


def test_windows(sight: Sight) -> None:
    told = answered(sight, "#/windows", "windows")
    shown = sight.numbers("windows", ["tried after"])
    for each in told["windows"]:
        (count,) = [count for name, (count,) in shown.items() if name.startswith(f"{each['name']} ")]
        assert count == each["attempts_after"]["count"]
    after = next(each for each in told["windows"] if each["name"] == "old-erp")["attempts_after"]
    sight.open("#/windows/third_party/old-erp")
    rows = sight.page.evaluate(
        "[...document.querySelectorAll('#window tbody tr data')].map((each) => Number(each.value))"
    )
    assert sum(rows) == after["count"]


def test_services_policies_and_sidecars(sight: Sight) -> None:
    services = answered(sight, "#/services", "services")
    assert sorted(sight.numbers("services", [])) == sorted(each["name"] for each in services["services"])
    policies = answered(sight, "#/policies?since=24h", "policies?")
    shown = sight.numbers("policies", ["allowed", "denied"])
    assert shown == {each["name"]: [each["allowed"], each["denied"]] for each in policies["policies"]}
    status = answered(sight, "#/sidecars", "status")
    counted = ("spooled", "lost", "dropped", "unjoined", "failed_handshakes")
    titles = ["spooled", "lost", "dropped", "unjoined", "bad handshakes"]
    assert sight.numbers("sidecars", titles) == {
        each["name"]: [each[name] for name in counted] for each in status["sidecars"]
    }


def test_history(sight: Sight) -> None:
    told = answered(sight, "#/history?compare=24h", "edges?")
    changed = [each for each in told["edges"] if each["compared"]["change"] != "same"]
    assert changed
    rows = sight.page.evaluate(
        """[...document.querySelectorAll('main table')][0].querySelectorAll('tbody tr').length"""
    )
    assert rows == len(changed)
    assert {each["compared"]["change"] for each in told["edges"] if each["to"] == "tax-service"} == {"new"}


@pytest.mark.parametrize("name", VIEWS)
def test_what_is_copied_as_curl_gives_what_is_shown(sight: Sight, name: str) -> None:
    sight.open(VIEWS[name])
    sight.page.get_by_role("button", name="copy as curl").first.click()
    sight.page.get_by_role("button", name="copied").wait_for()
    command = shlex.split(sight.page.evaluate("navigator.clipboard.readText()"))
    assert command[0] == "curl"
    if command[-1].endswith("/stream"):
        assert command[-1] == f"{sight.url}/api/v1/stream"
        return
    ended = subprocess.run(command, capture_output=True, check=True, timeout=60)
    assert isinstance(json.loads(ended.stdout), dict)


def test_the_map_of_an_earlier_hour_is_the_apis(sight: Sight, hub: Hub) -> None:
    at = hub.answer("/edges?since=7h&until=6h")["until"]
    told = answered(sight, f"#/map?as=list&at={at}", f"edges?since=1h&at={at.replace(':', '%3A')}")
    assert sight.numbers("who calls whom", ["calls"]) == by_ends(told["edges"], "calls")
    assert "tax-service" not in {each["to"] for each in told["edges"]}
    sight.page.get_by_text("as it was").wait_for()
    sight.page.get_by_role("link", name="back to now").click()
    sight.page.get_by_role("link", name="ledger → tax-service").wait_for()
