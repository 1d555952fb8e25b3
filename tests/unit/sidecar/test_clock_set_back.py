"""Where the clock is set back, a call is decided at the wall clock and at the latest instant seen."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from envoy.service.auth.v3 import external_auth_pb2
from hypothesis import given, strategies as st

from authz.decision import Reason
from authz.identity.spiffe_id import SpiffeId
from authz.identity.verification import VerifiedIdentity
from authz.policy.index import compile_index
from authz.policy.tightening import Tightening
from authz.policy.window import parse_instant_ns
from authz.records.record_lines import RecordLines
from authz.sidecar.check.check_clock import CheckClock
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.clock_cell import ClockCell, ClockMode, ClockSetting
from authz.sidecar.in_force import InForce, PolicyInForce
from authz.sidecar.tightening_page import Tightened
from tests.support.certificates import NOW_NS, SPIFFE_ID, leaf, pem
from tests.support.check_request import check_request
from tests.support.policy_sets import document, parsed, service

S = 10**9
HOUR, DAY = 3600 * S, 24 * 3600 * S
#: 2026-06-01 12:00 UTC, a Monday
assert datetime.fromtimestamp(NOW_NS / S, UTC) == datetime(2026, 6, 1, 12, tzinfo=UTC)
CLOSES = "2026-06-01T12:10:00Z"
CLOSES_NS = parse_instant_ns(CLOSES)
OPENS = "2026-06-02T06:00:00Z"
OPENS_NS = parse_instant_ns(OPENS)
OWN = VerifiedIdentity(
    spiffe_id=SpiffeId.parse("spiffe://shop.example/catalog"),
    serial="1",
    not_before_ns=0,
    not_after_ns=NOW_NS + 400 * DAY,
)
LONG = pem(leaf(not_before=datetime(2026, 1, 1, tzinfo=UTC), not_after=datetime(2027, 1, 1, tzinfo=UTC)))


def rule(name: str, path: str, window: str = "") -> str:
    operations = f"[{{methods: [GET], paths: ['{path}']}}]"
    more = window and f", window: {window}"
    return document(
        "MicroPolicy",
        name,
        f"{{from: [{{services: [orders]}}], to: [{{services: [catalog], operations: {operations}}}]{more}}}",
    )


DAILY = "{during: [{days: [mon, tue, wed, thu, fri], from: '09:00', until: '17:00', timezone: UTC}]}"
SET = parsed(
    document("Mesh", "m", "{trustDomains: [shop.example]}"),
    service("orders", SPIFFE_ID),
    service("catalog"),
    rule("closing", "/closing", f"{{closes: {CLOSES}}}"),
    rule("opening", "/opening", f"{{opens: {OPENS}}}"),
    rule("daily", "/daily", DAILY),
    rule("before", "/twice", f"{{closes: {CLOSES}}}"),
    rule("after", "/twice", f"{{opens: {OPENS}}}"),
    rule("always", "/always"),
)
PATHS = ("/closing", "/opening", "/daily", "/twice", "/always", "/never")
INDEX = compile_index(SET, NOW_NS)


@dataclass(slots=True, kw_only=True)
class Sidecar:
    """A checker of `catalog`'s sidecar; two of them may share what was seen of the clock."""

    now_ns: int = NOW_NS
    seen: ClockCell = field(default_factory=ClockCell)
    certificate: bytes = LONG
    records: list[bytes] = field(default_factory=list)
    tightened: Tightened | None = None
    checker: Checker = field(init=False)

    def __post_init__(self) -> None:
        in_force = InForce()
        in_force.policy = PolicyInForce(index=INDEX)
        self.checker = Checker(
            workload=Workload(service="catalog", identity=lambda: OWN),
            in_force=in_force,
            record=self._record,
            clock=CheckClock(now_ns=lambda: self.now_ns, latest=self.seen.words[:1]),
            tightened=lambda: self.tightened,
        )

    def _record(self, packed: bytes) -> bool:
        self.records.append(packed)
        return True

    def asked(self, path: str, at_ns: int | None = None) -> tuple[dict[str, Any], str]:
        """Give the record of a call, and the answer as text."""
        if at_ns is not None:
            self.now_ns = at_ns
        self.records.clear()
        message = check_request(path=path, certificate_pem=self.certificate).SerializeToString()
        answer = external_auth_pb2.CheckResponse.FromString(self.checker.answer(message))
        (packed,) = self.records
        return json.loads(RecordLines("catalog").line(packed)), str(answer)

    def reason(self, path: str, at_ns: int | None = None) -> str:
        reason: str = self.asked(path, at_ns)[0]["reason"]
        return reason


def left_ms(answer: str) -> int | None:
    found = re.search(r"([0-9]{8})([mS])", answer)
    return None if found is None else int(found[1]) * (1 if found[2] == "m" else 1000)


def test_what_had_closed_does_not_reopen_when_the_clock_is_set_back() -> None:
    sidecar = Sidecar()
    assert sidecar.reason("/closing") == "allowed"
    assert sidecar.reason("/closing", CLOSES_NS) == "closed"
    assert sidecar.reason("/closing", NOW_NS) == "closed"
    assert sidecar.reason("/closing", NOW_NS - HOUR) == "closed"
    assert sidecar.reason("/always", NOW_NS - HOUR) == "allowed"


def test_what_an_edit_takes_away_before_it_is_compiled_counts_at_both_instants() -> None:
    sidecar = Sidecar(now_ns=NOW_NS + HOUR)
    message = check_request(path="/always", certificate_pem=LONG).SerializeToString()
    # Often enough to have its answer settled.
    assert {sidecar.reason("/always") for _ in range(5)} == {"allowed"}
    edit = Tightening(revision="r", narrowed={"always": (None, CLOSES_NS)})
    sidecar.tightened = Tightened(SET.revision, edit)
    for now_ns in (NOW_NS + HOUR, NOW_NS, NOW_NS - HOUR):
        assert sidecar.reason("/always", now_ns) == "closed"
        assert sidecar.checker.recheck(message).reason is Reason.CLOSED
    sidecar.tightened = Tightened("another set", edit)
    assert sidecar.reason("/always") == "allowed"


def test_what_opens_later_is_not_open_at_a_wall_clock_before_though_it_was_once_seen_later() -> None:
    sidecar = Sidecar()
    assert sidecar.reason("/opening") == "not_yet_open"
    assert sidecar.reason("/opening", OPENS_NS + HOUR) == "allowed"
    assert sidecar.reason("/opening", NOW_NS) == "not_yet_open"
    assert sidecar.reason("/closing", NOW_NS) == "closed"


def test_daily_hours_open_again_the_next_day() -> None:
    sidecar = Sidecar()
    assert sidecar.reason("/daily", NOW_NS) == "allowed"
    assert sidecar.reason("/daily", NOW_NS + 5 * HOUR) == "outside_hours"
    assert sidecar.reason("/daily", NOW_NS + 4 * HOUR) == "outside_hours"  # set back by an hour
    assert sidecar.reason("/daily", NOW_NS + 21 * HOUR) == "allowed"


def test_the_wall_clocks_reason_is_given_where_both_deny() -> None:
    sidecar = Sidecar()
    sidecar.seen.saw(OPENS_NS + 12 * HOUR)
    assert sidecar.reason("/daily", NOW_NS) == "outside_hours"
    assert sidecar.reason("/opening", NOW_NS) == "not_yet_open"
    assert sidecar.reason("/never", NOW_NS) == "no_policy"


def test_a_certificate_that_had_expired_is_not_valid_again() -> None:
    sidecar = Sidecar(certificate=pem(leaf(not_after=datetime(2026, 6, 1, 12, 30, tzinfo=UTC))))
    assert sidecar.reason("/always") == "allowed"
    assert sidecar.reason("/always", NOW_NS + HOUR) == "unidentified"
    record, _ = sidecar.asked("/always", NOW_NS)
    assert (record["reason"], record["caller"]["identity"]) == ("unidentified", None)


@pytest.mark.parametrize(
    ("path", "seen_ns", "left_s"),
    [
        ("/closing", NOW_NS, 600),
        ("/closing", NOW_NS + 60 * S, 540),
        ("/twice", NOW_NS + DAY, 600),
        ("/daily", NOW_NS + 4 * HOUR, 3600),
        ("/daily", NOW_NS + DAY - HOUR, 5 * 3600),
    ],
)
def test_a_stream_ends_at_the_close_whichever_of_the_two_instants_is_right(
    path: str, seen_ns: int, left_s: int
) -> None:
    sidecar = Sidecar()
    sidecar.seen.saw(seen_ns)
    for _ in range(4):
        record, answer = sidecar.asked(path)
        assert record["decision"] == "allow"
        assert left_ms(answer) == left_s * 1000
        assert parse_instant_ns(record["valid_until"] or "") == NOW_NS + left_s * S


@pytest.mark.parametrize("path", ["/always", "/closing"])
def test_what_is_asked_again_is_the_same_for_a_newcomer_behind_the_latest_instant(path: str) -> None:
    old = Sidecar()
    for second in range(5):
        old.asked(path, NOW_NS + second * S)
    for seen_ns in (NOW_NS + 10 * S, CLOSES_NS - 1, CLOSES_NS, NOW_NS + DAY):
        old.seen.saw(seen_ns)
        newcomer = Sidecar(seen=old.seen)
        for at_ns in (NOW_NS, NOW_NS + 5 * S, CLOSES_NS, CLOSES_NS + S):
            theirs, ours = old.asked(path, at_ns), newcomer.asked(path, at_ns)
            assert left_ms(theirs[1]) == left_ms(ours[1])
            assert [ours[0][key] for key in ("decision", "reason", "policy", "valid_until")] == [
                theirs[0][key] for key in ("decision", "reason", "policy", "valid_until")
            ]


def test_a_time_that_cannot_be_told_denies_internal_error_with_a_record() -> None:
    cell = ClockCell()
    sidecar = Sidecar(seen=cell)
    sidecar.checker._clock = cell.now_ns
    cell.set(ClockSetting(ClockMode.BROKEN, 0))
    assert sidecar.reason("/always") == "internal_error"
    cell.set(ClockSetting(ClockMode.STANDS, NOW_NS // 1000))
    assert sidecar.reason("/always") == "allowed"


INSTANTS = st.one_of(
    st.integers(NOW_NS - 2 * DAY, NOW_NS + 10 * DAY),
    st.sampled_from([NOW_NS, CLOSES_NS - 1, CLOSES_NS, OPENS_NS - 1, OPENS_NS, NOW_NS + 5 * HOUR, NOW_NS + 21 * HOUR]),
)


class TestBothClocks:
    """A call is allowed just when a sidecar that knows of no other instant allows it at both."""

    @given(path=st.sampled_from(PATHS), now_ns=INSTANTS, seen_ns=INSTANTS)
    def test_of_decisions(self, path: str, now_ns: int, seen_ns: int) -> None:
        sidecar = Sidecar(now_ns=now_ns)
        sidecar.seen.saw(seen_ns)
        at_now, at_latest = (Sidecar(now_ns=each).asked(path) for each in (now_ns, max(now_ns, seen_ns)))
        told, answer = sidecar.asked(path)
        first = next((each for each in (at_now, at_latest) if each[0]["decision"] == "deny"), at_now)
        assert (told["decision"], told["reason"]) == (first[0]["decision"], first[0]["reason"])
        if told["decision"] == "allow":
            bounds = [left for left in (left_ms(at_now[1]), left_ms(at_latest[1])) if left is not None]
            assert left_ms(answer) == min(bounds, default=None)


class TestOrderOfSteps:
    """However the clock is set: what has closed once stays closed, and the latest instant is the greatest."""

    @given(path=st.sampled_from(PATHS), instants=st.lists(INSTANTS, min_size=1, max_size=12))
    def test_of_closes(self, path: str, instants: list[int]) -> None:
        sidecar = Sidecar()
        has_closed = False
        for number, at_ns in enumerate(instants):
            reason = sidecar.reason(path, at_ns)
            assert sidecar.seen.latest_ns == max(instants[: number + 1])
            if has_closed:
                assert reason != "allowed"
            has_closed = has_closed or (reason == "closed" and path == "/closing")


class TestTheLatestInstant:
    """It is one that a clock has shown, and never less than before."""

    @given(st.lists(st.integers(-(2**62), 2**62), min_size=1))
    def test_of_readings(self, readings: list[int]) -> None:
        cell = ClockCell()
        for number, reading in enumerate(readings):
            cell.saw(reading)
            assert cell.latest_ns == max(readings[: number + 1])
