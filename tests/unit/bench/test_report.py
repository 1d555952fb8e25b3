"""What was measured becomes tables, ratios and a chart, each part in its own place of the page."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from authz.request import Direction
from tests.bench.check_path import page, promises, report
from tests.bench.check_path.__main__ import PARTS
from tests.bench.check_path.rates import Cell, Layout, Measured, Plan, Round
from tests.bench.check_path.variants import VARIANTS

PLAN = Plan(
    rounds=3,
    seconds=1,
    layouts=tuple(Layout),
    directions=(Direction.OUTBOUND, Direction.INBOUND),
    connections=(1, 16, 64),
)
#: calls a second, p50, p99, CPU a check
MEASURED = {
    "none": (20_000, 50, 500, 0),
    "floor": (10_000, 150, 3_000, 5),
    "ours-10000": (9_500, 160, 4_000, 12),
    "opa-10000": (5_000, 400, 10_000, 200),
}


def measured(names: tuple[str, ...] = tuple(MEASURED)) -> Measured:
    rounds = {
        (cell, name): [
            Round(
                rps=rps * drift,
                p50_us=p50 * drift,
                p99_us=p99 * drift,
                authz_us=cpu * drift,
                envoy_us=20,
                rss_mb=30,
                all_mb=40,
                failed=2,
            )
            for drift in (1.0, 1.3, 0.8)
        ]
        for cell in PLAN.cells()
        for name, (rps, p50, p99, cpu) in MEASURED.items()
        if name in names
    }
    return Measured(plan=PLAN, variants=tuple(each for each in VARIANTS if each.name in names), rounds=rounds)


def test_each_cell_has_a_table_with_a_row_for_each_variant() -> None:
    text = report.tables(measured())
    assert text.count("| who decides |") == len(PLAN.cells())
    assert text.count("| picoseg, 10,000 | 9,500 (7,600 - 12,350) |") == len(PLAN.cells())
    assert "| no authz | 20,000 (16,000 - 26,000) | 50 (40 - 65) | 500 (400 - 650) | - |" in text


def test_calls_that_failed_are_told() -> None:
    assert report.tables(measured()).count(" | 30, 40 | 6 |\n") == 3 * len(PLAN.cells()) - 1


def test_ratios_are_taken_round_by_round() -> None:
    text = promises.ratios(measured())
    assert "| outbound: calls/s at 64 connections, own core, to OPA | 1.90 (1.90 - 1.90) | 1.9 or more |" in text
    assert "to the do-nothing answerer | 0.95 (0.95 - 0.95) | 0.9 or more |" in text
    assert "what the do-nothing answerer adds | 1.10 (1.10 - 1.10) | 1.15 or less |" in text
    assert "inbound: p99 at 16 connections, own core, to OPA | 0.40 (0.40 - 0.40) |" in text
    assert "CPU a check at 64 connections, own core, to OPA | 0.06 (0.06 - 0.06) |" in text


def test_a_ratio_to_what_was_not_measured_is_not_written() -> None:
    text = promises.ratios(measured(("none", "floor", "ours-10000")))
    assert "OPA" not in text
    assert "do-nothing" in text


def test_the_chart_shows_every_variant_and_no_server_where_none_is_asked() -> None:
    root = ET.fromstring(report.chart(measured(), machine="a machine"))  # noqa: S314 our own text
    words = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("20,000") == 2
    assert words.count("12") == 2
    assert "0" not in words


EMPTY = "# Page\n\n<!-- one: begin -->\n<!-- one: end -->\nbetween\n<!-- two: begin -->\n<!-- two: end -->\nafter\n"


def test_a_part_replaces_itself_and_nothing_else() -> None:
    once = page.replaced(EMPTY, "one", "1\n")
    both = page.replaced(once, "two", "2")
    assert both == EMPTY.replace("one: begin -->\n", "one: begin -->\n1\n").replace(
        "two: begin -->\n", "two: begin -->\n2\n"
    )
    assert page.replaced(both, "one", "new") == both.replace("\n1\n", "\nnew\n")


@pytest.mark.parametrize("written", ["", "<!-- one: begin -->\n", "<!-- one: end -->\n<!-- one: begin -->\n"])
def test_a_page_without_a_place_for_a_part_is_left_alone(written: str) -> None:
    with pytest.raises(ValueError, match="put them where this part belongs"):
        page.replaced(written, "one", "1")


@pytest.mark.parametrize("part", PARTS)
def test_the_page_has_a_place_for_each_part(part: str) -> None:
    assert page.replaced(page.PAGE.read_text(), f"check path, {part}", "1")


def test_a_cell_is_where_something_is_measured() -> None:
    assert Cell(layout=Layout.OWN, direction=Direction.INBOUND, connections=1) in PLAN.cells()
    assert len(PLAN.cells()) == 12
