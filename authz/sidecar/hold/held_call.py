"""The calls that are held, by the ids of their decisions: from a worker's notice to the end of the call.

A call is known before it comes: its worker has told of it before the answer left. One that nobody comes for (the caller
has gone, or another worker has answered in the meantime) is forgotten after `UNCLAIMED_S`.

# INVARIANT (refused stays refused): what was refused once is not taken back, whatever is said of the call later.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authz.decision import Reason
    from authz.sidecar.hold.notice import Notice
    from authz.sidecar.hold.verdict import Verdict

#: Envoy opens the stream of a held call within milliseconds, and waits a second for the answer.
UNCLAIMED_S: Final = 10.0
#: the most calls that are known at once: more than Envoy opens streams for (authz.proxy.hold_filter.MAX_HELD), with
#: those that nobody has come for
MOST_CALLS: Final = 40_000
#: The most that their checks have together. One has some 4 KiB (a certificate, the headers), and 60 KiB where a caller
#: sends what Envoy takes at most; what is beyond is refused when it comes.
MOST_MESSAGE_BYTES: Final = 256 * 1024 * 1024
#: A sidecar follows an edit so much later than another one at most, where both do.
ENDED_S: Final = 3.0
MOST_ENDED: Final = 10_000


class HeldCall:
    """One call: what was asked about it, and whether it is refused by now."""

    __slots__ = ("_cut", "decision_id", "ended_s", "ends_ns", "message", "new_end", "noticed_s", "refusal")

    def __init__(self, notice: Notice, now_s: float) -> None:
        self.decision_id = notice.decision_id
        self.message = notice.message
        #: until when Envoy lets it run, whatever is said later
        self.ends_ns = notice.ends_ns
        #: when it is to end sooner than that, and why
        self.new_end: tuple[int, Reason] | None = None
        self.refusal: Reason | None = None
        self.noticed_s = now_s
        self.ended_s: float | None = None
        self._cut: Callable[[Reason], None] | None = None

    @property
    def is_claimed(self) -> bool:
        """Whether Envoy has come for it."""
        return self._cut is not None

    def claim(self, cut: Callable[[Reason], None]) -> None:
        """Take in that Envoy has come for it, and how it is cut; one that is refused by now is cut at once."""
        self._cut = cut
        if self.refusal is not None:
            cut(self.refusal)

    def judge(self, verdict: Verdict) -> None:
        """Take in what the call would get now: it ends with its grant, or when its grant ends sooner than it did."""
        if not verdict.reason.allows:
            self.refuse(verdict.reason)
            return
        self.new_end = None
        if verdict.ends_ns is None or verdict.then is None:
            return
        # A later end lengthens nothing: Envoy has the one that it began with.
        if self.ends_ns is None or verdict.ends_ns < self.ends_ns:
            self.new_end = verdict.ends_ns, verdict.then

    def refuse(self, reason: Reason) -> None:
        """End the call for this reason, unless it is ended already."""
        if self.refusal is None:
            self.refusal = reason
            if self._cut is not None:
                self._cut(reason)


class HeldCalls:
    """All calls that are known; for one thread."""

    def __init__(self) -> None:
        self._calls: dict[bytes, HeldCall] = {}
        self._bytes = 0
        #: calls that have ended a moment ago, in the order in which they did
        self._ended: deque[HeldCall] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[HeldCall]:
        """Give all calls, those first that run, and at last those that ended a moment ago."""
        calls = tuple(self._calls.values())
        yield from (call for call in calls if call.is_claimed)
        yield from (call for call in calls if not call.is_claimed)
        yield from tuple(self._ended)

    def add(self, notice: Notice, now_s: float) -> HeldCall | None:
        """Know of a call; None where there are too many, and then it is refused when it comes."""
        size = len(notice.message)
        if len(self._calls) >= MOST_CALLS or self._bytes + size > MOST_MESSAGE_BYTES:
            return None
        self._bytes += size
        call = self._calls[notice.decision_id] = HeldCall(notice, now_s)
        return call

    def claim(self, decision_id: bytes, cut: Callable[[Reason], None]) -> HeldCall | None:
        """Give the call that Envoy has come for; None where no such call is known, or another one has come for it."""
        call = self._calls.get(decision_id)
        if call is None or call.is_claimed:
            return None
        call.claim(cut)
        return call

    def end(self, call: HeldCall, now_s: float) -> None:
        """Take in that a call has ended; it is asked about for a while yet, as the other sidecar may have cut it."""
        if self._calls.pop(call.decision_id, None) is None:
            return
        if call.refusal is not None:
            self._bytes -= len(call.message)
            return
        call.ended_s = now_s
        self._ended.append(call)
        if len(self._ended) > MOST_ENDED:
            self._bytes -= len(self._ended.popleft().message)

    def forget(self, now_s: float) -> None:
        """Forget the calls that have ended, and those that nobody has come for."""
        while self._ended and now_s - (self._ended[0].ended_s or 0.0) > ENDED_S:
            self._bytes -= len(self._ended.popleft().message)
        for call in tuple(self._calls.values()):
            if call.is_claimed:
                continue
            if now_s - call.noticed_s < UNCLAIMED_S:
                return  # they are in the order in which they were noticed; a claimed one between them lasts
            self._calls.pop(call.decision_id, None)
            self._bytes -= len(call.message)
