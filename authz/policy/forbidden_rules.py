"""Which rules a Guardrail forbids wholly, so that they allow nothing.

# INVARIANT (sound): a rule is said to be forbidden only if the Guardrail denies every call that it matches, at every
# instant at which the rule is open. Not every such pair is found.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Final

from authz.policy.operation import ALL, GrpcOperation, HttpOperation
from authz.policy.party import broadened
from authz.policy.route import REST, PathTemplate
from authz.policy.rule_extent import covers_callers, parts
from authz.policy.schema_fields import Mode
from authz.policy.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from authz.policy.policy_set import PolicySet
    from authz.policy.rule_extent import Extent, Part
    from authz.policy.schema import Guardrail, ThirdParty
    from authz.policy.selection import Callers

#: A rule is compared with at most so many Guardrails for one of its destinations.
MAX_COMPARED: Final = 256


class ForbiddenRules:
    """The Guardrails of a set, by what they forbid."""

    def __init__(self, policy_set: PolicySet) -> None:
        selection = Selection(policy_set)
        self._third_parties = {each.name: each for each in policy_set.third_parties}
        self._everywhere: list[_Reach] = []
        self._by_destination: dict[str, list[_Reach]] = {}
        for guardrail in policy_set.guardrails:
            if guardrail.mode is not Mode.ENFORCE:
                continue
            callers = None if guardrail.callers is None else selection.callers(guardrail.callers)
            if guardrail.targets is None:
                self._everywhere.append(_Reach(guardrail, callers, None))
                continue
            targets: dict[str, tuple[HttpOperation | GrpcOperation, ...]] = {}
            for target in guardrail.targets:
                for name, operations in selection.targets(target).items():
                    targets[name] = (*targets.get(name, ()), *operations)
            reach = _Reach(guardrail, callers, targets)
            for name in targets:
                self._by_destination.setdefault(name, []).append(reach)

    def forbidding(self, extent: Extent) -> Guardrail | None:
        """Give a Guardrail that forbids all that a rule allows."""
        if extent.callers.nobody or not extent.targets:
            return None
        # What forbids all of the rule forbids it at each of its destinations: one of them is enough to find it.
        there = self._by_destination.get(min(extent.targets), [])
        for reach in (*self._everywhere, *there)[:MAX_COMPARED]:
            if self._never_meets(reach.guardrail, extent) and reach.covers(extent):
                return reach.guardrail
        return None

    def _never_meets(self, guardrail: Guardrail, extent: Extent) -> bool:
        """Whether no call that a rule matches meets what a Guardrail requires."""
        require = guardrail.require
        if require is None:
            return True
        targets = [self._third_parties.get(name) for name in extent.targets]
        lowest = require.tls
        # Towards a ThirdParty its own lowest version counts; inbound and to Services only the call tells.
        if lowest is not None and all(party is not None and party.tls < lowest for party in targets):
            return True
        return require.max_window_ns is not None and self._always_longer(extent, require.max_window_ns)

    def _always_longer(self, extent: Extent, max_window_ns: int) -> bool:
        """Whether a rule's window, however ThirdParties cut it, has no end on a side or is longer than is allowed."""
        callers = [self._third_parties.get(name) for name in extent.callers.names]
        targets = [self._third_parties.get(name) for name in extent.targets]
        if any(callers) and any(targets):
            return False  # two ThirdParties cut it twice
        if extent.callers.identities:
            return False  # and whose they are only the call tells
        return all(_length_ns(extent, party) > max_window_ns for party in (callers if any(callers) else targets))


def _length_ns(extent: Extent, party: ThirdParty | None) -> float:
    """Give how long a rule's window is when that of a ThirdParty cuts it."""
    windows = [extent.window] if party is None else [extent.window, party.window]
    opens_ns = [each.opens_ns for each in windows if each.opens_ns is not None]
    closes_ns = [each.closes_ns for each in windows if each.closes_ns is not None]
    return min(closes_ns) - max(opens_ns) if opens_ns and closes_ns else inf


class _Reach:
    """Whom a Guardrail is about, and what it forbids where; None is everyone, and everything."""

    __slots__ = ("_callers", "_targets", "guardrail")

    def __init__(
        self,
        guardrail: Guardrail,
        callers: Callers | None,
        targets: Mapping[str, Iterable[HttpOperation | GrpcOperation]] | None,
    ) -> None:
        self.guardrail: Guardrail = guardrail
        self._callers = callers
        self._targets = targets

    def covers(self, extent: Extent) -> bool:
        """Whether the Guardrail matches every call that the rule matches while it is open."""
        return (
            (self._callers is None or covers_callers(self._callers, extent.callers))
            and set(self.guardrail.when) <= set(extent.rule.when)
            and (
                self._targets is None
                or all(
                    any(_covers(mine, part) for mine in self._targets.get(name, ()))
                    for name, operations in extent.targets.items()
                    for operation in operations
                    for part in parts(operation)
                )
            )
            and self.guardrail.window.covers(extent.window)
        )


def _covers(operation: HttpOperation | GrpcOperation, part: Part) -> bool:
    """Whether a Guardrail's operation means, broadly, every call that a part of a rule's operation means."""
    method, path = part
    if isinstance(operation, GrpcOperation):
        patterns: list[tuple[str, ...]] = [each.segments for each in operation.methods]
    else:
        methods = operation.methods
        if methods is not ALL and method not in methods and not (method == "HEAD" and "GET" in methods):
            return False
        if operation.paths is ALL:
            return True
        patterns = [each.segments for each in operation.paths]
    if path is None:
        return False
    theirs = PathTemplate(text="", segments=path.segments)
    return any(mine.covers(theirs) for pattern in patterns for mine in _templates(pattern))


def _templates(pattern: tuple[str, ...]) -> Iterator[PathTemplate]:
    """Give the templates that a Guardrail's pattern stands for."""
    for segments in broadened(pattern):
        yield PathTemplate(text="", segments=segments)
        if segments[-1] != REST:
            yield PathTemplate(text="", segments=(*segments, ""))
