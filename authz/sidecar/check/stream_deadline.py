"""Until when an allowed call may run, as Envoy is told: a `grpc-timeout` that counts from the beginning of the stream.

Envoy's route obeys that header whatever the protocol (`max_stream_duration`), and ends what still runs then: chunked
answers, uploads, server-sent events, WebSockets and gRPC streams, idle or active. What a call is bounded by is the end
of its permission, or of the proof of who calls, whichever comes first.

# INVARIANT (never later): the header says whole milliseconds or seconds, rounded down, and always has eight digits: to
# Envoy a longer or malformed value is no limit at all.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md (Timeout)
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from authz.decision import Reason
from authz.instant import NS_PER_S
from authz.policy.evaluation import evaluate
from authz.policy.window import HORIZON_NS
from authz.request import Direction

if TYPE_CHECKING:
    from authz.decision import Decision
    from authz.policy.index import PolicyIndex
    from authz.policy.tightening import Tightening
    from authz.sidecar.check.question import Question

#: how long the text of a timeout is, always
TIMEOUT_BYTES: Final = 9
#: A check may be late, and be asked again, but not by so much: a beginning further back than this is no beginning.
LONGEST_CHECK_NS: Final = 5 * NS_PER_S

#: Both sidecars of a gRPC call bound it, and the callee's sees what the caller's has written; their clocks, and what
#: they round, are so far apart at most (authz.proxy.access_log.CLOCKS_APART).
SAME_DEADLINE_NS: Final = 250_000_000

_INBOUND: Final = Direction.INBOUND
_MOST_REMEMBERED: Final = 4096
_LONGEST_REMEMBERED_PATH: Final = 256
_NS_PER_MS: Final = 1_000_000
_MOST: Final = 99_999_999
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNIT_NS: Final = {
    b"H": 3600 * NS_PER_S,
    b"M": 60 * NS_PER_S,
    b"S": NS_PER_S,
    b"m": _NS_PER_MS,
    b"u": 1000,
    b"n": 1,
}


class StreamDeadline(NamedTuple):
    """What Envoy is told: `timeout` for the header, and the reason that a new call would get when it is over.

    `reason` is None where the time is the caller's own limit, which is no refusal.
    """

    timeout: bytes
    reason: Reason | None


class Bound(NamedTuple):
    """What bounds an allowed call: an instant, and why a new call is refused from then on; and its caller's own limit.

    `ends_ns` and `reason` are None where nothing ends it, `own` is None where the caller says nothing of its own.
    """

    ends_ns: int | None
    reason: Reason | None
    own: bytes | None


class StreamDeadlines:
    """Finds what bounds allowed calls; remembers, bounded, why calls will be refused. For one thread."""

    __slots__ = ("_index", "_reasons")

    def __init__(self) -> None:
        self._index: PolicyIndex | None = None
        self._reasons: dict[tuple[str | None, str, str, str, bool, int], Reason] = {}

    def bound(  # noqa: PLR0917 names would cost more than the values, for every call
        self,
        decision: Decision,
        question: Question,
        caller: str | None,
        now_ns: int,
        index: PolicyIndex | None,
        tightening: Tightening | None = None,
    ) -> Bound | None:
        """Give until when a call that `index`, without what is taken away, allows may run; None where nothing ends it.

        `caller` is the text of the question's caller.
        """
        ends_ns = decision.valid_until_ns
        proof_ends_ns = question.proof_ends_ns
        reason: Reason | None = None
        if proof_ends_ns is not None and (
            proof_ends_ns < ends_ns if ends_ns is not None else proof_ends_ns - now_ns < HORIZON_NS
        ):
            ends_ns, reason = proof_ends_ns, Reason.UNIDENTIFIED
        # Envoy has taken the caller's own limit away: one that is not gRPC's says nothing.
        own = None
        if question.timeout is not None and question.protocol == "grpc":
            own = callers_timeout(question.timeout)
        if ends_ns is None:
            return None if own is None else Bound(None, None, own)
        if reason is None:
            if tightening is not None and index is not None:
                reason = _refused(evaluate(index, question, ends_ns, tightening).reason)
            else:
                reason = self._reason_at(ends_ns, question, caller, index)
        return Bound(ends_ns, reason, own)

    def _reason_at(self, ends_ns: int, question: Question, caller: str | None, index: PolicyIndex | None) -> Reason:
        """Give the reason for which the same call is refused at the end of its permission."""
        if index is None:
            return Reason.INTERNAL_ERROR
        if index is not self._index:
            self._index = index
            self._reasons.clear()
        # Conditions look at all of a call, and so does who presents a token: then nothing is remembered.
        if index.has_conditions or question.presenter is not None or len(question.path) > _LONGEST_REMEMBERED_PATH:
            return _refused(evaluate(index, question, ends_ns).reason)
        inbound = question.direction is _INBOUND
        key = (caller or question.third_party, question.method, question.path, question.host, inbound, ends_ns)
        reason = self._reasons.get(key)
        if reason is None:
            reason = _refused(evaluate(index, question, ends_ns).reason)
            if len(self._reasons) >= _MOST_REMEMBERED:
                self._reasons.clear()
            self._reasons[key] = reason
        return reason


def sooner(bound: Bound | None, later: Bound | None, ahead_ns: int) -> Bound | None:
    """Give what ends a call first, of what bounds it now and of what bounds it at an instant that is so much later.

    # INVARIANT (never later): whichever of the two instants is the right one, the call has ended by the close.
    """
    if later is None or later.ends_ns is None:
        return bound
    ends_ns = later.ends_ns - ahead_ns
    if bound is None:
        return Bound(ends_ns, later.reason, later.own)
    # What ends it later than now knows why.
    if bound.ends_ns is not None and bound.ends_ns < ends_ns:
        return bound
    return Bound(ends_ns, later.reason, bound.own)


def deadline_within(bound: Bound | None, started_ns: int, now_ns: int) -> StreamDeadline | None:
    """Give what Envoy is told of a call that began at `started_ns`."""
    if bound is None:
        return None
    ends_ns, reason, own = bound
    if ends_ns is None:
        return None if own is None else StreamDeadline(own, None)
    timeout = timeout_text(ends_ns, started_ns, now_ns)
    if own is not None:
        own_ns, ours_ns = timeout_ns(own), timeout_ns(timeout)
        if own_ns < ours_ns - SAME_DEADLINE_NS - (NS_PER_S if timeout.endswith(b"S") else 0):
            return StreamDeadline(own, None)
        # The caller's sidecar has said the same deadline in its own words: it is no limit of the caller's.
        if own_ns < ours_ns:
            timeout = _text(own_ns)
    return StreamDeadline(timeout, reason)


def _refused(reason: Reason) -> Reason:
    # The engine's own law is that the verdict changes at `valid_until`; a cut call is never told that it is allowed.
    return Reason.CLOSED if reason.allows else reason


def timeout_text(ends_ns: int, started_ns: int, now_ns: int) -> bytes:
    """Give the header's value for a stream that began at `started_ns` and is to end at `ends_ns` at the latest.

    All are nanoseconds since the epoch. A beginning that cannot be true is taken for the instant of the check, which
    can only end a stream sooner.
    """
    if not now_ns - LONGEST_CHECK_NS <= started_ns <= now_ns:
        started_ns = now_ns
    return _text(max(0, ends_ns - started_ns))


def _text(left_ns: int) -> bytes:
    milliseconds = left_ns // _NS_PER_MS
    if milliseconds <= _MOST:
        return b"%08dm" % milliseconds
    return b"%08dS" % min(left_ns // NS_PER_S, _MOST)


def duration_text(timeout: bytes) -> bytes:
    """Give what a text of :func:`timeout_text` says as CEL writes a duration, always of the same length.

    Of one in whole seconds it gives one less: so much sooner the other sidecar of the call may have rounded it.
    """
    # CEL's `m` are minutes.
    return timeout + b"s" if timeout.endswith(b"m") else b"%09ds" % max(0, int(timeout[:-1]) - 1)


def callers_timeout(said: str) -> bytes | None:
    """Give a gRPC caller's own limit as Envoy is to obey it; None where it is none."""
    match = _TIMEOUT.fullmatch(said)
    return None if match is None else b"%08d" % int(match[1]) + match[2].encode()


def timeout_ns(text: bytes) -> int:
    """Give what a text of :func:`timeout_text` says, in nanoseconds."""
    return int(text[:-1]) * _UNIT_NS[text[-1:]]
