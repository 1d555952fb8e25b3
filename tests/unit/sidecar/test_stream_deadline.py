"""Until when a call may run, as Envoy is told."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, strategies as st

from authz.decision import Decision, Reason
from authz.proxy.access_log import CLOCKS_APART, SHORT, SOON
from authz.request import Direction
from authz.sidecar.check.question import Context, Question
from authz.sidecar.check.stream_deadline import (
    LONGEST_CHECK_NS,
    StreamDeadlines,
    callers_timeout,
    deadline_within,
    duration_text,
    timeout_ns,
    timeout_text,
)

S, MS = 1_000_000_000, 1_000_000
NOW = 1_800_000_000 * S


@pytest.mark.parametrize(
    ("left_ns", "text"),
    [
        (1999 * MS, b"00001999m"),
        (1999 * MS + 999_999, b"00001999m"),
        (1, b"00000000m"),
        (-S, b"00000000m"),
        (99_999_999 * MS, b"99999999m"),
        (100_000_000 * MS, b"00100000S"),
        (28 * 3600 * S, b"00100800S"),
        (366 * 24 * 3600 * S, b"31622400S"),
    ],
)
def test_a_timeout_has_eight_digits_and_is_rounded_down(left_ns: int, text: bytes) -> None:
    assert timeout_text(NOW + left_ns, NOW, NOW) == text


@given(left_ns=st.integers(0, 10**18))
def test_a_duration_says_what_the_timeout_says_in_cels_units(left_ns: int) -> None:
    timeout = timeout_text(NOW + left_ns, NOW, NOW)
    duration = duration_text(timeout)
    assert len(duration) == 10
    if duration.endswith(b"ms"):
        assert int(duration[:-2]) * MS == timeout_ns(timeout)
    else:  # the other sidecar may have rounded a second more
        assert int(duration[:-1]) * S == timeout_ns(timeout) - S


@given(left_ns=st.one_of(st.integers(0, 3 * S), st.integers(0, 10**18)))
def test_by_its_first_digits_envoy_knows_a_deadline_of_less_than_a_second(left_ns: int) -> None:
    timeout = timeout_text(NOW + left_ns, NOW, NOW)
    assert duration_text(timeout).decode().startswith(SOON) == (timeout_ns(timeout) < S)
    # Any other is told of by how long the call lasted.
    assert timedelta(seconds=1) - SHORT == CLOCKS_APART


INSTANTS = st.integers(0, 2**62)


class TestNeverLater:
    """A stream ends at its deadline or before, counted from when Envoy began to serve it."""

    @given(left_ns=st.integers(0, 10**18), waited_ns=st.integers(0, LONGEST_CHECK_NS))
    def test_so_it_is(self, left_ns: int, waited_ns: int) -> None:
        text = timeout_text(NOW + left_ns, NOW - waited_ns, NOW)
        assert len(text) == 9
        assert NOW - waited_ns + timeout_ns(text) <= NOW + left_ns
        # Nor much sooner: what rounding takes is less than a unit.
        unit_ns = MS if text.endswith(b"m") else S
        assert left_ns + waited_ns >= 99_999_999 * S or NOW + left_ns - (NOW - waited_ns + timeout_ns(text)) < unit_ns

    @given(ends_ns=INSTANTS, started_ns=INSTANTS, now_ns=INSTANTS)
    def test_a_beginning_that_cannot_be_true_lengthens_nothing(
        self, ends_ns: int, started_ns: int, now_ns: int
    ) -> None:
        allowed_ns = max(0, ends_ns - now_ns) + LONGEST_CHECK_NS
        assert timeout_ns(timeout_text(ends_ns, started_ns, now_ns)) <= allowed_ns


@pytest.mark.parametrize(
    ("said", "limit"),
    [
        ("1H", b"00000001H"),
        ("2M", b"00000002M"),
        ("3S", b"00000003S"),
        ("4m", b"00000004m"),
        ("5u", b"00000005u"),
        ("99999999n", b"99999999n"),
        ("100000000m", None),
        ("1x", None),
        ("m", None),
        ("-1S", None),
        ("1S,2S", None),
        ("\u0661S", None),
        ("1S\n", None),
        ("", None),
    ],
)
def test_a_callers_own_limit_is_read_as_grpc_writes_it(said: str, limit: bytes | None) -> None:
    assert callers_timeout(said) == limit


@given(st.text(max_size=12) | st.from_regex(r"[0-9]{1,9}[HMSmunx]"))
def test_any_text_is_a_limit_of_nine_bytes_or_none(said: str) -> None:
    limit = callers_timeout(said)
    assert limit is None or (len(limit) == 9 and timeout_ns(limit) >= 0)


def grpc_question(said: str | None, proof_ends_ns: int) -> Question:
    return Question(
        direction=Direction.INBOUND,
        service="catalog",
        caller=None,
        method="POST",
        path="/shop.v1.Catalog/Watch",
        host="catalog",
        context=Context(Direction.INBOUND, None, None, None),
        certificate=b"",
        request_id=None,
        protocol="grpc",
        tls_version=None,
        tls_cipher=None,
        has_authorization=False,
        timeout=said,
        started_ns=NOW,
        proof_ends_ns=proof_ends_ns,
    )


HOURS_28 = 28 * 3600 * S


@pytest.mark.parametrize(
    ("left_ns", "said", "timeout", "reason"),
    [
        (5 * S, None, b"00005000m", Reason.UNIDENTIFIED),
        (5 * S, "1H", b"00005000m", Reason.UNIDENTIFIED),
        (5 * S, "5000m", b"00005000m", Reason.UNIDENTIFIED),
        (5 * S, "00004998m", b"00004998m", Reason.UNIDENTIFIED),
        (5 * S, "4750000u", b"00004750m", Reason.UNIDENTIFIED),
        (5 * S, "4749m", b"00004749m", None),
        (5 * S, "1S", b"00000001S", None),
        (HOURS_28, "00100799S", b"00100799S", Reason.UNIDENTIFIED),
        (HOURS_28, "00100700S", b"00100700S", None),
    ],
)
def test_the_callers_sidecar_saying_the_same_deadline_is_no_limit_of_the_caller(
    left_ns: int, said: str | None, timeout: bytes, reason: Reason | None
) -> None:
    allowed = Decision(reason=Reason.ALLOWED, policy="p", revision="r")
    bound = StreamDeadlines().bound(allowed, grpc_question(said, NOW + left_ns), None, NOW, None)
    assert deadline_within(bound, NOW, NOW) == (timeout, reason)
