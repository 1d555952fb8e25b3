"""The windows of a policy set that have an end to look forward to, and how each stands at an instant.

Those of ThirdParties, and of the MicroPolicies that have one. A Guardrail's window opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from authz.insight.attempt import WindowKind
from authz.policy.schema import Kind
from authz.policy.window import NS_PER_DAY

if TYPE_CHECKING:
    from authz.policy.policy_set import PolicySet
    from authz.policy.window import Window

#: A window is closing in its last 14 days (the contract of the API).
CLOSING_NS: Final = 14 * NS_PER_DAY

KIND_OF_DOCUMENT: Final = {WindowKind.THIRD_PARTY: Kind.THIRD_PARTY, WindowKind.MICRO_POLICY: Kind.MICRO_POLICY}


class WindowStage(StrEnum):
    """How a window stands by its two dates; its hours, where it has some, are no part of it."""

    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowDates:
    """A window by its name; `hours` are its daily hours in words, `path` and `line` where its document stands."""

    kind: WindowKind
    name: str
    opens_ns: int | None
    closes_ns: int | None
    hours: str | None
    owner: str | None
    path: str
    line: int

    def stage(self, now_ns: int) -> WindowStage:
        """Say how it stands at an instant."""
        if self.opens_ns is not None and now_ns < self.opens_ns:
            return WindowStage.OPENING
        if self.closes_ns is None:
            return WindowStage.OPEN
        if now_ns >= self.closes_ns:
            return WindowStage.ENDED
        return WindowStage.CLOSING if self.closes_ns - now_ns <= CLOSING_NS else WindowStage.OPEN

    def was_tried_at(self, time_ns: int, *, after: bool) -> bool:
        """Whether a refusal at an instant is about these dates: those of an end that was moved since are not."""
        if after:
            return self.closes_ns is not None and time_ns >= self.closes_ns
        return self.opens_ns is not None and time_ns < self.opens_ns


def windows_of(policy_set: PolicySet) -> tuple[WindowDates, ...]:
    """Give the windows of a set: those of its ThirdParties first, each kind sorted by name."""
    third_parties = [(WindowKind.THIRD_PARTY, each, each.window) for each in policy_set.third_parties]
    rules = [(WindowKind.MICRO_POLICY, each, each.window) for each in policy_set.micro_policies]
    return tuple(
        _dates(policy_set, kind, named.name, named.metadata.owner, window)
        for kind, named, window in (*third_parties, *rules)
        if not window.always
    )


def _dates(policy_set: PolicySet, kind: WindowKind, name: str, owner: str | None, window: Window) -> WindowDates:
    document = policy_set.documents[KIND_OF_DOCUMENT[kind], name]
    return WindowDates(
        kind=kind,
        name=name,
        opens_ns=window.opens_ns,
        closes_ns=window.closes_ns,
        hours=None if window.hours is None else str(window.hours),
        owner=owner,
        path=document.path,
        line=document.root.line,
    )
