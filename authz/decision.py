"""What is answered: a decision, why, and until when it holds. Reasons are a closed list (the contract's)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Self


class Verdict(StrEnum):
    """Whether the call goes on."""

    ALLOW = "allow"
    DENY = "deny"


_ALLOWING = frozenset({"allowed", "observed"})


class Reason(StrEnum):
    """Why a call was allowed or denied; each reason belongs to exactly one verdict."""

    #: what the reason stands for: only `allowed` and `observed` let a call through
    verdict: Verdict
    #: whether it is the one that lets a call through
    allows: bool

    # Python 3.11 runs code of its own for each hash of a member, and for each property: these are read for every call.
    __hash__ = str.__hash__

    def __new__(cls, value: str) -> Self:
        """Make a member that knows its verdict."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.allows = value in _ALLOWING
        member.verdict = Verdict.ALLOW if member.allows else Verdict.DENY
        return member

    ALLOWED = "allowed"
    OBSERVED = "observed"
    MALFORMED = "malformed"
    UNIDENTIFIED = "unidentified"
    UNTRUSTED = "untrusted"
    UNKNOWN_DESTINATION = "unknown_destination"
    GUARDRAIL = "guardrail"
    NOT_COMMISSIONED = "not_commissioned"
    DECOMMISSIONED = "decommissioned"
    NOT_YET_OPEN = "not_yet_open"
    OUTSIDE_HOURS = "outside_hours"
    CLOSED = "closed"
    NO_POLICY = "no_policy"
    INTERNAL_ERROR = "internal_error"
    OVERLOADED = "overloaded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadow:
    """The answer that the call would have got with every mode `enforce`, where it differs."""

    decision: Verdict
    reason: Reason
    policy: str | None


class Decision(NamedTuple):
    """One answer, with the labels that the record of the call needs; a tuple, because it is made for every call.

    `valid_until_ns` is the first instant after now (nanoseconds since the epoch) at which the same call gets the
    other verdict, None if there is none within 366 days. `route` is the template that matched, None if none did.
    """

    reason: Reason
    policy: str | None
    revision: str
    valid_until_ns: int | None = None
    shadow: Shadow | None = None
    caller_service: str | None = None
    caller_third_party: str | None = None
    destination_service: str | None = None
    destination_third_party: str | None = None
    route: str | None = None

    @property
    def verdict(self) -> Verdict:
        """Allow or deny, by the reason: the two can never disagree."""
        return self.reason.verdict
