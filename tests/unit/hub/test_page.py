"""What the page is made of: files of known origin, none of which can turn what it shows into markup or code."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

PAGES = Path(__file__).parents[3] / "authz" / "hub" / "pages"
VENDOR = PAGES / "vendor"
OURS = sorted(path for path in PAGES.rglob("*") if path.is_file() and VENDOR not in path.parents)
SCRIPTS = [path for path in OURS if path.suffix == ".js"]

#: what writes markup from text, or runs text
WRITES_MARKUP = (
    r"innerHTML|outerHTML|insertAdjacentHTML|dangerouslySetInnerHTML|document\.write|createContextualFragment|DOMParser"
    r"|srcdoc|\beval\b|new Function|setTimeout\(\s*['\"`]|javascript:|setAttributeNS?\(\s*['\"](?:on|style|href|src)"
)


def libraries() -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads((VENDOR / "manifest.json").read_text())["libraries"]
    return told


def test_every_vendored_file_is_the_one_of_the_manifest() -> None:
    listed = {each["file"]: each["sha256"] for library in libraries() for each in library["files"]}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.name != "manifest.json"
    }
    assert found == listed


@pytest.mark.parametrize("library", libraries(), ids=lambda library: str(library["name"]))
def test_every_library_comes_with_its_licence_and_where_it_is_from(library: dict[str, Any]) -> None:
    assert library["licence"] in {"MIT", "Apache-2.0"}
    assert library["tarball"].startswith("https://registry.npmjs.org/")
    assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", library["integrity"])
    assert [each for each in library["files"] if each["file"].startswith("LICENSE.")]
    assert library["why"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_script_of_ours_writes_markup_or_runs_text(script: Path) -> None:
    assert not re.findall(WRITES_MARKUP, script.read_text())


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_nothing_is_loaded_from_outside(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "").replace("http://www.w3.org/1999/xhtml", "")
    assert not re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text)


class Markup(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self._inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {name for name, _ in attrs}
        self._inside = tag if tag == "style" or (tag == "script" and "src" not in names) else None
        self.inline += [name for name in names if name.startswith("on") or name == "style"]

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._inside = None


def test_the_page_has_no_inline_script_and_no_inline_style() -> None:
    markup = Markup()
    markup.feed((PAGES / "index.html").read_text())
    assert markup.inline == []


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r'(?:href|src)="page/([^"]+)"', (PAGES / "index.html").read_text())
    assert named
    assert [each for each in named if not (PAGES / each).is_file()] == []


def test_every_module_that_a_script_imports_is_there() -> None:
    for script in SCRIPTS:
        for imported in re.findall(r"""(?:from|import|new URL\()\s*["'](\.[^"']+)["']""", script.read_text()):
            assert (script.parent / imported).is_file(), f"{script.name} imports {imported}"


def test_every_script_of_ours_is_used() -> None:
    used = {"app.js", "theme.js"}
    for script in SCRIPTS:
        for imported in re.findall(r"""(?:from|import|new URL\()\s*["'](\.[^"']+)["']""", script.read_text()):
            used.add((script.parent / imported).resolve().relative_to(PAGES).as_posix())
    assert {path.relative_to(PAGES).as_posix() for path in SCRIPTS} <= used
