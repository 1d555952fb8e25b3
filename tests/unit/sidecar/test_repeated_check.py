"""A check that is asked again gets what it would get from somebody who has never seen it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import permutations
from typing import TYPE_CHECKING, Any

import pytest
from envoy.service.auth.v3 import external_auth_pb2
from hypothesis import given, settings, strategies as st

from authz.identity.spiffe_id import SpiffeId
from authz.identity.verification import VerifiedIdentity
from authz.policy.index import compile_index
from authz.policy.tightening import tightening_of
from authz.policy.window import HORIZON_NS
from authz.records.record_lines import RecordLines
from authz.sidecar.check.check_clock import CheckClock
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.check.question import MAX_MESSAGE_BYTES
from authz.sidecar.check.repeated_check import MOST_SETTLED, MOST_SETTLED_BYTES
from authz.sidecar.clock_cell import ClockCell
from authz.sidecar.control.own_identity import ServiceIdentity
from authz.sidecar.in_force import InForce, PolicyInForce
from authz.sidecar.tightening_page import Tightened
from tests.support.certificates import NOW_NS, SPIFFE_ID, leaf, pem
from tests.support.check_request import check_request
from tests.support.policy_sets import document, parsed, service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from authz.policy.policy_set import PolicySet

SECOND_NS = 10**9
CLOSES = "2026-06-01T12:10:00Z"
CLOSES_NS = NOW_NS + 600 * SECOND_NS
EARLIER = "2026-06-01T12:05:00Z"
ENDS_NS = NOW_NS + 3600 * SECOND_NS
CLOSES_IN_2028_NS = int(datetime(2028, 6, 1, 12, tzinfo=UTC).timestamp()) * SECOND_NS
OTHER_ID = "spiffe://shop.example/ns/shop/sa/other"
ASKED = "a" * 36


def rule(name: str, path: str, more: str = "") -> str:
    operations = f"[{{methods: [GET], paths: ['{path}']}}]"
    return document(
        "MicroPolicy",
        name,
        f"{{from: [{{services: [orders]}}], to: [{{services: [catalog], operations: {operations}}}]{more}}}",
    )


BASE = (
    document("Mesh", "m", "{trustDomains: [shop.example]}"),
    service("orders", SPIFFE_ID),
    service("other", OTHER_ID),
    service("catalog"),
    service("stock"),
)
SET_TEXTS = (
    *BASE,
    rule("items", "/items/{id}", f", window: {{opens: 2026-01-01T00:00:00Z, closes: {CLOSES}}}"),
    rule("two-a", "/two", f", window: {{opens: 2026-01-01T00:00:00Z, closes: {EARLIER}}}"),
    rule("two-b", "/two", f", window: {{opens: 2026-01-01T00:00:00Z, closes: {CLOSES}}}"),
    rule("when", "/when", f""", when: ["request.headers['x-request-id'] == '{ASKED}'"]"""),
    rule("always", "/always"),
    document("MicroPolicy", "out", "{from: [{services: [catalog]}], to: [{services: [stock], operations: all}]}"),
)
SET = parsed(*SET_TEXTS)
OWN = VerifiedIdentity(
    spiffe_id=SpiffeId.parse("spiffe://shop.example/catalog"), serial="1", not_before_ns=0, not_after_ns=ENDS_NS
)
CERTIFICATE = pem(leaf())


def request_id(number: int) -> bytes:
    return b"0b5c7d1e-0000-4000-8000-%012x" % number


def check(
    path: str = "/items/42",
    *,
    number: int = 0,
    headers: tuple[tuple[str, bytes], ...] = (),
    behind: tuple[tuple[str, bytes], ...] = (),
    **other: Any,
) -> bytes:
    other.setdefault("certificate_pem", CERTIFICATE)
    request = check_request(path=path, headers=(*headers, ("x-request-id", request_id(number)), *behind), **other)
    request.attributes.request.time.seconds = number
    request.attributes.request.http.id = str(number)
    return request.SerializeToString()


@dataclass(slots=True, kw_only=True)
class Sidecar:
    """A checker of `catalog`'s sidecar, and what it hands over."""

    policies: PolicySet = SET
    strict: bool = False
    now_ns: int = NOW_NS
    own: VerifiedIdentity | None = OWN
    takes: bool = True
    seen: ClockCell = field(default_factory=ClockCell)
    tightened: Tightened | None = None
    records: list[bytes] = field(default_factory=list)
    in_force: InForce = field(default_factory=InForce)
    checker: Checker = field(init=False)

    def __post_init__(self) -> None:
        self.put_in_force(self.policies)
        self.checker = Checker(
            workload=Workload(service="catalog", identity=lambda: self.own),
            in_force=self.in_force,
            record=self._record,
            strict=self.strict,
            clock=CheckClock(now_ns=lambda: self.now_ns, latest=self.seen.words[:1]),
            tightened=lambda: self.tightened,
        )

    def put_in_force(self, policies: PolicySet) -> None:
        self.policies = policies
        self.in_force.policy = PolicyInForce(index=compile_index(policies))

    def _record(self, packed: bytes) -> bool:
        if self.takes:
            self.records.append(packed)
        return self.takes

    def told(self, message: bytes) -> tuple[dict[str, Any], str]:
        """Give the record and the answer, with one id for all of them."""
        self.records.clear()
        answer = self.checker.answer(message)
        (packed,) = self.records
        record = json.loads(RecordLines("catalog").line(packed))
        decision_id = record.pop("decision_id")
        assert decision_id.encode() in answer
        del record["check_us"]
        response = external_auth_pb2.CheckResponse.FromString(answer.replace(decision_id.encode(), b"i" * 32))
        return record, str(response)

    def reason(self, message: bytes) -> str:
        """Give the reason that the caller is told, and the log."""
        record, answer = self.told(message)
        reason: str = record["reason"]
        assert reason in answer
        return reason

    @property
    def settled(self) -> int:
        return len(self.checker._repeats.settled)


def test_what_is_asked_again_is_settled_and_each_record_has_its_own_request() -> None:
    sidecar = Sidecar()
    told = []
    for number in range(5):
        sidecar.now_ns = NOW_NS + number * SECOND_NS
        told.append(sidecar.told(check(number=number)))
        assert sidecar.settled == (number > 0)
    assert [record["request_id"] for record, _ in told] == [request_id(number).decode() for number in range(5)]
    assert [record["time"] for record, _ in told] == [f"2026-06-01T12:00:0{number}.000Z" for number in range(5)]
    same = [{**record, "request_id": None, "time": None} for record, _ in told]
    assert all(record == same[0] for record in same)
    # Envoy has not said when it began: what is left is counted from each check.
    left = [int(re.findall(r"([0-9]{8})m", str(answer))[0]) for _, answer in told]
    assert left == [left[0] - 1000 * number for number in range(5)]
    assert len({re.sub(r"[0-9]{8}m", "", str(answer)) for _, answer in told}) == 1


def test_outbound_calls_are_settled_too() -> None:
    sidecar = Sidecar()
    for number in range(3):
        message = check("/x", number=number, direction="outbound", host="stock", certificate_pem=b"")
        assert sidecar.reason(message) == "allowed"
    assert sidecar.settled == 1


def test_checks_are_settled_where_the_own_identity_is_that_of_the_set() -> None:
    sidecar = Sidecar()
    from_the_set = ServiceIdentity(service="catalog", in_force=sidecar.in_force)
    checker = Checker(
        workload=Workload(service="catalog", identity=from_the_set),
        in_force=sidecar.in_force,
        record=lambda _: True,
        clock=lambda: NOW_NS,
    )
    for number in range(3):
        checker.answer(check(number=number))
    (kept,) = checker._repeats.settled.values()
    assert kept.own is from_the_set()
    sidecar.put_in_force(parsed(BASE[0], service("catalog", OTHER_ID)))
    assert str((from_the_set() or OWN).spiffe_id) == OTHER_ID
    sidecar.put_in_force(parsed(BASE[0]))
    assert from_the_set() is None


def test_a_settled_answer_ends_with_the_window_the_certificate_and_the_set() -> None:
    sidecar = Sidecar()
    for number in range(3):
        assert sidecar.reason(check(number=number)) == "allowed"
        assert sidecar.reason(check("/always", number=number)) == "allowed"
    assert sidecar.settled == 2
    sidecar.now_ns = CLOSES_NS - 1
    assert sidecar.reason(check()) == "allowed"
    sidecar.now_ns = CLOSES_NS
    assert sidecar.reason(check()) == "closed"
    assert sidecar.reason(check("/always")) == "allowed"
    sidecar.now_ns = ENDS_NS
    assert sidecar.reason(check("/always")) == "allowed"
    sidecar.now_ns = ENDS_NS + 1
    assert sidecar.reason(check("/always")) == "unidentified"
    sidecar.now_ns = NOW_NS - 3600 * SECOND_NS
    assert sidecar.reason(check("/always")) == "unidentified"
    sidecar.now_ns = NOW_NS
    assert sidecar.reason(check("/always")) == "unidentified"  # it had expired once
    sidecar.seen.words[0] = NOW_NS
    assert sidecar.reason(check("/always")) == "allowed"
    sidecar.put_in_force(parsed(*BASE))
    assert sidecar.reason(check("/always")) == "no_policy"


def test_a_settled_answer_ends_with_what_an_edit_takes_away_and_comes_back_with_it() -> None:
    sidecar = Sidecar()
    messages = [check("/always", number=number) for number in range(4)]
    assert {sidecar.reason(message) for message in messages} == {"allowed"}
    after = parsed(*[text for text in SET_TEXTS if "always" not in text])
    sidecar.tightened = Tightened(SET.revision, tightening_of(SET, after))
    record, _ = sidecar.told(messages[0])
    assert (record["reason"], record["revision"]) == ("no_policy", after.revision)
    assert sidecar.reason(check(number=9)) == "allowed"
    sidecar.tightened = None
    assert sidecar.reason(messages[0]) == "allowed"
    sidecar.tightened = Tightened(after.revision, tightening_of(after, parsed(*BASE)))
    assert sidecar.reason(messages[0]) == "allowed", "what is said of another revision is not said of this one"


def test_a_settled_answer_ends_with_the_own_identity() -> None:
    sidecar = Sidecar()
    out = [check("/x", number=number, direction="outbound", host="stock", certificate_pem=b"") for number in range(3)]
    into = [check(number=number, extensions={"workload": OWN.text}) for number in range(3)]
    assert {sidecar.reason(message) for message in out + into} == {"allowed"}
    sidecar.own = replace(OWN, spiffe_id=SpiffeId.parse("spiffe://shop.example/stock"))
    assert [sidecar.reason(out[0]), sidecar.reason(into[0])] == ["no_policy", "internal_error"]
    sidecar.own = None
    assert [sidecar.reason(out[0]), sidecar.reason(into[0])] == ["unidentified", "internal_error"]


@pytest.mark.parametrize(
    "message",
    [
        lambda number: check("/two", number=number),
        lambda number: check("/when", number=number),
        lambda number: check("/nowhere", number=number),
        lambda number: check(number=number, headers=(("authorization", b"Bearer abc"),)),
        lambda number: check(number=number, headers=(("x-request-id", request_id(0)),)),
        lambda number: check(number=number, behind=(("x-request-id", b"mine"),)),
    ],
    ids=["two rules", "a condition", "a deny", "a token", "two ids", "an id behind"],
)
def test_what_else_has_a_say_is_asked_about_every_time(message: Callable[[int], bytes]) -> None:
    sidecar = Sidecar()
    for number in range(5):
        sidecar.told(message(number))
        assert sidecar.settled == 0


def as_http_2(request: external_auth_pb2.CheckRequest) -> None:
    request.attributes.request.http.protocol = "HTTP/2"


def by_another_port(request: external_auth_pb2.CheckRequest) -> None:
    request.attributes.source.address.socket_address.port_value += 1


def with_a_joined_header(request: external_auth_pb2.CheckRequest) -> None:
    request.attributes.request.http.headers["content-type"] = "application/grpc"


def without_pseudo_headers(request: external_auth_pb2.CheckRequest) -> None:
    headers = request.attributes.request.http.header_map.headers
    while headers[0].key.startswith(":"):
        del headers[0]
    request.attributes.request.http.path = "/items/42"


def to_another_path(request: external_auth_pb2.CheckRequest) -> None:
    without_pseudo_headers(request)
    request.attributes.request.http.path = "/nowhere"


def with_another_map(request: external_auth_pb2.CheckRequest) -> bytes:
    more = external_auth_pb2.CheckRequest()
    header = more.attributes.request.http.header_map.headers.add()
    header.key, header.raw_value = "content-type", b"application/grpc"
    return request.SerializeToString() + more.SerializeToString()


def by_another_caller(request: external_auth_pb2.CheckRequest) -> bytes:
    more = external_auth_pb2.CheckRequest()
    more.attributes.source.certificate = "nobody"
    return request.SerializeToString() + more.SerializeToString()


CHANGES = [
    as_http_2,
    by_another_port,
    with_a_joined_header,
    without_pseudo_headers,
    to_another_path,
    with_another_map,
    by_another_caller,
]


@pytest.mark.parametrize("first", [None, *CHANGES])
def test_what_differs_in_anything_that_is_read_is_another_check(first: Callable[..., bytes | None] | None) -> None:
    sidecar = Sidecar()
    for change in (first, *CHANGES):
        for number in range(3):
            request = external_auth_pb2.CheckRequest.FromString(check(number=number))
            message = None if change is None else change(request)
            message = request.SerializeToString() if message is None else message
            assert sidecar.told(message) == Sidecar().told(message)


def in_this_order(entries: Iterable[tuple[str, str]]) -> bytes:
    """Give a check with these entries of context_extensions, as they stand."""
    message = check(direction=None)
    for name, value in entries:
        more = external_auth_pb2.CheckRequest()
        more.attributes.context_extensions[name] = value
        message += more.SerializeToString()
    return message


def test_the_order_of_context_extensions_says_nothing() -> None:
    sidecar = Sidecar()
    entries = [("direction", "inbound"), ("service", "catalog"), ("workload", OWN.text), ("destination", "catalog")]
    for order in permutations(entries):
        assert sidecar.reason(in_this_order(order)) == "allowed"
    assert sidecar.settled == 1


def test_where_two_entries_name_the_same_the_last_one_counts() -> None:
    sidecar = Sidecar()
    entries = [("direction", "inbound"), ("service", "other"), ("service", "catalog")]
    for _ in range(3):
        assert sidecar.reason(in_this_order(entries)) == "allowed"
    assert sidecar.reason(in_this_order(reversed(entries))) == "internal_error"


def test_a_condition_on_the_request_id_sees_each_of_them() -> None:
    sidecar = Sidecar()
    ids = [ASKED.encode()] * 4 + [request_id(1)] * 2 + [ASKED.encode()]
    messages = [check("/when").replace(request_id(0), each) for each in ids]
    assert [sidecar.reason(each) for each in messages] == ["allowed"] * 4 + ["no_policy"] * 2 + ["allowed"]


def test_an_end_that_comes_within_a_year_is_told_from_then_on() -> None:
    closes = "2028-06-01T12:00:00Z"
    sidecar = Sidecar(policies=parsed(*BASE, rule("r", "/r", f", window: {{closes: {closes}}}")))
    ends = datetime(2027, 8, 1, tzinfo=UTC)
    message = check("/r", certificate_pem=pem(leaf(not_after=ends)))
    told = []
    within_ns = CLOSES_IN_2028_NS - HORIZON_NS
    for at_ns in (NOW_NS, NOW_NS + 1, NOW_NS + 2, within_ns - 1, within_ns):
        sidecar.now_ns = at_ns
        told.append(sidecar.told(message)[0]["valid_until"])
    assert told == [None] * 4 + ["2028-06-01T12:00:00.000Z"]
    assert sidecar.settled == 1


def test_a_rule_that_closes_behind_another_is_seen() -> None:
    sidecar = Sidecar()
    policies = []
    for second in (0, 1, 299, 300, 301):
        sidecar.now_ns = NOW_NS + second * SECOND_NS
        policies.append(sidecar.told(check("/two"))[0]["policy"])
    assert policies == [Sidecar(now_ns=NOW_NS).told(check("/two"))[0]["policy"]] * 3 + ["two-b"] * 2


def test_nobody_puts_his_own_bytes_where_the_request_id_is_left_out() -> None:
    stands = b"\x0a\x34\x0a\x0cx-request-id\x1a\x24"
    for own in (b"~" * 36, b"!" * 36, request_id(1)):
        sidecar = Sidecar()
        for secret in (b"a", b"b", b"c"):
            request = check_request(
                path="/items/1",
                certificate_pem=CERTIFICATE,
                headers=(("content-type", stands + secret * 36), ("x-request-id", own)),
            )
            sidecar.told(request.SerializeToString())
        assert sidecar.settled == 0


def test_a_check_that_is_too_long_is_none_whatever_was_asked_before() -> None:
    sidecar = Sidecar()
    for number in range(3):
        sidecar.told(check(number=number))
    assert sidecar.settled == 1
    request = external_auth_pb2.CheckRequest.FromString(check())
    request.attributes.request.http.body = "x" * MAX_MESSAGE_BYTES
    assert sidecar.reason(request.SerializeToString()) == "internal_error"


def test_strict_denies_a_settled_answer_that_cannot_be_recorded() -> None:
    sidecar = Sidecar(strict=True)
    for number in range(3):
        assert sidecar.reason(check(number=number)) == "allowed"
    sidecar.takes = False
    response = external_auth_pb2.CheckResponse.FromString(sidecar.checker.answer(check()))
    assert (response.status.code, response.denied_response.status.code) == (14, 503)
    assert response.dynamic_metadata["reason"] == "overloaded"
    sidecar.takes = True
    assert sidecar.reason(check()) == "allowed"


def test_what_is_kept_is_bounded() -> None:
    sidecar = Sidecar()
    repeats = sidecar.checker._repeats
    most = 0
    for number in range(2 * MOST_SETTLED):
        for _ in range(3):
            sidecar.checker.answer(check(f"/items/{number}", headers=(("a", b"x" * 1500),)))
        most = max(most, len(repeats.settled))
        assert sum(len(each) for key in repeats.settled for each in (key[0], *key[1], *key[2:])) <= MOST_SETTLED_BYTES
    assert 1 < most <= MOST_SETTLED


def test_where_nothing_is_asked_again_it_rests_and_begins_anew_later() -> None:
    sidecar = Sidecar()
    for number in range(1100):
        sidecar.checker.answer(check(f"/items/{number}"))
    for _ in range(5):
        sidecar.checker.answer(check())
    assert sidecar.settled == 0
    for _ in range(32 * 1024):
        sidecar.checker.answer(b"")
    for _ in range(5):
        sidecar.checker.answer(check())
    assert sidecar.settled == 1


MESSAGES = st.builds(
    check,
    path=st.sampled_from(["/items/42", "/items/43", "/two", "/when", "/always", "/no", "/items//"]),
    number=st.integers(0, 3),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["content-type", "accept", "x-authz-tls-version", "authorization", "x-request-id"]),
            st.sampled_from([b"application/grpc", b"TLSv1.3", b"", ASKED.encode()]),
        ),
        max_size=2,
    ).map(tuple),
    direction=st.sampled_from(["inbound", "inbound", "outbound"]),
    host=st.sampled_from(["catalog", "stock"]),
    method=st.sampled_from(["GET", "GET", "POST"]),
    extensions=st.sampled_from([{}, {"service": "catalog"}, {"service": "x"}, {"destination": "stock"}]),
    certificate_pem=st.sampled_from([CERTIFICATE, CERTIFICATE, b""]),
    protocol=st.sampled_from(["HTTP/1.1", "HTTP/2"]),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    message = bytearray(draw(MESSAGES))
    for _ in range(draw(st.integers(0, 2))):
        message[draw(st.integers(0, len(message) - 1))] = draw(st.integers(0, 255))
    return bytes(message)


class TestAgreement:
    """Whoever has seen a thousand checks says of the next what a newcomer says."""

    OLD = Sidecar()

    @settings(max_examples=200)
    @given(
        messages=st.lists(st.one_of(MESSAGES, damaged()), min_size=1, max_size=4),
        order=st.lists(st.integers(0, 3), min_size=4, max_size=12),
        at_ns=st.lists(
            st.sampled_from([NOW_NS, CLOSES_NS - 1, CLOSES_NS, ENDS_NS, ENDS_NS + 1]), min_size=1, max_size=2
        ),
        seen_ns=st.sampled_from([0, NOW_NS + 1, CLOSES_NS - 1, CLOSES_NS, ENDS_NS + 1]),
    )
    def test_of_answers_and_records(
        self, messages: list[bytes], order: list[int], at_ns: list[int], seen_ns: int
    ) -> None:
        self.OLD.seen.words[0] = seen_ns
        for number, place in enumerate(order):
            message = messages[place % len(messages)]
            self.OLD.now_ns = at_ns[number * len(at_ns) // len(order)]
            newcomer = Sidecar(now_ns=self.OLD.now_ns, seen=self.OLD.seen)
            newcomer.in_force.policy = self.OLD.in_force.policy
            assert self.OLD.told(message) == newcomer.told(message)
