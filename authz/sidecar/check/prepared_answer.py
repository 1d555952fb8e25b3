"""Answers written before they are needed: what differs from call to call is the decision's id, and is filled in.

# INVARIANT (same bytes): a prepared answer is the one that `answer_bytes` writes, with another id in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from authz.request import Direction
from authz.sidecar.check.answer import CHALLENGE, answer_bytes
from authz.sidecar.check.stream_deadline import TIMEOUT_BYTES, duration_text

if TYPE_CHECKING:
    from authz.decision import Decision, Reason
    from authz.request import Call
    from authz.sidecar.check.stream_deadline import StreamDeadline

#: As long as an id is, and in no other text: neither names of policies nor SPIFFE IDs have a tilde.
_PLACE: Final = "~" * 32
#: As long as a timeout is; stands before the id, as Envoy's message has it.
_TIME: Final = b"!" * (TIMEOUT_BYTES - 1) + b"m"
#: As long as a duration is, and in no other text either.
_DURATION: Final = duration_text(_TIME)
_MOST_PREPARED: Final = 4096


#: Python 3.11 runs code of its own for each member that is read from an Enum or hashed; this one is, for every call.
_INBOUND: Final = Direction.INBOUND
#: all that an answer depends on beside the decision's id and how long the call may run: why, by which policy, whether
#: inbound, from whom, in gRPC, whether its time is limited, why it is cut when that is over, and whether it is held
_Kind: TypeAlias = "tuple[Reason, str | None, bool, str | None, bool, bool, Reason | None, bool]"


class PreparedAnswers:
    """Gives answers, each kind of them written once; for one thread, and bounded."""

    __slots__ = ("_challenge", "_pieces")

    def __init__(self, challenge: str = CHALLENGE) -> None:
        self._challenge = challenge
        self._pieces: dict[_Kind, tuple[bytes, list[bytes]]] = {}

    def answer(
        self,
        *,
        decision: Decision,
        decision_id: bytes,
        call: Call,
        caller: str | None,
        is_grpc: bool,
        deadline: StreamDeadline | None = None,
        is_held: bool = False,
    ) -> bytes:
        """Give the answer to a call whose caller has this text; `decision_id` has 32 bytes of ASCII."""
        cut_reason = None if deadline is None else deadline.reason
        kind = (
            decision.reason, decision.policy, call.direction is _INBOUND, caller,
            is_grpc, deadline is not None, cut_reason, is_held,
        )  # fmt: skip
        pieces = self._pieces.get(kind)
        if pieces is None:
            written = answer_bytes(
                decision=decision,
                decision_id=_PLACE,
                call=call,
                is_grpc=is_grpc,
                is_held=is_held,
                challenge=self._challenge,
                deadline=None if deadline is None else deadline._replace(timeout=_TIME),
            )
            before, _, rest = written.partition(_TIME) if deadline is not None else (b"", b"", written)
            pieces = (before, rest.split(_PLACE.encode()))
            if len(self._pieces) >= _MOST_PREPARED:
                self._pieces.clear()
            self._pieces[kind] = pieces
        before, after = pieces
        answer = decision_id.join(after)
        if deadline is None:
            return answer
        timeout = deadline.timeout
        if cut_reason is not None:
            answer = answer.replace(_DURATION, duration_text(timeout))
        return before + timeout + answer
