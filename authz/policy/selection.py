"""Whom a rule's selectors stand for in a set: names and identity patterns of callers, names and operations of targets.

Attribute selectors are resolved here, once; what comes out knows no attributes any more.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.policy.operation import ApiOperation

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from authz.policy.identity_pattern import IdentityPattern
    from authz.policy.operation import GrpcOperation, HttpOperation
    from authz.policy.policy_set import PolicySet
    from authz.policy.schema import CallerSelector, TargetSelector


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectedIdentities:
    """Callers whose ID matches a pattern and, where `owners` is not None, belongs to one of them."""

    pattern: IdentityPattern
    owners: frozenset[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """Whom a rule's `from` stands for: Services and ThirdParties by name, and identities."""

    names: frozenset[str]
    identities: frozenset[SelectedIdentities]

    @property
    def nobody(self) -> bool:
        """Whether there is no such caller."""
        return not self.names and all(each.owners == frozenset() for each in self.identities)


def has_attributes(given: Mapping[str, str], wanted: Mapping[str, tuple[str, ...]]) -> bool:
    """Whether every wanted key is there with one of the wanted values."""
    return all(given.get(key) in values for key, values in wanted.items())


class Selection:
    """The Services and ThirdParties of a set, by what selects them."""

    def __init__(self, policy_set: PolicySet) -> None:
        self._services = {service.name: service for service in policy_set.services}
        self._having: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for party in policy_set.parties:
            for attribute in party.attributes.items():
                self._having[attribute].add(party.name)

    def callers(self, selectors: Iterable[CallerSelector]) -> Callers:
        """Give the callers that any of the selectors stands for."""
        names: set[str] = set()
        identities: set[SelectedIdentities] = set()
        for selector in selectors:
            owners = self._owners(selector)
            if selector.identities:
                identities |= {SelectedIdentities(pattern=each, owners=owners) for each in selector.identities}
            else:
                names |= owners or frozenset()
        return Callers(names=frozenset(names), identities=frozenset(identities))

    def targets(self, target: TargetSelector) -> dict[str, tuple[HttpOperation | GrpcOperation, ...]]:
        """Give the destinations of one target, by name, each with the operations that are allowed there."""
        names = (
            self._with_attributes(target.attributes) if target.attributes else {*target.services, *target.third_parties}
        )
        found = {name: self._operations(name, target) for name in names}
        # Of Services that attributes select, those without the `api` name do not count.
        return {name: operations for name, operations in found.items() if operations}

    def _owners(self, selector: CallerSelector) -> frozenset[str] | None:
        """Give the names that `services`, `thirdParties` and `attributes` leave; None where none of them is written."""
        named = frozenset({*selector.services, *selector.third_parties})
        if not selector.attributes:
            return named or None
        having = self._with_attributes(selector.attributes)
        return frozenset(having & named if named else having)

    def _with_attributes(self, wanted: Mapping[str, tuple[str, ...]]) -> set[str]:
        """Give the Services and ThirdParties that have every wanted key with one of the wanted values."""
        by_key = [
            set().union(*(self._having.get((key, value), ()) for value in values)) for key, values in wanted.items()
        ]
        return set.intersection(*by_key) if by_key else set()

    def _operations(self, name: str, target: TargetSelector) -> tuple[HttpOperation | GrpcOperation, ...]:
        operations: list[HttpOperation | GrpcOperation] = []
        for operation in target.operations:
            if isinstance(operation, ApiOperation):
                service = self._services.get(name)
                entries = () if service is None else service.api
                operations += [entry.operation for entry in entries if entry.name in operation.names]
            else:
                operations.append(operation)
        return tuple(operations)
