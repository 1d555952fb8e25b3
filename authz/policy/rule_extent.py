"""How far rules reach, and which rules lie wholly within another one.

# INVARIANT (sound): a rule is said to lie within another one only if the other allows every call that it allows, at
# every instant. Not every such pair is found: a rule that only several others together make superfluous is not.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final, TypeAlias

from authz.policy.operation import ALL, GrpcOperation, HttpOperation
from authz.policy.party import GRPC_METHOD
from authz.policy.route import ANY_SEGMENT, REST, PathTemplate
from authz.policy.schema_fields import Mode
from authz.policy.selection import Callers, Selection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from authz.policy.policy_set import PolicySet
    from authz.policy.route import GrpcMethod
    from authz.policy.schema import MicroPolicy
    from authz.policy.selection import SelectedIdentities
    from authz.policy.window import Window

#: A method, and a path or a gRPC method; None is every one.
Part: TypeAlias = "tuple[str | None, PathTemplate | GrpcMethod | None]"

#: The literal segments that the paths of an operation begin with.
_Beginning: TypeAlias = "tuple[str, ...]"

#: A rule is compared with at most so many others for the same caller and destination.
MAX_COMPARED: Final = 256
#: A rule for more pairs of caller and destination is not written down under each of them.
MAX_PAIRS: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Whom a rule is for, and what it allows where, with all selectors resolved."""

    rule: MicroPolicy
    callers: Callers
    targets: Mapping[str, tuple[HttpOperation | GrpcOperation, ...]]

    @property
    def window(self) -> Window:
        """When the rule is open."""
        return self.rule.window

    def covers(self, other: Extent) -> bool:
        """Whether everything that the other rule allows is allowed by this one, at every instant."""
        return (
            self.rule.mode in {Mode.ENFORCE, other.rule.mode}
            and (not self.rule.when or set(self.rule.when) <= set(other.rule.when))
            and covers_callers(self.callers, other.callers)
            and all(self._covers_target(name, operations) for name, operations in other.targets.items())
            and self.window.covers(other.window)  # the last one: hours of two zones are compared for 400 years
        )

    def _covers_target(self, name: str, operations: Iterable[HttpOperation | GrpcOperation]) -> bool:
        mine = self.targets.get(name, ())
        return all(any(_covers(each, part) for each in mine) for operation in operations for part in parts(operation))


def covers_callers(callers: Callers, others: Callers) -> bool:
    """Whether everyone whom the others stand for is one of these callers."""
    return others.names <= callers.names and all(
        any(_covers_identities(mine, other) for mine in callers.identities) for other in others.identities
    )


def _covers_identities(mine: SelectedIdentities, other: SelectedIdentities) -> bool:
    return mine.pattern.covers(other.pattern) and (
        mine.owners is None or (other.owners is not None and other.owners <= mine.owners)
    )


def parts(operation: HttpOperation | GrpcOperation) -> Iterator[Part]:
    """Split an operation into its single pairs of method and path; None is every one."""
    if isinstance(operation, GrpcOperation):
        for method in operation.methods:
            yield GRPC_METHOD, method
        return
    for name in (None,) if operation.methods is ALL else sorted(operation.methods):
        for path in (None,) if operation.paths is ALL else operation.paths:
            yield name, path


def _covers(operation: HttpOperation | GrpcOperation, part: Part) -> bool:
    method, path = part
    if isinstance(operation, GrpcOperation):
        return any(
            mine.covers(path) for mine in operation.methods if path is not None and not isinstance(path, PathTemplate)
        )
    if operation.methods is not ALL and method not in operation.methods:
        return False
    if operation.paths is ALL:
        return True
    if path is None:
        return False
    template = path if isinstance(path, PathTemplate) else PathTemplate(text=f"/{path}", segments=path.segments)
    return any(mine.covers(template) for mine in operation.paths)


class Extents:
    """The extents of all rules of a set."""

    def __init__(self, policy_set: PolicySet) -> None:
        selection = Selection(policy_set)
        #: whether a window that is longer may allow less
        self._limited = any(each.require and each.require.max_window_ns is not None for each in policy_set.guardrails)
        self._by_name: dict[str, Extent] = {}
        #: by caller (None for identities), destination, and how one of its paths begins; rules for very many callers
        #: and destinations by the other two
        self._by_pair: defaultdict[tuple[str | None, str, _Beginning], list[Extent]] = defaultdict(list)
        self._broad: defaultdict[tuple[str, _Beginning], list[Extent]] = defaultdict(list)
        for rule in policy_set.micro_policies:
            targets: dict[str, tuple[HttpOperation | GrpcOperation, ...]] = {}
            for target in rule.targets:
                for name, operations in selection.targets(target).items():
                    targets[name] = (*targets.get(name, ()), *operations)
            self._add(Extent(rule=rule, callers=selection.callers(rule.callers), targets=targets))

    def _add(self, extent: Extent) -> None:
        self._by_name[extent.rule.name] = extent
        callers = _caller_keys(extent)
        is_broad = len(callers) * len(extent.targets) > MAX_PAIRS
        known: dict[tuple[int, ...], frozenset[_Beginning]] = {}  # most targets share their operations
        for destination, operations in extent.targets.items():
            same = tuple(map(id, operations))
            if same not in known:
                known[same] = frozenset(_beginning(part) for each in operations for part in parts(each))
            for beginning in known[same]:
                if is_broad:
                    self._broad[destination, beginning].append(extent)
                    continue
                for caller in callers:
                    self._by_pair[caller, destination, beginning].append(extent)

    def __getitem__(self, name: str) -> Extent:
        return self._by_name[name]

    def __iter__(self) -> Iterator[Extent]:
        return iter(self._by_name.values())

    def covering(self, extent: Extent) -> MicroPolicy | None:
        """Give a rule that makes this one superfluous; of two that are the same, the smaller name stays."""
        if extent.callers.nobody or not extent.targets:
            return None
        # A rule that covers this one is for all its pairs and all its paths: one of each is enough to find it.
        for other in islice(self._beside(extent), MAX_COMPARED):
            if other is extent or not self._replaces(other, extent):
                continue
            if extent.rule.name < other.rule.name and self._replaces(extent, other):
                continue
            return other.rule
        return None

    def _beside(self, extent: Extent) -> Iterator[Extent]:
        """Give the rules for a pair of this one's, with a path that begins as one of this one's does."""
        destination = min(extent.targets)
        caller = min(extent.callers.names, default=None)
        beginning = _beginning(next(parts(extent.targets[destination][0])))
        for length in range(len(beginning) + 1):
            yield from self._by_pair.get((caller, destination, beginning[:length]), ())
            yield from self._broad.get((destination, beginning[:length]), ())

    def _replaces(self, one: Extent, other: Extent) -> bool:
        """Whether one rule allows all that the other one does, also where Guardrails limit how long a window is."""
        same_dates = (one.window.opens_ns, one.window.closes_ns) == (other.window.opens_ns, other.window.closes_ns)
        return (same_dates or not self._limited) and one.covers(other)


def _beginning(part: Part) -> _Beginning:
    """Give the literal segments that every path of a part begins with."""
    _, path = part
    segments = () if path is None else path.segments
    return tuple(takewhile(lambda segment: segment not in {ANY_SEGMENT, REST}, segments))


def _caller_keys(extent: Extent) -> list[str | None]:
    return [*extent.callers.names, *([None] if extent.callers.identities else [])]
