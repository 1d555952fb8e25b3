"""Answers written before they are needed: what differs from call to call is the decision's id, and is filled in.

# INVARIANT (same bytes): a prepared answer is the one that `answer_bytes` writes, with another id in its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from authz.request import Direction
from authz.sidecar.check.answer import CHALLENGE, answer_bytes

if TYPE_CHECKING:
    from authz.decision import Decision, Reason
    from authz.request import Call

#: As long as an id is, and in no other text: neither names of policies nor SPIFFE IDs have a tilde.
_PLACE: Final = "~" * 32
_MOST_PREPARED: Final = 4096


#: Python 3.11 runs code of its own for each member that is read from an Enum or hashed; this one is, for every call.
_INBOUND: Final = Direction.INBOUND
#: all that an answer depends on beside the decision's id: why, by which policy, whether inbound, from whom, in gRPC
_Kind: TypeAlias = "tuple[Reason, str | None, bool, str | None, bool]"


class PreparedAnswers:
    """Gives answers, each kind of them written once; for one thread, and bounded."""

    __slots__ = ("_challenge", "_pieces")

    def __init__(self, challenge: str = CHALLENGE) -> None:
        self._challenge = challenge
        self._pieces: dict[_Kind, list[bytes]] = {}

    def answer(self, *, decision: Decision, decision_id: bytes, call: Call, caller: str | None, is_grpc: bool) -> bytes:
        """Give the answer to a call whose caller has this text; `decision_id` has 32 bytes of ASCII."""
        kind = (decision.reason, decision.policy, call.direction is _INBOUND, caller, is_grpc)
        pieces = self._pieces.get(kind)
        if pieces is None:
            written = answer_bytes(
                decision=decision, decision_id=_PLACE, call=call, is_grpc=is_grpc, challenge=self._challenge
            )
            pieces = written.split(_PLACE.encode())
            if len(self._pieces) >= _MOST_PREPARED:
                self._pieces.clear()
            self._pieces[kind] = pieces
        return decision_id.join(pieces)

    def pieces(self, *, decision: Decision, call: Call, caller: str | None, is_grpc: bool) -> list[bytes]:
        """Give what the id stands between in such an answer."""
        place = _PLACE.encode()
        answer = self.answer(decision=decision, decision_id=place, call=call, caller=caller, is_grpc=is_grpc)
        return answer.split(place)
