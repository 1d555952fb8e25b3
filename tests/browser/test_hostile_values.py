"""What attackers write into names, paths and hosts: shown as the text that it is, wherever it is shown."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.sight import USUAL, VIEWS, Sight
from tests.support.hub_process import Hub, batch, flow, record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

SCRIPT = "<script>window.hit = 1</script>"
IMAGE = '"><img src=x onerror="window.hit = 2">'
LINK = "javascript:window.hit=3//"
ESCAPES = "\x1b[31mred\x1b]0;title\x07"
TURNED = "\u202egnp.exe"
LONG = "/" + "a/" * 4090 + "end"
NAMES = (
    f"spiffe://evil.example/{SCRIPT}",
    f"spiffe://evil.example/{IMAGE}",
    LINK,
    f"name{TURNED}",
    f"name{ESCAPES}",
    "__proto__",
    "constructor",
    "{{7*7}}${7*7}`7`",
    "<!--",
    "x" * 2000,
)
PATHS = (f"/{SCRIPT}", f"/{IMAGE}", f"/{TURNED}", f"/{ESCAPES}", LONG)
#: a span of a frame and of an event: whatever could have run by then has run
_RUN = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))"


def hostile_batch() -> dict[str, Any]:
    flows, records = [], []
    for number, name in enumerate(NAMES):
        path = PATHS[number % len(PATHS)]
        caller = {"identity": name, "service": None, "third_party": None, "presented_by": name, "address": None}
        said: dict[str, Any] = {
            "destination": {"service": None, "third_party": None, "host": (IMAGE if number % 2 else SCRIPT)[:200]},
            "method": "GET",
            "policy": "<b onclick=window.hit=4>",
            "decision": "deny",
            "reason": "untrusted",
            "sidecar": "orders",
            "direction": "outbound",
        }
        flows.append(flow(None, "orders", **said, caller=caller, route=path, statuses={"403": 1}))
        there = {**caller, "address": "<i>10.0.0.1</i>:1"}
        records.append(
            record(
                900_000 + number, None, "orders", **said, caller=there, path=path[:256], route=path, request_id=SCRIPT
            )
        )
    return batch(1, flows, records, "orders")


@pytest.fixture(scope="module")
def attacked(policies: Any) -> Iterator[Hub]:
    with Hub("--policies", str(policies)) as running:
        status, answer = running.send(hostile_batch())
        assert status == 200, answer
        yield running


def inert(sight: Sight) -> None:
    sight.page.evaluate(_RUN)
    assert sight.page.evaluate("() => window.hit ?? null") is None
    planted = "main img, main iframe, main object, main [onerror], main [onclick], main b[onclick], main script"
    assert sight.page.evaluate("(planted) => document.querySelectorAll(planted).length", planted) == 0
    links = sight.page.evaluate("() => [...document.querySelectorAll('a')].map((each) => each.href)")
    assert [each for each in links if not each.startswith(sight.url)] == []
    shown = sight.find("body").inner_text()
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


@pytest.mark.parametrize("address", [*VIEWS.values(), "#/map?as=list", "#/map?group=name", "#/denials/destination"])
def test_a_view_shows_hostile_values_as_text(browser: Browser, attacked: Hub, address: str) -> None:
    with Sight(browser, attacked.url) as sight:
        sight.open(address)
        inert(sight)


def test_hostile_values_are_there_as_they_were_written(browser: Browser, attacked: Hub) -> None:
    with Sight(browser, attacked.url) as sight:
        sight.open("#/services")
        shown = sight.find("main").inner_text()
        assert SCRIPT in shown
        assert "\\u{202e}gnp.exe" in shown
        assert "\\u{1b}[31mred" in shown
        assert "__proto__" in shown
        assert "{{7*7}}${7*7}" in shown


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_every_call_service_and_edge_of_an_attacker_is_inert(browser: Browser, attacked: Hub, number: int) -> None:
    told = attacked.answer(f"/decisions/{900_000 + number:032x}")
    host = told["destination"]["host"]
    with Sight(browser, attacked.url) as sight:
        go = "(parts) => { location.hash = '#/' + parts.map(encodeURIComponent).join('/') }"
        sight.open("#/sidecars")
        for parts in (
            ["call", told["decision_id"]],
            ["services", told["caller"]["identity"]],
            ["map", "node", told["caller"]["identity"]],
            ["map", "edge", told["caller"]["identity"], host],
            ["denials", "source", told["caller"]["identity"]],
            ["policies", told["policy"]],
        ):
            sight.page.evaluate(go, parts)
            sight.settled()
            inert(sight)
            assert sight.page.evaluate("document.documentElement.scrollWidth") <= USUAL[0]


def test_a_long_path_is_cut_and_says_so(browser: Browser, attacked: Hub) -> None:
    with Sight(browser, attacked.url) as sight:
        sight.open("#/denials")
        assert sight.page.get_by_text("…").count() > 0
        longest = sight.page.evaluate(
            "Math.max(...[...document.querySelectorAll('main .foreign')].map((each) => each.textContent.length))"
        )
        assert longest < 300


def test_hostile_values_are_inert_in_the_live_tail(browser: Browser, attacked: Hub) -> None:
    with Sight(browser, attacked.url) as sight:
        sight.open("#/live")
        sight.find(".liveness", has_text="live").wait_for()
        told = record(990_000 + time.time_ns() % 9_999, None, "orders", path=f"/fresh{SCRIPT}", reason="untrusted")
        counted = flow(None, "orders", decision="deny", reason="untrusted", policy=None)
        counted["caller"] = {**counted["caller"], "address": "10.0.0.9"}
        assert attacked.send(batch(2, [counted], [told], "orders"))[0] == 200
        sight.page.get_by_text(f"/fresh{SCRIPT}").wait_for()
        inert(sight)
