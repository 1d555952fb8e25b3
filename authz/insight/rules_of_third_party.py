"""Which MicroPolicies a ThirdParty's window takes part in: what ends with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.policy.selection import Selection

if TYPE_CHECKING:
    from authz.policy.policy_set import PolicySet
    from authz.policy.schema import ThirdParty
    from authz.policy.selection import Callers


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesOfThirdParty:
    """Names of MicroPolicies: those `only` about the ThirdParty, on one side at least, and those for others `too`."""

    only: tuple[str, ...]
    too: tuple[str, ...]


def rules_of_third_party(policy_set: PolicySet, third_party: ThirdParty) -> RulesOfThirdParty:
    """Give the rules that allow something to a ThirdParty, or there; sorted by name."""
    selection = Selection(policy_set)
    only: list[str] = []
    too: list[str] = []
    for rule in policy_set.micro_policies:
        callers = selection.callers(rule.callers)
        targets = {name for target in rule.targets for name in selection.targets(target)}
        if targets == {third_party.name} or _is_the_only_caller(callers, third_party.name):
            only.append(rule.name)
        elif third_party.name in targets or _is_a_caller(callers, third_party):
            too.append(rule.name)
    return RulesOfThirdParty(only=tuple(only), too=tuple(too))


def _is_the_only_caller(callers: Callers, name: str) -> bool:
    if callers.nobody:
        return False
    return callers.names <= {name} and all(
        each.owners is not None and each.owners <= {name} for each in callers.identities
    )


def _is_a_caller(callers: Callers, third_party: ThirdParty) -> bool:
    if third_party.name in callers.names:
        return True
    return any(
        third_party.name in each.owners
        if each.owners is not None
        else any(each.pattern.overlaps(pattern) for pattern in third_party.identities)
        for each in callers.identities
    )
