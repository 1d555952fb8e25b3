"""A class of calls that two policy sets answer differently, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from authz.decision import Reason, Verdict
    from authz.policy.operation_classes import MethodClass, PathClass
    from authz.request import Call


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Span:
    """The instants from `from_ns` (inclusive) to `until_ns` (exclusive); None is without end on that side."""

    from_ns: int | None
    until_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Times:
    """Spans of time, in order; made once for all changes at the same times, so that it equals only itself.

    Of many spans the first ones are kept: there are `count`, the last of them until `until_ns`. Times that are
    `recurring` go on beyond their last span, as far as hours were followed.
    """

    spans: tuple[Span, ...]
    count: int
    until_ns: int | None
    recurring: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a call becomes, and when.

    `policy` is the rule that allows it: from now on, or until now; `reason` is that of the deny. `condition` says for
    which answers of conditions it is so; nothing, where they make no difference.
    """

    becomes: Verdict
    times: Times
    policy: str | None
    reason: Reason
    condition: str = ""
    example_at_ns: int = field(compare=False)

    @property
    def spans(self) -> tuple[Span, ...]:
        """The spans of time; of many the first ones."""
        return self.times.spans


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedCall:
    """One class of calls that changes, by classes of callers who are alike, by number.

    `methods` are all classes of its path.
    """

    numbers: tuple[int, ...]
    path: PathClass
    method: MethodClass
    change: Change
    example: Call
    methods: tuple[MethodClass, ...] = field(repr=False)
