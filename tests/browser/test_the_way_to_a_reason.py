"""From something red to the reason and the policy, by mouse and by keyboard; and a denial as it happens."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.shop import Shop, denied_flow

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.sight import Sight
    from tests.support.hub_process import Hub

#: of the drawing: where an edge is on the screen
_MIDDLE = """([from, to]) => {
    const { cy } = document.querySelector('[data-map]')._cyreg;
    const edge = cy.edges().filter((each) => each.data('from') === from && each.data('to') === to);
    const box = document.querySelector('[data-map]').getBoundingClientRect();
    const at = edge.renderedMidpoint();
    return [box.x + at.x, box.y + at.y];
}"""


def test_a_click_on_a_red_edge_leads_to_the_reason_and_the_policy(sight: Sight, hub: Hub) -> None:
    sight.open("#/map")
    sight.page.mouse.click(*sight.page.evaluate(_MIDDLE, ["payments", "ledger"]))
    sight.page.get_by_role("heading", name="Last denials").wait_for()
    assert sight.page.url.endswith("#/map/edge/payments/ledger")
    sight.find(".refused tbody a").first.click()
    sight.page.get_by_role("heading", name="Why").wait_for()
    sight.page.get_by_text("guardrail", exact=True).first.wait_for()
    policy = sight.find("main .rowfacts a", has_text="entries-are-never-deleted")
    policy.click()
    sight.page.get_by_role("heading", name="What it decided").wait_for()
    sight.settled()
    used = hub.answer("/policies/entries-are-never-deleted/usage?since=1h")
    assert sight.numbers("where it decided", ["denied"]) == {"payments → ledger": [used["denied"]]}


def test_the_explanation_names_the_rule_that_came_nearest(sight: Sight, hub: Hub) -> None:
    (call,) = hub.answer("/calls?reason=no_policy&from=storefront&to=orders&limit=1")["calls"]
    sight.open(f"#/call/{call['decision_id']}")
    told = hub.answer(f"/explain/{call['decision_id']}")
    nearest = told["nearest"][0]
    assert nearest["policy"] == "storefront-post-orders"
    assert sight.find(".nearest").first.get_by_role("link", name=nearest["policy"]).is_visible()
    said = sight.find(".nearest").first.inner_text()
    for lack in nearest["lacks"]:
        assert lack["found"].replace("`", "") in said
        assert lack["wanted"].replace("`", "") in said
    assert told["to_allow"].replace("`", "") in sight.find(".remedy").inner_text()


def test_a_call_that_was_cut_says_who_had_allowed_it_and_why_it_ended(sight: Sight, hub: Hub, shop: Shop) -> None:
    now_s = time.time() - 1
    allowed = shop.record("storefront", "catalog", "GET", "/items/7", now_s)
    assert allowed["decision"] == "allow"
    refused = shop.record("storefront", "catalog", "DELETE", "/items/7", now_s)
    end = {
        **refused, "decision_id": allowed["decision_id"], "policy": allowed["policy"], "cut": True, "status": 200,
        "duration_ms": 5673.2,
    }  # fmt: skip
    began = {**allowed, "status": None, "duration_ms": None}
    assert hub.send(shop.batch("catalog", [], [began, end], int(now_s)))[0] == 200
    sight.open("#/services/catalog")
    sight.find("main tbody tr", has_text="cut").first.locator("a").first.click()
    sight.page.get_by_role("heading", name="Why it was cut").wait_for()
    sight.settled()
    assert f"It was allowed by {allowed['policy']} when it began." in sight.find("main").inner_text()
    sight.find(".steps li.decided", has_text="no_policy").wait_for()
    assert sight.find(".failure").count() == 0
    sight.open(f"#/call/{allowed['decision_id']}")
    sight.page.get_by_text("cut later").wait_for()


def test_a_handshake_that_failed_is_said_to_be_one_and_no_error(sight: Sight, hub: Hub, shop: Shop) -> None:
    refused = shop.record("storefront", "catalog", "DELETE", "/items/8", time.time() - 1)
    failed = {
        **refused, "method": "", "path": None, "reason": "unidentified", "policy": None, "protocol": None,
        "caller": {**refused["caller"], "identity": None, "service": None},
        "handshake": {"failure": "no client certificate", "claimed": None, "count": 1},
    }  # fmt: skip
    assert hub.send(shop.batch("catalog", [], [failed], int(time.time()) - 1))[0] == 200
    sight.open("#/services/catalog")
    sight.find("main tbody tr", has_text="handshake failed: no client certificate").first.locator("a").first.click()
    sight.page.get_by_text("The TLS handshake failed before a call could be made").wait_for()
    sight.settled()
    assert sight.find(".failure").count() == 0
    assert "no client certificate, 1 time" in sight.find("main").inner_text()


def test_the_same_way_goes_by_keyboard_alone(sight: Sight) -> None:
    sight.open("#/services")
    keyboard = sight.page.keyboard
    keyboard.press("g")
    keyboard.press("m")
    sight.settled()
    sight.page.get_by_role("button", name="list").focus()
    keyboard.press("Enter")
    sight.page.get_by_role("link", name="payments → ledger").wait_for()
    focused = "document.activeElement.textContent"
    for _ in range(40):
        keyboard.press("j")
        if sight.page.evaluate(focused) == "payments → ledger":
            break
    assert sight.page.evaluate(focused) == "payments → ledger"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert sight.page.evaluate(outline) == "solid"
    keyboard.press("Enter")
    sight.page.get_by_role("heading", name="Last denials").wait_for()
    sight.find(".refused tbody a").first.focus()
    keyboard.press("Enter")
    sight.page.get_by_role("heading", name="Why").wait_for()


def test_question_mark_lists_the_keys(sight: Sight) -> None:
    sight.open("#/map")
    sight.page.keyboard.press("?")
    dialog = sight.page.get_by_role("dialog", name="Keys and signs")
    dialog.wait_for()
    assert sight.serious_faults() == []
    sight.page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


def test_arrows_and_plus_move_the_map_and_a_refresh_leaves_it(sight: Sight) -> None:
    sight.open("#/map")
    view = "[cy.zoom(), cy.pan().x, cy.pan().y]"
    places = "cy.nodes().map((each) => [each.id(), each.position('x'), each.position('y')])"
    began, stood = sight.of_map(view), sight.of_map(places)
    sight.find("[data-map]").focus()
    sight.page.keyboard.press("ArrowLeft")
    sight.page.keyboard.press("+")
    moved = sight.of_map(view)
    assert moved[0] > began[0]
    assert moved[1:] != began[1:]
    with sight.page.expect_response(lambda response: "/api/v1/edges?" in response.url):
        pass
    sight.settled()
    assert sight.of_map(view) == moved
    sight.page.reload()
    sight.settled()
    assert sorted(sight.of_map(places)) == sorted(stood)


@pytest.mark.parametrize("address", ["#/live", "#/denials", "#/map/edge/gateway/payments"])
def test_a_denial_is_on_the_page_as_soon_as_it_was_taken(
    sight: Sight, hub: Hub, shop: Shop, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"/charges/{time.time_ns() % 1_000_000:06d}"
    first = shop.record("gateway", "payments", "POST", "/charges", time.time())
    hub.send(shop.batch("payments", [denied_flow(first)], [first], int(time.time())))
    sight.open(address)
    sight.find(".liveness", has_text="live").wait_for()
    record = shop.record("gateway", "payments", "POST", path, time.time())
    assert hub.send(shop.batch("payments", [denied_flow(record)], [record], int(time.time())))[0] == 200
    taken = time.perf_counter()
    sight.page.get_by_text(path).first.wait_for()
    took_s = time.perf_counter() - taken
    with capsys.disabled():
        print(f"\n{address}: a denial shows {took_s:.2f} s after it was taken")  # noqa: T201 a measurement
    # The claim is 2 s; a machine that does much else must not fail it.
    assert took_s < 20


def test_the_end_of_a_window_is_told_as_it_happens(sight: Sight, hub: Hub, policies: Path) -> None:
    def short_lived() -> list[str]:
        return [each["state"] for each in hub.answer("/windows")["windows"] if each["name"] == "short-lived"]

    sight.open("#/live")
    sight.find(".liveness", has_text="live").wait_for()
    closes = datetime.now(UTC) + timedelta(seconds=15)
    file = policies / "short.yaml"
    file.write_text(
        "apiVersion: authz/v1\nkind: ThirdParty\nmetadata: {name: short-lived, owner: partners}\nspec:\n"
        "  hosts: [api.short.example]\n"
        f"  window: {{opens: 2026-01-01T00:00:00Z, closes: {closes:%Y-%m-%dT%H:%M:%SZ}}}\n"
    )
    try:
        assert eventually(lambda: bool(short_lived()))
        row = sight.find("main tbody tr", has_text="short-lived is ended").first
        row.wait_for()
        row.get_by_role("link", name="short-lived").click()
        sight.page.get_by_role("heading", name="short-lived").wait_for()
        assert short_lived() == ["ended"]
    finally:
        file.unlink()
