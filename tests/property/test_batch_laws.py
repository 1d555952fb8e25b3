"""Laws of what is shipped: a batch is read as it was written, any bytes are a batch or refused, flows only add up."""

from __future__ import annotations

import json
import random
from functools import reduce
from typing import Any

import pytest
from hypothesis import given, strategies as st

from authz.decision import Reason, Shadow
from authz.instant import NS_PER_MS, NS_PER_S
from authz.records.batch import MAX_BATCH_BYTES, Batch, SidecarStatus, batch_from_json, batch_json
from authz.records.call_ends import Caller, Destination, Tls, cut_text
from authz.records.decision_record import MAX_DURATION_US, DecisionRecord, Handshake
from authz.records.errors import RecordError
from authz.records.flow import INTERVAL_S, Flow, FlowKey, flow_from_json, flow_json, merged
from authz.records.latency_histogram import LatencyHistogram, bucket_of, histogram_of
from authz.request import Direction

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["orders", "<script>alert(1)</script>", "\x1b[2J", "\x00", '"\\', "é" * 30]
)
NAMES = st.none() | TEXTS
COUNTS = st.integers(0, 2**40)
TIMES = st.integers(0, 4 * 10**12).map(lambda ms: ms * NS_PER_MS)
CALLERS = st.builds(
    Caller, identity=NAMES, service=NAMES, third_party=NAMES, presented_by=NAMES, address=st.none() | TEXTS
)
DESTINATIONS = st.builds(Destination, service=NAMES, third_party=NAMES, host=TEXTS)
SERIALS = st.none() | st.text("0123456789abcdef", max_size=40)
TLS = st.builds(Tls, version=NAMES, cipher=NAMES, peer_serial=SERIALS)
SHADOWS = st.none() | st.builds(
    lambda reason, policy: Shadow(decision=reason.verdict, reason=reason, policy=policy), st.sampled_from(Reason), NAMES
)
HISTOGRAMS = st.lists(COUNTS, max_size=40).map(histogram_of)
KEYS = st.builds(
    FlowKey,
    sidecar=TEXTS,
    direction=st.sampled_from(Direction),
    caller=CALLERS,
    destination=DESTINATIONS,
    method=TEXTS,
    route=NAMES,
    protocol=st.sampled_from(["http/1.1", "http/2", "grpc", "websocket"]),
    reason=st.sampled_from(Reason),
    policy=NAMES,
    shadow=SHADOWS,
    revision=TEXTS,
    tls=TLS,
)


def flows_of(keys: st.SearchStrategy[FlowKey], starts: st.SearchStrategy[int]) -> st.SearchStrategy[Flow]:
    return st.builds(
        Flow,
        time_ns=starts.map(lambda start: start * INTERVAL_S * NS_PER_S),
        key=keys,
        count=COUNTS,
        cut=COUNTS,
        unreached=COUNTS,
        unjoined=COUNTS,
        statuses=st.dictionaries(st.integers(100, 999), COUNTS, max_size=4).map(
            lambda each: tuple(sorted(each.items()))
        ),
        bytes_received=COUNTS,
        bytes_sent=COUNTS,
        durations=HISTOGRAMS,
        check_us_sum=COUNTS,
    )


FLOWS = flows_of(KEYS, st.integers(0, 10**9))
RECORDS = st.builds(
    DecisionRecord,
    decision_id=st.text("0123456789abcdef", min_size=32, max_size=32),
    request_id=NAMES,
    time_ns=TIMES,
    sidecar=TEXTS,
    direction=st.sampled_from(Direction),
    caller=CALLERS,
    destination=DESTINATIONS,
    method=TEXTS,
    route=NAMES,
    path=NAMES,
    protocol=st.sampled_from([None, "http/1.1", "grpc"]),
    reason=st.sampled_from(Reason),
    policy=NAMES,
    shadow=SHADOWS,
    revision=TEXTS,
    valid_until_ns=st.none() | TIMES,
    tls=TLS,
    check_us=COUNTS,
    status=st.none() | st.integers(0, 999),
    bytes_received=st.none() | COUNTS,
    bytes_sent=st.none() | COUNTS,
    duration_us=st.none() | st.integers(0, MAX_DURATION_US) | st.integers(0, 10**7),
    cut=st.booleans(),
    handshake=st.none() | st.builds(Handshake, failure=TEXTS, claimed=NAMES, count=COUNTS),
)
BATCHES = st.builds(
    Batch,
    sidecar=TEXTS,
    boot=st.text("0123456789abcdef", min_size=8, max_size=64),
    sequence=st.integers(1, 2**63 - 1),
    service=TEXTS,
    sent_ns=TIMES,
    records=st.lists(RECORDS, max_size=3).map(tuple),
    flows=st.lists(FLOWS, max_size=3).map(tuple),
    status=st.builds(
        SidecarStatus,
        revision=NAMES,
        svid_expires_ns=st.none() | TIMES,
        spooled=COUNTS,
        lost=COUNTS,
        unjoined=COUNTS,
        dropped=COUNTS,
        failed_handshakes=COUNTS,
        ready=st.booleans(),
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


class TestABatch:
    """What is written is read as the same batch."""

    @given(batch=BATCHES)
    def test_is_read_as_it_was_written(self, batch: Batch) -> None:
        written = batch_json(batch)
        assert written.isascii()
        assert b"\n" not in written
        assert batch_from_json(written) == batch


class TestForeignBytes:
    """Any bytes are a batch or a RecordError."""

    @given(document=st.binary(max_size=200))
    def test_of_any_kind(self, document: bytes) -> None:
        with pytest.raises(RecordError):
            batch_from_json(document)

    @given(batch=BATCHES, value=JSON, seed=st.integers(0, 2**32))
    def test_with_any_value_anywhere(self, batch: Batch, value: Any, seed: int) -> None:
        document = json.loads(batch_json(batch))
        _put_anywhere(document, value, random.Random(seed))  # noqa: S311 no secret
        try:
            read = batch_from_json(json.dumps(document).encode())
        except RecordError:
            return
        assert batch_from_json(batch_json(read)) == read

    @given(batch=BATCHES, seed=st.integers(0, 2**32))
    def test_without_one_of_its_fields(self, batch: Batch, seed: int) -> None:
        document = json.loads(batch_json(batch))
        at = document
        chooser = random.Random(seed)  # noqa: S311 no secret
        while True:
            name = chooser.choice(sorted(at))
            if not isinstance(at[name], dict) or name == "statuses" or chooser.random() < 0.3:
                break
            at = at[name]
        del at[name]
        with pytest.raises(RecordError):
            batch_from_json(json.dumps(document).encode())

    def test_of_more_than_the_limit_are_refused_unread(self) -> None:
        with pytest.raises(RecordError, match="at most 8388608 bytes"):
            batch_from_json(b" " * (MAX_BATCH_BYTES + 1))


def _put_anywhere(document: Any, value: Any, chooser: random.Random) -> None:
    at, names = document, sorted(document)
    while True:
        name = chooser.choice(names)
        inner = at[name]
        if isinstance(inner, (dict, list)) and inner and chooser.random() < 0.8:
            at, names = inner, sorted(inner) if isinstance(inner, dict) else range(len(inner))
            continue
        at[name] = value
        return


class TestFlows:
    """Pieces of a flow add up to the same flow, whatever their order and however they are grouped."""

    @given(data=st.data(), key=KEYS, seed=st.integers(0, 2**32))
    def test_add_up_in_any_order(self, data: st.DataObject, key: FlowKey, seed: int) -> None:
        pieces = data.draw(st.lists(flows_of(st.just(key), st.just(7)), min_size=1, max_size=5))
        mixed = list(pieces)
        random.Random(seed).shuffle(mixed)  # noqa: S311 no secret
        total = reduce(merged, pieces)
        assert reduce(merged, mixed) == total
        assert total.count == sum(piece.count for piece in pieces)
        assert total.durations.total == sum(piece.durations.total for piece in pieces)
        assert flow_from_json(json.loads(json.dumps(flow_json(total)))) == total

    @given(one=FLOWS, other=FLOWS)
    def test_of_two_keys_are_never_one(self, one: Flow, other: Flow) -> None:
        if (one.time_ns, one.key) != (other.time_ns, other.key):
            with pytest.raises(RecordError):
                merged(one, other)


class TestDurations:
    """A duration is counted in the bucket whose bounds it is within, and quantiles lie between them."""

    @given(duration_us=st.integers(1, 2**40 - 1))
    def test_lie_within_their_bucket(self, duration_us: int) -> None:
        bucket = bucket_of(duration_us)
        assert 2**bucket <= duration_us < 2 ** (bucket + 1)

    @given(durations=st.lists(st.integers(-5, 2**39), min_size=1), share=st.floats(0, 1))
    def test_have_quantiles_no_further_off_than_a_bucket(self, durations: list[int], share: float) -> None:
        counts = [0] * 40
        for duration_us in durations:
            counts[bucket_of(duration_us)] += 1
        found = histogram_of(counts).quantile_us(share)
        assert found is not None
        wanted = sorted(durations)[max(0, -(-int(share * len(durations) * 1e6) // 10**6) - 1)]
        assert found <= 2 ** (bucket_of(max(durations)) + 1)
        assert found >= (0 if bucket_of(wanted) == 0 else 2 ** bucket_of(min(durations)))

    @given(one=HISTOGRAMS, other=HISTOGRAMS)
    def test_add_up(self, one: LatencyHistogram, other: LatencyHistogram) -> None:
        assert (one + other) == (other + one)
        assert (one + other).total == one.total + other.total

    def test_a_last_zero_is_refused(self) -> None:
        with pytest.raises(RecordError):
            LatencyHistogram(counts=(1, 0))

    def test_none_have_no_quantile(self) -> None:
        assert LatencyHistogram().quantile_us(0.5) is None


class TestCutTexts:
    """What is cut can be written, and is no longer than said."""

    @given(text=st.text(max_size=40), most=st.integers(0, 40))
    def test_fit(self, text: str, most: int) -> None:
        assert len(cut_text(text, most)) <= most
        cut_text(text, most).encode()
