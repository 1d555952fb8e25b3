"""The page in a real Chromium, on a real hub that has a day of a shop's calls.

`make test-browser` installs the driver of Chromium and axe; without the driver they are left out, and that is said.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.conditions import eventually
from tests.support.hub_process import Hub
from tests.support.shop import Shop, allow_refunds, now_s, write_policies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from tests.browser.sight import Sight

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

HAS_DRIVER = importlib.util.find_spec("playwright") is not None

# Without the driver not even the modules of the tests can be imported.
if not HAS_DRIVER:
    collect_ignore_glob = ["test_*.py"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not HAS_DRIVER:
        terminalreporter.write_line("tests/browser is left out: make test-browser installs the driver of Chromium")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policies")
    write_policies(folder)
    return folder


@pytest.fixture(scope="session")
def shop(policies: Path) -> Shop:
    return Shop(policies)


@pytest.fixture(scope="session")
def hub(policies: Path, shop: Shop) -> Iterator[Hub]:
    with Hub("--policies", str(policies)) as running:
        for batch in shop.day(now_s()):
            status, answer = running.send(batch)
            assert status == 200, answer
        yield running


@pytest.fixture(scope="session")
def changed_policies(hub: Hub, policies: Path) -> str:
    """A second revision, which the hub has noticed."""

    before = hub.answer("/policies")["revision"]
    allow_refunds(policies)
    assert eventually(lambda: hub.answer("/policies")["revision"] != before)
    return str(hub.answer("/policies")["revision"])


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 an extra of one target

    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with sync_playwright() as driver:
        # Tests may run as root in a container, where Chromium's own sandbox cannot be set up; letters without colours
        # make smaller pictures.
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-lcd-text"])
        yield running
        running.close()


@pytest.fixture
def sight(hub: Hub, browser: Browser) -> Iterator[Sight]:
    from tests.browser.sight import Sight  # noqa: PLC0415 an extra of one target

    with Sight(browser, hub.url) as opened:
        yield opened
