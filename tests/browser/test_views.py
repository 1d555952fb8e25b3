"""Every view with real data, light and dark, from 360 pixels to 4K, by axe's rules; and the pictures of the docs."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.browser.sight import VIEWS, Sight
from tests.support.hub_process import Hub

if TYPE_CHECKING:
    from playwright.sync_api import Browser

#: what is looked at for the docs and by axe: each view, and what opens in it
LOOKED_AT = {
    **VIEWS,
    "edge": "#/map/edge/storefront/orders",
    "node": "#/map/node/orders",
    "list": "#/map?as=list",
    "window": "#/windows/third_party/old-erp",
    "service": "#/services/orders",
    "policy": "#/policies/entries-are-never-deleted",
    "past": "#/map?at={yesterday}",
}
#: numbers and names that reach out of what they stand in
_TOO_WIDE = """() => [...document.querySelectorAll('main dd, main td')]
    .filter((each) => each.clientWidth > 0 && each.scrollWidth > each.clientWidth + 1)
    .map((each) => each.textContent.slice(0, 80))"""
MAX_PICTURE_BYTES = 150_000
PICTURED = (*VIEWS, "edge", "call")


def address_of(name: str, hub: Hub) -> str:
    if name == "call":
        (call,) = hub.answer("/calls?decision=deny&from=storefront&to=payments&limit=1")["calls"]
        return f"#/call/{call['decision_id']}"
    yesterday = hub.answer("/edges?since=25h&until=24h")["until"]
    return LOOKED_AT[name].format(yesterday=yesterday)


@pytest.mark.usefixtures("changed_policies")
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [*LOOKED_AT, "call"])
def test_axe_finds_nothing_serious(browser: Browser, hub: Hub, name: str, theme: str) -> None:
    with Sight(browser, hub.url, theme=theme) as sight:
        sight.open(address_of(name, hub))
        assert sight.serious_faults() == []
        if name in PICTURED:
            picture = sight.picture(f"{name}-{theme}")
            assert picture.stat().st_size < MAX_PICTURE_BYTES


@pytest.mark.parametrize("size", [(360, 740), (1120, 690), (3840, 2160)], ids=["360 px", "laptop", "4K"])
@pytest.mark.parametrize("name", [*LOOKED_AT, "call"])
def test_a_view_fits_its_screen(browser: Browser, hub: Hub, name: str, size: tuple[int, int]) -> None:
    with Sight(browser, hub.url, size=size) as sight:
        sight.open(address_of(name, hub))
        assert sight.page.evaluate("document.documentElement.scrollWidth") <= size[0]
        assert sight.page.evaluate(_TOO_WIDE) == []
        assert sight.serious_faults() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_is_the_systems_until_another_is_chosen(browser: Browser, hub: Hub, theme: str) -> None:
    with Sight(browser, hub.url, theme=theme) as sight:
        sight.open("#/windows")
        shown = "getComputedStyle(document.documentElement).colorScheme"
        assert sight.page.evaluate(shown) == theme
        sight.page.get_by_role("button", name="theme").click()
        other = {"light": "dark", "dark": "light"}[theme]
        assert sight.page.evaluate(shown) == other
        sight.page.reload()
        sight.settled()
        assert sight.page.evaluate(shown) == other


def test_a_host_that_is_nobodys_is_on_the_map_only_while_there_are_calls_of_it(sight: Sight) -> None:
    sight.open("#/map")
    drawn = sight.page.evaluate(
        """async () => {
            const { mapOf } = await import(new URL('page/map/model.js', document.baseURI));
            const services = [{ name: 'orders', kind: 'service' }, { name: 'made-up.example', kind: 'unknown' }];
            const shares = { calls: 1, allowed: 0, denied: 1, observed: 0, tls: {} };
            const edge = { from: 'orders', to: 'made-up.example', ...shares };
            const wanted = { attributes: [], opened: new Set(), quiet: true };
            return [[], [edge]].map((edges) => mapOf(services, edges, wanted).nodes.map(({ name }) => name));
        }"""
    )
    assert drawn == [["orders"], ["orders", "made-up.example"]]


def test_a_hub_that_hangs_is_not_said_to_be_live(browser: Browser) -> None:
    with Hub() as hub, Sight(browser, hub.url) as sight:
        sight.page.clock.install()
        sight.page.goto(f"{hub.url}/#/windows")
        sight.find(".liveness", has_text="live").wait_for()
        assert hub.process is not None
        hub.process.send_signal(signal.SIGSTOP)
        try:
            assert sight.find(".liveness").inner_text().endswith("live")
            # More than two of the hub's signs of life have not come.
            sight.page.clock.fast_forward(40_000)
            sight.find(".liveness", has_text="not live").wait_for()
        finally:
            hub.process.send_signal(signal.SIGCONT)
        sight.page.clock.fast_forward(20_000)
        sight.find(".liveness", has_text="✓").wait_for()


def test_a_third_party_on_the_map_leads_to_its_window(sight: Sight) -> None:
    sight.open("#/map/node/old-erp")
    sight.page.get_by_role("link", name="its window, and who tried outside of it").click()
    sight.page.get_by_role("heading", name="Attempts after it closed").wait_for()


def test_a_map_of_few_nodes_fills_a_wall(browser: Browser, hub: Hub) -> None:
    zooms = []
    for size in ((1280, 800), (3840, 2160)):
        with Sight(browser, hub.url, size=size) as sight:
            sight.open("#/map")
            zooms.append(sight.of_map("cy.zoom()"))
    assert zooms[1] > zooms[0] * 1.5


def test_a_hub_says_that_it_was_not_there_where_it_cannot_know_what_is_new(sight: Sight) -> None:
    sight.open("#/history?compare=30d")
    sight.find("main", has_text="the hub has heard of nothing before").wait_for()
    sight.open("#/history?since=1h&compare=1h")
    sight.settled()
    assert sight.find("main", has_text="the hub has heard of nothing before").count() == 0


def test_an_address_that_leads_nowhere_says_so(sight: Sight) -> None:
    sight.open("#/nothing/of/this%ZZ")
    assert "nothing under this address" in sight.find("main").inner_text()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("#/map?since=15m&at=2020-01-01T00:00:00Z", "No calls"),
        ("#/map/edge/nobody/nothing", "No call from the one to the other was ever seen"),
        ("#/services/nobody", "Nobody of this name"),
        ("#/policies/no-such-rule", "none of this name"),
        ("#/windows/third_party/nobody", "no window of this name"),
        ("#/denials?q=zzz", "None of them has this in it"),
    ],
)
def test_where_there_is_nothing_the_page_says_what_is_missing(sight: Sight, address: str, words: str) -> None:
    sight.open(address)
    sight.page.get_by_text(words).first.wait_for()


def test_what_the_hub_cannot_answer_is_said_and_asked_again(sight: Sight) -> None:
    sight.page.route("**/api/v1/windows", lambda route: route.abort())
    sight.open("#/windows")
    sight.page.get_by_text("the hub cannot be reached").wait_for()
    sight.page.unroute("**/api/v1/windows")
    sight.page.get_by_role("button", name="ask again").click()
    sight.page.get_by_role("link", name="old-erp").wait_for()
    sight.faults = [each for each in sight.faults if "ERR_FAILED" not in each]


def test_no_words_of_a_line_stand_on_those_of_another(sight: Sight) -> None:
    sight.open("#/map")
    boxes = sight.of_map(
        """cy.edges().filter((each) => each.data('words')).map((each) => {
            const box = each.boundingBox({ includeNodes: false, includeEdges: false, includeOverlays: false,
                includeUnderlays: false, includeLabels: true, includeMainLabels: true, includeSourceLabels: true,
                includeTargetLabels: true });
            return [each.id(), box.x1, box.y1, box.x2, box.y2];
        })"""
    )
    assert len(boxes) > 10
    on_each_other = [
        (one[0], other[0])
        for number, one in enumerate(boxes)
        for other in boxes[number + 1 :]
        # what cytoscape calls the box of a label has some room around it
        if min(one[3], other[3]) - max(one[1], other[1]) > 4 and min(one[4], other[4]) - max(one[2], other[2]) > 4
    ]
    assert on_each_other == []
