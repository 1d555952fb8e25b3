"""What a PolicyTest expects of an answer, and where an answer differs from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from authz.decision import Decision, Reason, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """The parts of an answer that are expected; None is any."""

    decision: Verdict | None = None
    reason: Reason | None = None
    policy: str | None = None

    def is_met_by(self, decision: Decision) -> bool:
        """Whether the answer has every expected part."""
        return (
            self.decision in {None, decision.verdict}
            and self.reason in {None, decision.reason}
            and self.policy in {None, decision.policy}
        )

    def __str__(self) -> str:
        parts = [str(part) for part in (self.decision, self.reason) if part is not None]
        return " ".join([*parts, f"by `{self.policy}`"] if self.policy is not None else parts)
