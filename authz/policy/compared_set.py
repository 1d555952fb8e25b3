"""One of two sets that are compared: compiled, and what each of its rules means where, for whom, as values.

Two rules that mean the same are the same here, whatever they are called, and however they are written. What takes no
part in a verdict (rules in observe mode, metadata) is left out.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from authz.policy.host import requested_host
from authz.policy.index import compile_index
from authz.policy.operation import ALL, EVERY_OPERATION, GrpcOperation, HttpOperation
from authz.policy.operation_classes import forbidden_operation
from authz.policy.route import NO_SHAPES
from authz.policy.schema import Guardrail
from authz.policy.schema_fields import Mode
from authz.policy.selection import Selection
from authz.request import Direction

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from authz.policy.caller_classes import CallerClass
    from authz.policy.destination_classes import DestinationClass
    from authz.policy.identity_pattern import IdentityPattern
    from authz.policy.operation_classes import HttpOrGrpc
    from authz.policy.party import Party
    from authz.policy.policy_set import PolicySet
    from authz.policy.route import PathShape
    from authz.policy.schema import MicroPolicy
    from authz.policy.selection import Callers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Meaning:
    """One operation of one rule at a destination, for classes of callers by number; a Guardrail's as it forbids.

    Meanings of equal `key` say the same.
    """

    rule: str
    key: Hashable
    is_guardrail: bool
    asks_for_tls: bool
    operation: HttpOrGrpc
    callers: frozenset[int]


class Numbering:
    """Small numbers for values that are costly to compare; shared by the two sets."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def number(self, value: Hashable) -> int:
        """Give the number of a value: the same for an equal one."""
        return self._numbers.setdefault(value, len(self._numbers))


class ComparedSet:
    """A set, compiled; its meanings are worked out once the classes of callers are known."""

    def __init__(self, policy_set: PolicySet) -> None:
        self.set = policy_set
        self.index = compile_index(policy_set)
        self._at: defaultdict[str, list[Meaning]] = defaultdict(list)
        self._everywhere: list[Meaning] = []
        #: classes of callers by number: of each Service, without the revoked ones, and who may open which tunnel
        self._workloads: defaultdict[str, set[int]] = defaultdict(set)
        self._openers: defaultdict[tuple[str, int], set[int]] = defaultdict(set)

    def work_out(self, callers: Sequence[CallerClass], numbering: Numbering, *, is_new: bool) -> None:
        """Work out what the rules mean for these classes of callers."""
        for number, caller in enumerate(callers):
            known = caller.new if is_new else caller.old
            if known.owner is not None and known.owner.is_service and known.refused is None:
                self._workloads[known.owner.name].add(number)
                for tunnel in known.owner.tunnels:
                    self._openers[tunnel].add(number)
        selection = Selection(self.set)
        whom = _Numbers(callers, is_new=is_new)
        rules: list[MicroPolicy | Guardrail] = [*self.set.micro_policies, *self.set.guardrails]
        for rule in rules:
            if rule.mode is not Mode.ENFORCE:
                continue
            numbers = whom.everyone if rule.callers is None else whom.of(selection.callers(rule.callers))
            is_guardrail = isinstance(rule, Guardrail)
            says = (
                is_guardrail,
                numbering.number(numbers),
                numbering.number((rule.window, frozenset(each.text for each in rule.when), _required(rule))),
            )
            if rule.targets is None:
                self._everywhere += _meanings(rule, (EVERY_OPERATION,), numbers, says)
            for target in rule.targets or ():
                for name, operations in selection.targets(target).items():
                    self._at[name] += _meanings(rule, operations, numbers, says)

    def party(self, destination: DestinationClass) -> Party | None:
        """Give the Service or ThirdParty that is called."""
        if destination.direction is Direction.INBOUND:
            return self.index.service(destination.service)
        requested = requested_host(destination.host)
        return None if requested is None else self.index.destination(*requested)

    def features(self, destination: DestinationClass, numbering: Numbering, *, conditions: bool) -> Features:
        """Give what a destination is like besides what rules say of it."""
        party = self.party(destination)
        openers = () if destination.tunnel is None else self._openers.get(destination.tunnel, ())
        if party is None:
            return replace(_NOWHERE, openers=frozenset(openers))
        presenters = [self._workloads.get(name, set()) for name in party.forwarders] if party.accepts_jwt else []
        return Features(
            exists=True,
            is_service=party.is_service,
            shapes=party.path_shapes,
            observed=party.observed,
            accepts_x509=party.accepts_x509,
            accepts_jwt=party.accepts_jwt,
            presenters=frozenset().union(*presenters),
            openers=frozenset(openers),
            window=numbering.number(party.window),
            tls=party.tls,
            known=(party.name, *sorted(party.attributes.items())) if conditions else (),
        )

    def meanings(self, party: Party | None) -> dict[Hashable, Meaning]:
        """Give what the rules say of a destination, by key."""
        if party is None:
            return {}
        return {meaning.key: meaning for meaning in (*self._at.get(party.name, ()), *self._everywhere)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a destination is like besides what rules say of it; whom conditions may ask about only where there are some.

    `presenters` are the classes of callers, by number, that may present tokens of others; `openers` those that may open
    a tunnel there. `window` is the number of a ThirdParty's window; `known` is what conditions know of the destination.
    """

    exists: bool
    is_service: bool
    shapes: frozenset[PathShape]
    observed: bool
    accepts_x509: bool
    accepts_jwt: bool
    presenters: frozenset[int]
    openers: frozenset[int]
    window: int
    tls: str
    known: tuple[object, ...]


#: What is not there accepts nobody.
_NOWHERE: Final = Features(
    exists=False,
    is_service=False,
    shapes=NO_SHAPES,
    observed=False,
    accepts_x509=False,
    accepts_jwt=False,
    presenters=frozenset(),
    openers=frozenset(),
    window=-1,
    tls="",
    known=(),
)


class _Numbers:
    """The classes of callers by what selects them."""

    def __init__(self, callers: Sequence[CallerClass], *, is_new: bool) -> None:
        self.everyone = frozenset(range(len(callers)))
        self._owners = [(caller.new if is_new else caller.old).name for caller in callers]
        self._by_owner: defaultdict[str | None, list[int]] = defaultdict(list)
        self._by_pattern: defaultdict[IdentityPattern, list[int]] = defaultdict(list)
        self._known: dict[Callers, frozenset[int]] = {}
        for number, caller in enumerate(callers):
            self._by_owner[self._owners[number]].append(number)
            for pattern in caller.patterns:
                self._by_pattern[pattern].append(number)

    def of(self, callers: Callers) -> frozenset[int]:
        """Give the classes that a rule's `from` stands for."""
        found = self._known.get(callers)
        if found is None:
            found = self._known[callers] = frozenset(self._of(callers))
        return found

    def _of(self, callers: Callers) -> Iterator[int]:
        for name in callers.names:
            yield from self._by_owner.get(name, ())
        for each in callers.identities:
            for number in self._by_pattern.get(each.pattern, ()):
                if each.owners is None or self._owners[number] in each.owners:
                    yield number


def _required(rule: MicroPolicy | Guardrail) -> Hashable:
    require = rule.require if isinstance(rule, Guardrail) else None
    return None if require is None else (require.tls, require.max_window_ns)


def _meanings(
    rule: MicroPolicy | Guardrail,
    operations: Iterable[HttpOrGrpc],
    callers: frozenset[int],
    says: tuple[Hashable, ...],
) -> Iterator[Meaning]:
    is_guardrail = isinstance(rule, Guardrail)
    asks_for_tls = isinstance(rule, Guardrail) and rule.require is not None and rule.require.tls is not None
    for operation in operations:
        for part in _parts(forbidden_operation(operation) if is_guardrail else operation):
            key = (*says, _key(part))
            yield Meaning(
                rule=rule.name,
                key=key,
                is_guardrail=is_guardrail,
                asks_for_tls=asks_for_tls,
                operation=part,
                callers=callers,
            )


def _parts(operation: HttpOrGrpc) -> Iterator[HttpOrGrpc]:
    """Take an operation apart by its paths: rules that have one path in common are the same there."""
    if isinstance(operation, GrpcOperation):
        for method in operation.methods:
            yield GrpcOperation(methods=(method,))
    elif operation.paths is ALL:
        yield operation
    else:
        for path in operation.paths:
            yield HttpOperation(methods=operation.methods, paths=(path,))


def _key(part: HttpOrGrpc) -> Hashable:
    """Give what an operation means, however its variables are called."""
    if isinstance(part, GrpcOperation):
        return part
    return part.methods, part.paths if part.paths is ALL else part.paths[0].segments
