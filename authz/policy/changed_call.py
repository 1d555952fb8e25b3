"""A class of calls that two policy sets answer differently, and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from authz.decision import Reason, Verdict
    from authz.policy.call_classes import CallerClass, DestinationClass, MethodClass, PathClass
    from authz.request import Call


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Span:
    """The instants from `from_ns` (inclusive) to `until_ns` (exclusive); None is without end on that side."""

    from_ns: int | None
    until_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a call becomes, and when.

    `policy` is the rule that allows it: from now on, or until now; `reason` is that of the deny. A change that is
    `recurring` goes on beyond its last span, as far as hours were followed.
    """

    becomes: Verdict
    spans: tuple[Span, ...]
    recurring: bool
    policy: str | None
    reason: Reason
    example_at_ns: int = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedCall:
    """One class of calls that changes; `methods` and `paths` are all classes of its path and its destination.

    `condition` says for which answers of conditions it changes; nothing, where they make no difference.
    """

    caller: CallerClass
    destination: DestinationClass
    path: PathClass
    method: MethodClass
    change: Change
    example: Call
    condition: str = ""
    methods: tuple[MethodClass, ...] = field(repr=False)
    paths: tuple[PathClass, ...] = field(repr=False)
