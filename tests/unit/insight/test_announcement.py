"""What is announced of windows, when, and how often: as values, without a clock and without a network."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from authz.insight.announcement import Announcement, Memory, Place, looked_at, next_due_ns, parse_leads_ns
from authz.insight.attempt import Attempt, WindowKind, attempt_of_line
from authz.insight.errors import InsightError
from authz.insight.window_dates import WindowDates
from authz.policy.window import parse_instant_ns
from tests.support.refusals import line

S, DAY = 10**9, 86_400 * 10**9
CLOSES = parse_instant_ns("2026-06-01T00:00:00Z")
LEADS = parse_leads_ns("14d,1d,1h")
PLACE = Place(mesh="shop", trust_domain="shop.example")
ACME = WindowDates(
    kind=WindowKind.THIRD_PARTY, name="acme", opens_ns=0, closes_ns=CLOSES, hours=None, owner="o", path="p", line=1
)


class Watching:
    """Looks again and again, and takes what is announced, or does not."""

    def __init__(self, since_ns: int) -> None:
        self.memory = Memory(since_ns=since_ns)

    def look(
        self, now_ns: int, *windows: WindowDates, tried: Attempt | None = None, takes: bool = True
    ) -> list[dict[str, Any]]:
        attempts = {} if tried is None else {(tried.kind, tried.name): tried}
        # What is not on disk is not known: it is read back each time.
        memory = Memory.from_json(self.memory.to_json().encode())
        assert memory == self.memory
        self.memory = looked_at(memory, windows or (ACME,), attempts, place=PLACE, leads_ns=LEADS, now_ns=now_ns)
        told = [json.loads(each.body) for each in self.memory.waiting]
        if takes:
            for each in self.memory.waiting:
                self.memory = self.memory.without(each)
        return told

    def types(self, now_ns: int, *windows: WindowDates, tried: Attempt | None = None, takes: bool = True) -> list[str]:
        return [
            each["type"].removeprefix("window.") + ("" if each["lead_s"] is None else f" {each['lead_s']}")
            for each in self.look(now_ns, *windows, tried=tried, takes=takes)
        ]


def attempt(time: str, name: str = "acme") -> Attempt:
    read = attempt_of_line(line(time, policy=name, request_id="r"))
    assert read is not None
    return read


def test_each_lead_the_close_and_the_first_attempt_are_told_once() -> None:
    watch = Watching(CLOSES - 100 * DAY)
    told = [watch.types(CLOSES - before) for before in (30 * DAY, 14 * DAY, 13 * DAY, DAY, DAY - 1, 3600 * S, S)]
    assert told == [[], ["closing 1209600"], [], ["closing 86400"], [], ["closing 3600"], []]
    assert watch.types(CLOSES) == ["closed"]
    assert watch.types(CLOSES + DAY) == []
    assert watch.types(CLOSES + DAY, tried=attempt("2026-06-01T12:00:00Z")) == ["attempt"]
    assert watch.types(CLOSES + DAY, tried=attempt("2026-06-01T13:00:00Z")) == []


def test_of_leads_that_are_over_the_shortest_is_told() -> None:
    assert Watching(CLOSES - DAY // 2).types(CLOSES - DAY // 2) == ["closing 86400"]


def test_an_end_before_the_watch_began_is_no_news_but_an_attempt_after_it_is() -> None:
    watch = Watching(CLOSES + DAY)
    assert watch.types(CLOSES + DAY) == []
    (told,) = watch.look(CLOSES + DAY, tried=attempt("2026-06-01T12:00:00Z"))
    assert told["attempt"] == {
        "time": "2026-06-01T12:00:00.000Z", "decision_id": "d" * 32, "request_id": "r",
        "identity": "spiffe://acme.example/pull", "service": None, "address": "10.0.0.7", "direction": "inbound",
        "sidecar": "orders",
    }  # fmt: skip
    assert (told["mesh"], told["window"]["name"], told["window"]["state"]) == ("shop", "acme", "ended")


def test_an_end_while_nobody_watched_is_told_afterwards() -> None:
    watch = Watching(CLOSES - 2 * DAY)
    watch.look(CLOSES - 2 * DAY)
    assert watch.types(CLOSES + 100 * DAY) == ["closed"]


def test_an_end_that_was_moved_into_the_past_is_told_at_once() -> None:
    watch = Watching(CLOSES - 60 * DAY)
    watch.look(CLOSES - 60 * DAY)
    assert watch.types(CLOSES - 59 * DAY, replace(ACME, closes_ns=CLOSES - 90 * DAY)) == ["closed"]


def test_an_end_that_was_moved_is_another_one_with_ids_of_its_own() -> None:
    watch = Watching(CLOSES - 100 * DAY)
    (first,) = watch.look(CLOSES)
    later = replace(ACME, closes_ns=CLOSES + 2 * DAY)
    assert watch.types(CLOSES + S, later) == ["closing 1209600"]
    (second,) = watch.look(CLOSES + 2 * DAY, later)
    assert first["type"] == second["type"] == "window.closed"
    assert first["id"] != second["id"]


def test_what_is_not_taken_waits_and_keeps_its_id_and_body() -> None:
    watch = Watching(CLOSES - 100 * DAY)
    before = watch.look(CLOSES - DAY, takes=False)
    after = watch.look(CLOSES, takes=False)
    assert [each["type"] for each in after] == ["window.closing", "window.closed"]
    assert after[:1] == before
    assert watch.look(CLOSES + DAY) == after
    assert watch.look(CLOSES + DAY) == []


def test_a_rule_and_a_third_party_of_one_name_are_announced_apart_and_ids_are_the_same_for_everybody() -> None:
    rule = replace(ACME, kind=WindowKind.MICRO_POLICY)
    told = Watching(CLOSES - DAY).look(CLOSES, ACME, rule)
    assert len({each["id"] for each in told}) == 2
    assert [each["id"] for each in Watching(0).look(CLOSES, rule, ACME)] == [each["id"] for each in reversed(told)]


def test_what_was_told_of_windows_that_are_gone_is_forgotten() -> None:
    watch = Watching(0)
    watch.look(CLOSES)
    assert watch.memory.told
    watch.look(CLOSES, replace(ACME, name="other", closes_ns=None))
    assert not watch.memory.told


def test_the_next_instant_is_the_earliest_lead_or_end_to_come() -> None:
    assert next_due_ns([ACME], LEADS, CLOSES - 100 * DAY) == CLOSES - 14 * DAY
    assert next_due_ns([ACME], LEADS, CLOSES - 14 * DAY) == CLOSES - DAY
    assert next_due_ns([ACME], LEADS, CLOSES - S) == CLOSES
    assert next_due_ns([ACME, replace(ACME, closes_ns=None)], LEADS, CLOSES) is None


@pytest.mark.parametrize("text", ["", "1", "0s", "-1d", "1w", "367d", "1d,,1h", "1.5h", ",".join(["1s"] * 17)])
def test_what_is_no_lead_is_refused(text: str) -> None:
    with pytest.raises(InsightError):
        parse_leads_ns(text)


@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_memory_or_an_error(content: bytes) -> None:
    for each in (content, b'{"since":"2026-01-01T00:00:00Z","not_ended":[],"told":[' + content + b'],"waiting":[]}'):
        try:
            memory = Memory.from_json(each)
        except InsightError:
            continue
        assert Memory.from_json(memory.to_json().encode()) == memory


@given(
    steps=st.lists(st.tuples(st.integers(-20, 3), st.booleans(), st.booleans()), max_size=12),
)
def test_nothing_is_ever_taken_twice_whatever_the_clock_does(steps: list[tuple[int, bool, bool]]) -> None:
    watch = Watching(CLOSES - 100 * DAY)
    taken: list[str] = []
    for days, takes, tries in steps:
        tried = attempt("2026-06-01T12:00:00Z") if tries else None
        told = watch.look(CLOSES + days * DAY, tried=tried, takes=takes)
        taken += [each["id"] for each in told] if takes else []
    assert len(taken) == len(set(taken))


def test_an_announcement_taken_is_no_longer_waiting() -> None:
    one, other = Announcement(id="1", body="{}"), Announcement(id="2", body="{}")
    memory = Memory(since_ns=0, waiting=(one, other)).without(one)
    assert (memory.waiting, memory.told) == ((other,), frozenset({"1"}))
