"""A hub with an access file: the page asks who asks, and shows what that role may see."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import pytest

from tests.browser.sight import Sight
from tests.support.hub_process import Hub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

TOKENS = {"viewer": "token-of-a-viewer", "security": "token-of-a-guard"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, policies: Path) -> Iterator[Hub]:
    access = tmp_path_factory.mktemp("access") / "access.json"
    tokens = [
        {"name": role, "role": role, "sha256": hashlib.sha256(token.encode()).hexdigest()}
        for role, token in TOKENS.items()
    ]
    access.write_text(json.dumps({"tokens": tokens}))
    with Hub("--policies", str(policies), "--access", str(access)) as running:
        yield running


def sign_in(sight: Sight, token: str) -> None:
    sight.page.get_by_label("token").fill(token)
    sight.page.get_by_role("button", name="sign in").click()


def test_the_page_asks_who_asks_and_shows_nothing_before(browser: Browser, guarded: Hub) -> None:
    with Sight(browser, guarded.url) as sight:
        sight.page.goto(f"{guarded.url}/#/services")
        sight.page.get_by_role("heading", name="Who asks?").wait_for()
        assert "storefront" not in sight.find("body").inner_text()
        assert sight.serious_faults() == []
        sign_in(sight, "a wrong one")
        sight.page.get_by_text("the hub does not know this token").wait_for()
        sign_in(sight, TOKENS["security"])
        sight.page.get_by_role("link", name="storefront", exact=True).wait_for()
        sight.find(".liveness", has_text="live").wait_for()


def test_a_token_is_typed_at_once_and_none_of_its_letters_is_a_key(browser: Browser, guarded: Hub) -> None:
    with Sight(browser, guarded.url) as sight:
        sight.page.goto(f"{guarded.url}/#/services")
        sight.page.get_by_role("heading", name="Who asks?").wait_for()
        theme = "getComputedStyle(document.documentElement).colorScheme"
        before = sight.page.evaluate(theme)
        sight.page.keyboard.type(TOKENS["security"])
        assert sight.page.get_by_label("token").input_value() == TOKENS["security"]
        # What is typed beside the field does nothing either.
        sight.page.evaluate("document.activeElement.blur()")
        sight.page.keyboard.type("t?")
        assert sight.page.evaluate(theme) == before
        sight.page.get_by_label("token").focus()
        sight.page.keyboard.press("Enter")
        sight.page.get_by_role("link", name="storefront", exact=True).wait_for()


def test_a_viewer_sees_the_map_and_is_told_what_it_may_not_see(browser: Browser, guarded: Hub) -> None:
    with Sight(browser, guarded.url) as sight:
        sight.page.goto(f"{guarded.url}/#/services")
        sign_in(sight, TOKENS["viewer"])
        sight.page.get_by_role("link", name="storefront", exact=True).wait_for()
        sight.open("#/denials")
        sight.page.get_by_text("this token's role may not read this").first.wait_for()
        sight.find(".liveness", has_text="may not listen").wait_for()
        sight.open("#/live")
        sight.find(".failure", has_text="it takes the role security").first.wait_for()


def test_what_is_copied_has_no_token_in_it(browser: Browser, guarded: Hub) -> None:
    with Sight(browser, guarded.url) as sight:
        sight.page.goto(f"{guarded.url}/#/services")
        sign_in(sight, TOKENS["security"])
        sight.page.get_by_role("link", name="storefront", exact=True).wait_for()
        sight.page.get_by_role("button", name="copy as curl").first.click()
        copied = sight.page.evaluate("navigator.clipboard.readText()")
        assert "Authorization: Bearer $TOKEN" in copied
        assert TOKENS["security"] not in copied
        sight.page.reload()
        sight.page.get_by_role("link", name="storefront", exact=True).wait_for()
        assert TOKENS["security"] not in sight.page.evaluate(
            "JSON.stringify(localStorage) + location.href + document.cookie"
        )
