"""Laws of records: however a decision is handed over, it is written down as the same line."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, strategies as st

from authz.decision import Decision, Reason, Shadow
from authz.identity.spiffe_id import SpiffeId
from authz.records.errors import RecordError
from authz.records.record_lines import RecordLines
from authz.request import Call, Direction
from tests.support.decision_record import DecisionRecord, WireFacts, packed, unpack_decision

TEXTS = st.text(max_size=12) | st.text(alphabet='\x00\n"\\é?/\U0001f600', max_size=400)
NAMES = st.none() | st.sampled_from(["orders", "catalog"]) | TEXTS
TIMES = st.integers(-(10**20), 4 * 10**20) | st.integers(10**18, 10**18 + 10**10)
RECORDS = st.builds(
    DecisionRecord,
    decision_id=st.text(alphabet="0123456789abcdef", min_size=32, max_size=32),
    time_ns=TIMES,
    sidecar=TEXTS,
    call=st.builds(
        Call,
        direction=st.sampled_from(Direction),
        service=TEXTS,
        caller=st.none() | st.just(SpiffeId.parse("spiffe://shop.example/orders")),
        method=TEXTS,
        path=TEXTS,
        host=TEXTS,
        address=TEXTS,
        presenter=st.none() | st.just(SpiffeId.parse("spiffe://shop.example/gateway")),
    ),
    decision=st.builds(
        Decision,
        reason=st.sampled_from(Reason),
        policy=NAMES,
        revision=TEXTS,
        valid_until_ns=st.none() | TIMES,
        shadow=st.none()
        | st.builds(lambda reason, policy: Shadow(decision=reason.verdict, reason=reason, policy=policy),
                    st.sampled_from(Reason), NAMES),
        caller_service=NAMES,
        caller_third_party=NAMES,
        destination_service=NAMES,
        destination_third_party=NAMES,
        route=NAMES,
    ),
    wire=st.builds(WireFacts, request_id=NAMES, protocol=TEXTS, tls_version=NAMES, tls_cipher=NAMES, peer_serial=NAMES),
    check_us=st.integers(0, 10**6),
)  # fmt: skip


class TestOneLine:
    """Packed and written at once, packed and unpacked, or never packed: the line is the same."""

    @given(records=st.lists(RECORDS, max_size=4), sidecar=TEXTS)
    def test_by_every_way(self, records: list[DecisionRecord], sidecar: str) -> None:
        lines = RecordLines(sidecar)
        for record in records:
            line = replace(record, sidecar=sidecar).json_line()
            assert lines.line(packed(record)) == line
            assert unpack_decision(packed(record), sidecar).json_line() == line


class TestForeignBytes:
    """What is no record is a RecordError and nothing else, as far as marshal itself reads it."""

    @given(record=RECORDS, cut=st.integers(0, 400))
    def test_cut_records(self, record: DecisionRecord, cut: int) -> None:
        piece = packed(record)[:cut]
        if piece == packed(record):
            return
        for read in (RecordLines("s").line, lambda given: unpack_decision(given, "s")):
            try:
                read(piece)
            except RecordError:
                continue
            raise AssertionError(piece)
