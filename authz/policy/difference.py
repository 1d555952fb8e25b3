"""What two policy sets answer differently: who may do what where, at which times, in one and not in the other.

No comparison of texts: both sets are compiled, and every class of calls that they can tell apart is put to both, at
every time. Names of files, order, comments, and the names of rules are no difference where the answers are the same.
Only allow and deny count, not the reason.

Conditions are assumed to hold, and not to hold (`assumed_conditions`). What no example can stand for is said in notes:
certificates that are revoked by their serial number in one set only, rules with conditions that changed, and calls
that are proven by other means than an X.509-SVID, or are tunnels (`uncompared_calls`).

# INVARIANT (sound): each difference has an example call and an instant at which the two sets, with their conditions as
# assumed, answer differently.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from authz.policy.answers_over_time import AnswersOverTime, destination_of
from authz.policy.assumed_conditions import assumptions, under, where_words
from authz.policy.call_classes import (
    call_of_classes,
    caller_classes,
    destination_classes,
    forbidden_operation,
    path_classes,
)
from authz.policy.changed_call import ChangedCall
from authz.policy.difference_groups import grouped
from authz.policy.errors import quoted
from authz.policy.index import compile_index
from authz.policy.operation import EVERY_OPERATION
from authz.policy.revocation import RevokedSerial
from authz.policy.route import NO_SHAPES
from authz.policy.rule_reach import RuleReach
from authz.policy.schema import Service
from authz.policy.selection import Selection
from authz.policy.uncompared_calls import uncompared_notes
from authz.request import Direction, TlsVersion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from authz.policy.assumed_conditions import Assumption
    from authz.policy.call_classes import CallerClass, DestinationClass, HttpOrGrpc
    from authz.policy.difference_groups import Difference
    from authz.policy.identity_pattern import IdentityPattern
    from authz.policy.policy_set import PolicySet
    from authz.policy.route import PathShape
    from authz.policy.schema import Guardrail, Mesh, MicroPolicy, ThirdParty


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two sets side by side: what changes, grouped for reading, and what no example stands for."""

    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the two sets answer every call alike."""
        return not self.differences and not self.notes


def compare(old: PolicySet, new: PolicySet, *, now_ns: int) -> Comparison:
    """Compare two sets; raises DifferenceError, or TooManyClassesError, where there is too much to be told.

    Recurring hours are followed for 366 days from `now_ns`; everything else is compared for all time. Cost: grows
    with what the documents that changed are about, not with the sets.
    """
    known = assumptions(old, new)
    found: dict[ChangedCall, list[Assumption]] = {}
    callers: Sequence[CallerClass] = ()
    for assumption in known:
        comparer = _Comparer(under(old, assumption), under(new, assumption), now_ns)
        callers = comparer.callers
        for changed in comparer.changed_calls():
            found.setdefault(changed, []).append(assumption)
    changed_calls = [replace(changed, condition=where_words(known, where)) for changed, where in found.items()]
    return Comparison(
        differences=grouped(changed_calls, callers),
        notes=(*_serial_notes(old.mesh, new.mesh), *_condition_notes(old, new), *uncompared_notes(old, new)),
    )


def _condition_notes(old: PolicySet, new: PolicySet) -> Iterator[str]:
    """Name the rules with conditions that are not to be found, under whatever name, in the other set."""
    for what, this, other in (("is new, or changed", new, old), ("is gone, or changed", old, new)):
        mine, theirs = Selection(this), Selection(other)
        conditional = [RuleReach.of(each, theirs) for each in _conditional(other)]
        for rule in _conditional(this):
            reach = RuleReach.of(rule, mine)
            if not any(reach.is_same(each) for each in conditional):
                conditions = ", ".join(quoted(each.text) for each in rule.when)
                yield f"{quoted(rule.name)} {what}, and has conditions that are not looked into: {conditions}"


def _conditional(policy_set: PolicySet) -> list[MicroPolicy | Guardrail]:
    rules: list[MicroPolicy | Guardrail] = [*policy_set.micro_policies, *policy_set.guardrails]
    return [rule for rule in rules if rule.when]


def _serial_notes(old: Mesh, new: Mesh) -> Iterator[str]:
    before, after = ({each for each in mesh.revoked if isinstance(each, RevokedSerial)} for mesh in (old, new))
    for becomes, revoked in (("becomes denied", after - before), ("is no longer denied", before - after)):
        for each in sorted(revoked, key=lambda one: (one.trust_domain.name, one.serial)):
            serial = quoted(f"serial:{each.trust_domain}/{each.serial}")
            yield f"every call with the certificate {serial} {becomes} because of it (`revoked` of the Mesh)"


class _Side:
    """One of the two sets, compiled, with the reach of its rules."""

    def __init__(self, policy_set: PolicySet) -> None:
        self.set = policy_set
        self.index = compile_index(policy_set)
        self.parties: dict[str, Service | ThirdParty] = {party.name: party for party in policy_set.parties}
        selection = Selection(policy_set)
        self.rules = {rule.name: RuleReach.of(rule, selection) for rule in policy_set.micro_policies}
        self.guards = {guard.name: RuleReach.of(guard, selection) for guard in policy_set.guardrails}
        self.at: defaultdict[str | None, list[RuleReach]] = defaultdict(list)
        for reach in self.rules.values():
            for name in reach.targets or ():
                self.at[name].append(reach)

    def observes(self, destination: DestinationClass) -> bool:
        """Whether what no rule allows there goes on."""
        party = destination_of(self.index, destination.direction, destination.name, destination.host)
        return party is not None and party.observed

    def guard_operations(self, name: str | None) -> Iterator[HttpOrGrpc]:
        """Give what Guardrails forbid at a destination, as broadly as they mean it."""
        for guard in self.guards.values():
            for operation in (EVERY_OPERATION,) if guard.targets is None else guard.targets.get(name or "", ()):
                yield forbidden_operation(operation)

    def shapes(self, name: str | None) -> frozenset[PathShape]:
        """Give the shapes of path that a destination allows."""
        party = None if name is None else self.parties.get(name)
        return NO_SHAPES if party is None else party.path_shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meaning:
    """One operation of one rule at a destination, and the classes of callers, by number, that the rule is for.

    `changed_for` are these callers where the rule, or somebody whom it is about, has changed. A Guardrail's meaning is
    for nobody: it makes no call allowed, but tells calls apart.
    """

    operation: HttpOrGrpc
    changed_for: frozenset[int] = frozenset()


class _Comparer:
    def __init__(self, old: PolicySet, new: PolicySet, now_ns: int) -> None:
        self._old, self._new = _Side(old), _Side(new)
        self._answers = AnswersOverTime(self._old.index, self._new.index, now_ns)
        self.callers = caller_classes(old, new, self._old.index, self._new.index)
        self._destinations = destination_classes(old, new, self._old.index, self._new.index)
        self._by_pattern: defaultdict[IdentityPattern, list[int]] = defaultdict(list)
        self._by_owner: defaultdict[tuple[bool, str | None], list[int]] = defaultdict(list)
        for number, caller in enumerate(self.callers):
            for pattern in caller.patterns:
                self._by_pattern[pattern].append(number)
            self._by_owner[False, caller.old_owner].append(number)
            self._by_owner[True, caller.new_owner].append(number)
        self._changed_parties = self._parties_that_changed()
        self._everything = self._everything_changed()
        everyone = range(len(self.callers))
        self._everyone = frozenset(everyone)
        self._moved = frozenset(
            number
            for number in everyone
            if not self._changed_parties.isdisjoint({self.callers[number].old_owner, self.callers[number].new_owner})
        )
        require_tls = any(
            guard.require is not None and guard.require.tls is not None for guard in (*old.guardrails, *new.guardrails)
        )
        self._versions: tuple[TlsVersion | None, ...] = tuple(reversed(TlsVersion)) if require_tls else (None,)

    # --- what can differ at all

    def _parties_that_changed(self) -> frozenset[str | None]:
        """Give the Services and ThirdParties that are not what they were, nor called, known or guarded as they were."""
        everybody = {*self._old.parties, *self._new.parties}
        changed: set[str | None] = {
            name
            for name in everybody
            if not _same_but_for_metadata(self._old.parties.get(name), self._new.parties.get(name))
        }
        for caller in self.callers:
            if caller.old_owner != caller.new_owner:
                changed |= {caller.old_owner, caller.new_owner}
        for destination in self._destinations:
            if destination.old_party != destination.new_party:
                changed |= {destination.old_party, destination.new_party}
        for name in {*self._old.guards, *self._new.guards}:
            before, after = self._old.guards.get(name), self._new.guards.get(name)
            if before is None or not before.is_same(after):
                for each in (before, after):
                    changed |= set() if each is None else everybody if each.targets is None else set(each.targets)
        return frozenset(changed - {None})

    def _everything_changed(self) -> bool:
        """Whether what holds for every call changed: then every rule is looked at."""
        before, after = self._old.set.mesh, self._new.set.mesh
        return (
            set(before.trust_domains) != set(after.trust_domains)
            or {each.trust_domain for each in before.federates} != {each.trust_domain for each in after.federates}
            or set(before.revoked) != set(after.revoked)
            or before.defaults != after.defaults
        )

    def _changed_for(self, reach: RuleReach, *, is_new: bool) -> frozenset[int]:
        """Give the classes of callers that a rule is for, if it, or somebody whom it is about, is not what it was."""
        other = (self._old if is_new else self._new).rules.get(reach.rule.name)
        callers = self._callers_of(reach, is_new=is_new)
        changed = (
            self._everything or not reach.is_same(other) or not self._changed_parties.isdisjoint(reach.targets or ())
        )
        return callers if changed else callers & self._moved

    def _callers_of(self, reach: RuleReach, *, is_new: bool) -> frozenset[int]:
        if reach.callers is None:
            return self._everyone
        found = {number for name in reach.callers.names for number in self._by_owner.get((is_new, name), ())}
        for each in reach.callers.identities:
            for number in self._by_pattern.get(each.pattern, ()):
                caller = self.callers[number]
                if each.owners is None or (caller.new_owner if is_new else caller.old_owner) in each.owners:
                    found.add(number)
        return frozenset(found)

    # --- calls

    def changed_calls(self) -> Iterator[ChangedCall]:
        """Give every class of calls that the two sets answer differently."""
        changed_for = {
            id(reach): self._changed_for(reach, is_new=side is self._new)
            for side in (self._old, self._new)
            for reach in side.rules.values()
        }
        for destination in self._destinations:
            sides = (self._old, destination.old_party), (self._new, destination.new_party)
            meanings = [
                _Meaning(operation=operation, changed_for=changed_for[id(reach)])
                for side, party in sides
                for reach in side.at.get(party, ())
                for operation in (reach.targets or {})[party or ""]
            ]
            meanings += self._observed(destination)
            meanings += [
                _Meaning(operation=operation) for side, party in sides for operation in side.guard_operations(party)
            ]
            if any(meaning.changed_for for meaning in meanings):
                yield from self._at(destination, meanings)

    def _observed(self, destination: DestinationClass) -> Iterator[_Meaning]:
        """Give the meaning of observe mode: whatever nobody forbids goes on, for everyone."""
        observing = self._old.observes(destination), self._new.observes(destination)
        if any(observing):
            there = {destination.old_party, destination.new_party}
            changed = self._everything or observing[0] is not observing[1] or bool(there & self._changed_parties)
            yield _Meaning(operation=EVERY_OPERATION, changed_for=self._everyone if changed else self._moved)

    def _at(self, destination: DestinationClass, meanings: list[_Meaning]) -> Iterator[ChangedCall]:
        operations = [meaning.operation for meaning in meanings]
        shapes: frozenset[PathShape] = frozenset()
        if destination.old_party is not None and destination.new_party is not None:
            shapes = self._old.shapes(destination.old_party) ^ self._new.shapes(destination.new_party)
        versions = self._versions if destination.direction is Direction.INBOUND else (None,)
        paths = tuple(path_classes(operations, shapes))
        for path in paths:
            methods = tuple(replace(each, tls=tls) for each in path.methods(operations) for tls in versions)
            numbers = frozenset().union(*(meanings[number].changed_for for number in path.operations))
            for number in sorted(numbers):
                caller = self.callers[number]
                if destination.direction is Direction.OUTBOUND and self._is_third_party(caller):
                    continue  # no sidecar stands between two ThirdParties
                for method in methods:
                    call = call_of_classes(caller, destination, method, path)
                    for change in self._answers.changes(call):
                        yield ChangedCall(
                            caller=caller,
                            destination=destination,
                            path=path,
                            method=method,
                            change=change,
                            example=call,
                            methods=methods,
                            paths=paths,
                        )

    def _is_third_party(self, caller: CallerClass) -> bool:
        party = self._new.parties.get(caller.new_owner or "") or self._old.parties.get(caller.old_owner or "")
        return party is not None and not isinstance(party, Service)


def _same_but_for_metadata(one: Service | ThirdParty | None, other: Service | ThirdParty | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.model_copy(update={"metadata": other.metadata}) == other
