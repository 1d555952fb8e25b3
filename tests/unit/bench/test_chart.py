"""The chart is SVG that says what was measured."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from tests.bench.check_path.chart import Panel, svg
from tests.bench.check_path.spread import Spread

SVG = "{http://www.w3.org/2000/svg}"
HALF = Spread(median=50, low=40, high=60)
ALL = Spread(median=90, low=80, high=100)


def drawn(*rows: tuple[Spread | None, ...], names: tuple[str, ...] = ("one", "two")) -> ET.Element:
    text = svg(
        title="a <title> & more", note="a note", series=("own", "shared")[: len(rows[0])], rows=names,
        panels=(Panel(title="calls", rows=rows),),
    )  # fmt: skip
    return ET.fromstring(text)  # noqa: S314 our own text


def bars(root: ET.Element) -> list[float]:
    found = root.findall(f"{SVG}rect")
    return [
        float(each.attrib["width"]) for each in found if each.attrib.get("height") == "11" and "." in each.attrib["x"]
    ]


def test_a_bar_is_as_long_as_its_median_on_the_scale_of_the_highest() -> None:
    assert bars(drawn((HALF,), (ALL,))) == [125.0, 225.0]


def test_a_whisker_goes_from_the_lowest_to_the_highest() -> None:
    low, high = re.findall(r"M([\d.]+) [\d.]+H([\d.]+)", drawn((HALF,), (ALL,)).findall(f"{SVG}path")[1].attrib["d"])[0]
    assert float(high) - float(low) == pytest.approx(50.0)


def test_words_are_text_whatever_they_hold() -> None:
    words = [each.text for each in drawn((HALF,), (ALL,)).iter(f"{SVG}text")]
    assert {"a <title> & more", "a note", "one", "two", "calls", "own", "50", "90"} <= set(words)


def test_what_was_not_measured_has_no_bar() -> None:
    assert len(bars(drawn((HALF, None), (None, ALL)))) == 2


def test_nothing_is_drawn_beyond_the_page() -> None:
    root = drawn((HALF, ALL), (ALL, HALF))
    for each in root.findall(f"{SVG}rect"):
        assert float(each.attrib.get("x", 0)) + float(each.attrib["width"]) <= float(root.attrib["width"])
        assert float(each.attrib.get("y", 0)) + float(each.attrib["height"]) <= float(root.attrib["height"])


@pytest.mark.parametrize("rows", [((HALF,),), ((HALF, ALL), (HALF,))])
def test_a_panel_of_other_rows_is_refused(rows: tuple[tuple[Spread, ...], ...]) -> None:
    with pytest.raises(ValueError, match="does not have 2 rows"):
        drawn(*rows)


def test_a_chart_without_any_height_is_still_a_chart() -> None:
    nothing = Spread(median=0, low=0, high=0)
    assert bars(drawn((nothing,), (nothing,))) == [0.0, 0.0]
