"""One tab of Chromium on the page, which fails its test on whatever should never happen there.

That is: an error in a script, a breach of the Content-Security-Policy, a request to anyone but the hub, a dialog.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Dialog, Locator, Request

#: for what has to happen; never a measure of how fast it does
PATIENCE_MS = 60_000
USUAL = (1120, 690)
AXE = Path(__file__).parents[2] / ".cache/axe-core/axe.min.js"
VIEWS = {
    "map": "#/map",
    "windows": "#/windows",
    "denials": "#/denials",
    "live": "#/live",
    "services": "#/services",
    "policies": "#/policies",
    "sidecars": "#/sidecars",
    "history": "#/history",
}
#: answers that the page is meant to show: the browser writes each of them into its console
_EXPECTED = ("the server responded with a status of 401", "the server responded with a status of 403", "status of 404")


class Sight:
    """A tab; `size` in CSS pixels, `theme` as the system would say it."""

    def __init__(self, browser: Browser, url: str, *, size: tuple[int, int] = USUAL, theme: Any = "light") -> None:
        self.url = url
        self.faults: list[str] = []
        self._context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=theme,
            permissions=["clipboard-read", "clipboard-write"],
        )
        self._context.set_default_timeout(PATIENCE_MS)
        self.page = self._context.new_page()
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("console", self._hear)
        self.page.on("request", self._see)
        self.page.on("dialog", self._shut)

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not any(each in message.text for each in _EXPECTED):
            self.faults.append(f"{message.type}: {message.text}")

    def _see(self, request: Request) -> None:
        if not request.url.startswith((self.url + "/", "data:", "blob:")):
            self.faults.append(f"request: {request.url}")

    def _shut(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, address: str) -> Self:
        """Go to an address of the page, and wait until everything that it asked for is there."""
        if self.page.url.startswith(self.url + "/"):
            self.page.evaluate("address => { location.hash = address }", address)
        else:
            self.page.goto(f"{self.url}/{address}")
        return self.settled()

    def settled(self) -> Self:
        """Wait until nothing is being asked for, and a map has its places."""
        self.page.wait_for_function(
            """() => document.querySelector('main h1') && !document.querySelector('.loading')
                && document.querySelector('main .panel, main [data-map], main table, main .placeholder')
                && [...document.querySelectorAll('[data-map]')].every((each) => each.dataset.arranged === 'yes')"""
        )
        return self

    def find(self, selector: str, *, has_text: str | None = None) -> Locator:
        return self.page.locator(selector, has_text=has_text)

    def of_map(self, expression: str) -> Any:
        """Give what an expression says of the drawing, `cy`."""
        drawn = "document.querySelector('[data-map]')._cyreg"
        return self.page.evaluate(f"(() => {{ const {{ cy }} = {drawn}; return {expression}; }})()")

    def numbers(self, table: str, columns: list[str]) -> dict[str, list[float | None]]:
        """Give the exact numbers of some columns of a table, by what its first column says."""
        told: dict[str, list[float | None]] = self.page.evaluate(
            """([caption, columns]) => {
                const tables = [...document.querySelectorAll('main table')];
                const table = tables.find((each) => each.caption?.textContent.startsWith(caption));
                const heads = [...table.querySelectorAll('thead th')];
                const names = heads.map((each) => each.textContent.replace(/[↑↓]/g, '').trim());
                const found = {};
                for (const row of table.querySelectorAll('tbody tr')) {
                    const cells = [...row.children];
                    found[cells[0].textContent.trim()] = columns.map((each) => {
                        const value = cells[names.indexOf(each)].querySelector('data')?.value;
                        return value === undefined ? null : Number(value);
                    });
                }
                return found;
            }""",
            [table, columns],
        )
        return told

    def facts(self, within: str) -> dict[str, float]:
        """Give the exact numbers that stand beside a name in a list of them."""
        told: dict[str, float] = self.page.evaluate(
            """(within) => Object.fromEntries([...document.querySelectorAll(`${within} > div`)]
                .filter((each) => each.querySelector('dd data'))
                .map((each) => [each.querySelector('dt').textContent, Number(each.querySelector('dd data').value)]))""",
            within,
        )
        return told

    def serious_faults(self) -> list[str]:
        """Give what axe finds serious or critical."""
        if not AXE.is_file():
            pytest.skip("no axe-core: make test-browser fetches it")
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
        return [
            f"{each['id']}: {node['html'][:200]} {node.get('failureSummary', '')}"
            for each in found["violations"]
            if each["impact"] in {"serious", "critical"}
            for node in each["nodes"]
        ]

    def picture(self, name: str) -> Path:
        """Take a picture for the docs, where SCREENSHOTS says."""
        folder = Path(os.environ.get("SCREENSHOTS", ".cache/screenshots"))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"page-{name}.png"
        self.page.screenshot(path=path, animations="disabled")
        return path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._context.close()
        if kind is None:
            assert self.faults == []
