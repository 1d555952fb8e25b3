"""When something holds: windows put together by `any of`, `all of` and `not`, without ever listing their edges.

A timeline answers two questions: whether it holds at an instant, and when that changes next. Both are answered from the
instant on, span by span, so that an answer costs as much as there are spans up to the change, and no more.

Timelines are made for one answer and then dropped; they are not frozen, because that would double what they cost.

# INVARIANT (exact): between an instant and the change that is given for it, nothing changes; at the change, it has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.policy.window import Window


class Timeline(Protocol):
    """Holds, or does not, at every instant."""

    def holds(self, at_ns: int) -> bool:
        """Whether it holds at an instant."""

    def change_ns(self, at_ns: int, limit_ns: int) -> int | None:
        """Give the first instant after `at_ns` at which it holds if it does not at `at_ns`, and the other way round.

        One later than `limit_ns` may be told as None, which is never.
        """


@dataclass(slots=True)
class Open:
    """Holds while a window is open."""

    window: Window

    def holds(self, at_ns: int) -> bool:
        """Whether the window is open."""
        return self.window.is_open(at_ns)

    def change_ns(self, at_ns: int, limit_ns: int) -> int | None:
        """Give the window's next opening, or its end."""
        if not self.window.is_open(at_ns):
            return self.window.next_opening_ns(at_ns)
        end_ns = self.window.open_until_ns(at_ns)
        # A span may be followed by another one without a gap.
        while end_ns is not None and end_ns <= limit_ns and self.window.is_open(end_ns):
            end_ns = self.window.open_until_ns(end_ns)
        return end_ns


@dataclass(slots=True)
class Not:
    """Holds while another timeline does not."""

    other: Timeline

    def holds(self, at_ns: int) -> bool:
        """Whether the other one does not hold."""
        return not self.other.holds(at_ns)

    def change_ns(self, at_ns: int, limit_ns: int) -> int | None:
        """Give the other one's next change."""
        return self.other.change_ns(at_ns, limit_ns)


@dataclass(slots=True)
class AnyOf:
    """Holds while any of some timelines does; never, if there are none."""

    parts: Sequence[Timeline]

    def holds(self, at_ns: int) -> bool:
        """Whether any of them holds."""
        return any(part.holds(at_ns) for part in self.parts)

    def change_ns(self, at_ns: int, limit_ns: int) -> int | None:
        """Give the first instant at which one of them holds, or at which none does any more."""
        if not self.holds(at_ns):
            begins_ns = (part.change_ns(at_ns, limit_ns) for part in self.parts)
            return min((each for each in begins_ns if each is not None), default=None)
        while at_ns <= limit_ns:
            latest_ns: int | None = None
            for part in self.parts:
                if part.holds(at_ns):
                    end_ns = part.change_ns(at_ns, limit_ns)
                    if end_ns is None:
                        return None
                    latest_ns = end_ns if latest_ns is None else max(latest_ns, end_ns)
            if latest_ns is None:
                return at_ns
            at_ns = latest_ns
        return None


def all_of(parts: Sequence[Timeline]) -> Timeline:
    """Give the timeline that holds while all of some do; always, if there are none."""
    return Not(AnyOf([Not(part) for part in parts]))
