"""Policy sets as if their conditions held, or did not: what is compared where no call is there to ask about.

A condition depends on headers, queries and what else a call has; no example can stand for all of that. So sets with
conditions are compared under each assumption: those of the rules hold or do not, those of the Guardrails hold or do
not. A rule with conditions that is not the same in both sets is told besides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from authz.policy.condition import Condition

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from authz.policy.policy_set import PolicySet

#: Holds for nobody: a caller without an identity is never asked about conditions.
_NEVER: Final = "caller.identity == ''"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumption:
    """Whether the conditions of all rules, and those of all Guardrails, hold."""

    rules: bool
    guardrails: bool

    def __str__(self) -> str:
        said = (("rules'", self.rules), ("Guardrails'", self.guardrails))
        return " and ".join(f"the {whose} conditions {'hold' if holds else 'do not hold'}" for whose, holds in said)


def assumptions(old: PolicySet, new: PolicySet) -> tuple[Assumption, ...]:
    """Give the assumptions under which two sets are to be compared; one that changes nothing, without conditions."""
    rules = (True, False) if any(rule.when for each in (old, new) for rule in each.micro_policies) else (True,)
    guards = (True, False) if any(guard.when for each in (old, new) for guard in each.guardrails) else (True,)
    return tuple(Assumption(rules=rule, guardrails=guard) for rule in rules for guard in guards)


def under(policy_set: PolicySet, assumption: Assumption) -> PolicySet:
    """Give the set with each condition replaced by what is assumed of it."""
    never = (Condition.compile(_NEVER),)
    return replace(
        policy_set,
        micro_policies=tuple(
            rule.model_copy(update={"when": () if assumption.rules else never}) if rule.when else rule
            for rule in policy_set.micro_policies
        ),
        guardrails=tuple(
            guard.model_copy(update={"when": () if assumption.guardrails else never}) if guard.when else guard
            for guard in policy_set.guardrails
        ),
    )


def where_words(known: Sequence[Assumption], found: Collection[Assumption]) -> str:
    """Say under which of the known assumptions something is so; nothing, where it is so under all of them."""
    if len(found) == len(known):
        return ""
    rules = {each.rules for each in found}
    guards = {each.guardrails for each in found}
    both_rules, both_guards = {each.rules for each in known}, {each.guardrails for each in known}
    if guards == both_guards and len(found) == len(rules) * len(guards):
        return f" where the rules' conditions {'hold' if rules == {True} else 'do not hold'}"
    if rules == both_rules and len(found) == len(rules) * len(guards):
        return f" where the Guardrails' conditions {'hold' if guards == {True} else 'do not hold'}"
    return " where " + ", or ".join(str(each) for each in known if each in found)
