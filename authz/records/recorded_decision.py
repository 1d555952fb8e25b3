"""One packed decision, read: what is its own, and what it has in common with others of its kind.

A kind is read once and known again by its bytes, with everything that is worked out from it: the pieces of its line
(:mod:`authz.records.record_lines`) and the key of its flow (:mod:`authz.records.flow`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from authz.records.call_end import UpstreamTls
    from authz.records.flow import FlowKey


class DecisionKind:
    """What all decisions of a kind have in common; `facts` are those of a packed kind, in its order."""

    __slots__ = ("allows", "encrypted", "facts", "kept_ns", "key", "pieces")

    def __init__(self, facts: tuple[object, ...], pieces: tuple[str, str, str], *, allows: bool) -> None:
        self.facts = facts
        self.pieces = pieces
        self.allows = allows
        #: of its flow, once it was worked out; None also where it depends on the address too
        self.key: FlowKey | None = None
        #: the same calls by what TLS they went on to a third party, as far as some did
        self.encrypted: dict[UpstreamTls, DecisionKind] = {}
        #: when one of them was kept in full last
        self.kept_ns: int | None = None


class RecordedDecision(NamedTuple):
    """One decision as its worker handed it over; `decision_id` is in ASCII, `check_us` what deciding took."""

    decision_id: bytes
    time_ns: int
    request_id: str | None
    address: str
    path: str | None
    check_us: int
    kind: DecisionKind
