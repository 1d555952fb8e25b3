"""Recorded calls put to two policy sets: which of them the new one would answer differently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.policy.evaluation import evaluate

if TYPE_CHECKING:
    from authz.decision import Decision, Reason, Verdict
    from authz.policy.index import PolicyIndex
    from authz.policy.recorded_call import RecordedCall

#: Different calls that are told apart; a log of more kinds of changed calls is told in its counts only.
MAX_KINDS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    caller: str
    destination: str
    operation: str
    becomes: Verdict
    before: tuple[Reason, str | None]
    after: tuple[Reason, str | None]


@dataclass(slots=True, kw_only=True)
class ChangedKind:
    """Calls of one kind that the new set answers differently: how many, and from when until when they were made."""

    first: RecordedCall
    before: Decision
    after: Decision
    count: int
    first_ns: int
    last_ns: int


class Replay:
    """Counts calls as they are put to both sets."""

    def __init__(self, old: PolicyIndex, new: PolicyIndex) -> None:
        self._old = old
        self._new = new
        self._kinds: dict[_Kind, ChangedKind] = {}
        self.calls = 0
        self.changed = 0

    def add(self, recorded: RecordedCall) -> None:
        """Put one call to both sets, at the time at which it was made."""
        self.calls += 1
        before = evaluate(self._old, recorded.call, recorded.at_ns)
        after = evaluate(self._new, recorded.call, recorded.at_ns)
        if before.verdict is after.verdict:
            return
        self.changed += 1
        kind = _Kind(
            caller=recorded.caller,
            destination=recorded.destination,
            operation=recorded.operation,
            becomes=after.verdict,
            before=(before.reason, before.policy),
            after=(after.reason, after.policy),
        )
        known = self._kinds.get(kind)
        if known is not None:
            known.count += 1
            known.first_ns = min(known.first_ns, recorded.at_ns)
            known.last_ns = max(known.last_ns, recorded.at_ns)
        elif len(self._kinds) < MAX_KINDS:
            at_ns = recorded.at_ns
            self._kinds[kind] = ChangedKind(
                first=recorded, before=before, after=after, count=1, first_ns=at_ns, last_ns=at_ns
            )

    @property
    def kinds(self) -> tuple[ChangedKind, ...]:
        """Give the kinds of changed calls, the most frequent first."""
        found = self._kinds.values()
        return tuple(
            sorted(
                found, key=lambda each: (-each.count, each.first.caller, each.first.destination, each.first.operation)
            )
        )
