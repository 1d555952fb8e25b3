"""A rule or Guardrail with its selectors resolved, to be held against one of another set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.policy.operation import GrpcOperation, HttpOperation
    from authz.policy.schema import Guardrail, MicroPolicy
    from authz.policy.selection import Callers, Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleReach:
    """Whom a rule is for, and what it means where; None is everyone, or everything."""

    rule: MicroPolicy | Guardrail
    callers: Callers | None
    targets: Mapping[str, tuple[HttpOperation | GrpcOperation, ...]] | None

    @classmethod
    def of(cls, rule: MicroPolicy | Guardrail, selection: Selection) -> RuleReach:
        """Resolve the selectors of a rule in its set."""
        targets: dict[str, tuple[HttpOperation | GrpcOperation, ...]] = {}
        for target in rule.targets or ():
            for name, operations in selection.targets(target).items():
                targets[name] = (*targets.get(name, ()), *operations)
        return cls(
            rule=rule,
            callers=None if rule.callers is None else selection.callers(rule.callers),
            targets=None if rule.targets is None else targets,
        )

    def is_same(self, other: RuleReach | None) -> bool:
        """Whether two are for the same callers and operations, and are alike in everything else but metadata."""
        if other is None or type(self.rule) is not type(other.rule):
            return False
        if self.callers != other.callers or self.targets != other.targets:
            return False
        written = {"metadata": other.rule.metadata, "callers": other.rule.callers, "targets": other.rule.targets}
        return self.rule.model_copy(update=written) == other.rule
