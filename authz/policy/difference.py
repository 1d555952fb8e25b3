"""What two policy sets answer differently: who may do what where, at which times, in one and not in the other.

No comparison of texts: both sets are compiled, and every class of calls that they can tell apart is put to both, at
every time. Names of files, order, comments, and the names of rules are no difference where the answers are the same.
Only allow and deny count, not the reason. What no example can stand for is said in notes (`difference_notes`).

Only what a change can reach is looked at: what a rule or Guardrail means that is not in the other set, whoever is
somebody else than before, and destinations that are not what they were. Destinations of which the sets say the same are
gone through once, and so are callers.

# INVARIANT (sound): each difference has an example call and an instant at which the two sets, with their conditions as
# said, answer differently.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from authz.policy.answers_over_time import AnswersOverTime
from authz.policy.caller_classes import caller_classes
from authz.policy.changed_call import ChangedCall
from authz.policy.compared_set import ComparedSet, Numbering
from authz.policy.destination_classes import destination_classes
from authz.policy.difference_groups import Grouping
from authz.policy.difference_notes import difference_notes
from authz.policy.garbage import collector_at_rest
from authz.policy.operation import EVERY_OPERATION
from authz.policy.operation_classes import path_classes, tunnel_path
from authz.policy.proof_classes import proof_classes
from authz.policy.route import PathShape
from authz.policy.tls_classes import tls_classes
from authz.request import Call, Direction, TlsVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping

    from authz.identity.spiffe_id import SpiffeId
    from authz.policy.caller_classes import CallerClass, KnownCaller
    from authz.policy.changed_call import Change
    from authz.policy.compared_set import Features, Meaning
    from authz.policy.destination_classes import DestinationClass
    from authz.policy.difference_groups import Difference
    from authz.policy.operation_classes import HttpOrGrpc, MethodClass, PathClass
    from authz.policy.policy_set import PolicySet
    from authz.policy.proof_classes import ProofClass
    from authz.policy.tls_classes import TlsClass

    #: Told how many destinations are compared, and of how many.
    Progress = Callable[[int, int], None]

#: Of what destinations have in common, so much is kept.
MAX_KEPT: Final = 10_000

_GRPC_HEADERS: Final = (("content-type", b"application/grpc"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two sets side by side: what changes, grouped for reading, and what no example stands for."""

    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the two sets answer every call alike."""
        return not self.differences and not self.notes


def compare(old: PolicySet, new: PolicySet, *, now_ns: int, progress: Progress | None = None) -> Comparison:
    """Compare two sets; raises DifferenceError, or TooManyClassesError, where there is too much to be told.

    Recurring hours are followed for 366 days from `now_ns`; everything else is compared for all time. Cost: grows
    with what the documents that changed are about; besides, both sets are compiled.
    """
    with collector_at_rest():
        comparer = _Comparer(ComparedSet(old), ComparedSet(new), now_ns)
        differences = comparer.differences(progress)
    return Comparison(differences=differences, notes=tuple(difference_notes(old, new)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """A destination as both sets see it: with what they say of it, by operation."""

    destination: DestinationClass
    features: tuple[Features, Features]
    meanings: tuple[Mapping[Hashable, Meaning], Mapping[Hashable, Meaning]]

    @property
    def profile(self) -> Hashable:
        """Equal for places that are gone through alike."""
        said = (frozenset((key, each.rule) for key, each in side.items()) for side in self.meanings)
        return self.destination.direction, self.features, *said


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paths:
    """The paths at a place that are looked at, and what the sets say there; `changed` are the meanings of one only."""

    place: _Place
    operations: list[HttpOrGrpc]
    meanings: list[Meaning]
    changed: frozenset[int]
    paths: list[PathClass]

    def means(self, path: PathClass, method: MethodClass) -> list[int]:
        """Give the meanings, by number, of calls by a method on a path."""
        return [
            number
            for number in path.operations
            if number < len(self.meanings) and method.is_meant(self.meanings[number].operation)
        ]


class _Comparer:
    def __init__(self, old: ComparedSet, new: ComparedSet, now_ns: int) -> None:
        self._old, self._new = old, new
        self._answers = AnswersOverTime(old.index, new.index, now_ns)
        self._callers = caller_classes(old.set, new.set, old.index, new.index)
        self._numbering = Numbering()
        old.work_out(self._callers, self._numbering, is_new=False)
        new.work_out(self._callers, self._numbering, is_new=True)
        self._conditions = old.index.has_conditions or new.index.has_conditions
        self._versions = tls_classes(old.set, new.set)
        said = [(self._said(caller.old), self._said(caller.new)) for caller in self._callers]
        self._kind = [(caller.has_no_sidecar, *each) for caller, each in zip(self._callers, said, strict=True)]
        self._certified = frozenset(number for number, caller in enumerate(self._callers) if caller.example is None)
        self._heard = frozenset(number for number, caller in enumerate(self._callers) if not caller.is_refused)
        self._moved = frozenset(number for number in self._heard if said[number][0] != said[number][1])
        self._alike: dict[tuple[frozenset[int], frozenset[frozenset[int]]], list[tuple[int, ...]]] = {}

    def _said(self, caller: KnownCaller) -> Hashable:
        """Give what counts of a caller besides the rules that are for it."""
        owner = caller.owner
        window = None if owner is None or owner.is_service else self._numbering.number(owner.window)
        known = (owner.name, *sorted(owner.attributes.items())) if self._conditions and owner is not None else ()
        return caller.refused, window, known

    def differences(self, progress: Progress | None) -> tuple[Difference, ...]:
        """Go through all destinations."""
        grouping = Grouping(self._callers, self._heard)
        by_profile: dict[Hashable, list[DestinationClass]] = defaultdict(list)
        places: dict[Hashable, _Place] = {}
        for place in self._places():
            profile = place.profile
            places.setdefault(profile, place)
            by_profile[profile].append(place.destination)
        for number, (profile, destinations) in enumerate(by_profile.items()):
            if progress is not None:
                progress(number, len(by_profile))
            place = places.pop(profile)
            paths = self._paths(place)
            for proof in proof_classes(place.features, paths.meanings, self._kind, conditions=self._conditions):
                words = _words(proof, grouping)
                grouping.add(self._changed_at(paths, proof), paths.paths, destinations, words)
        return grouping.differences()

    def _places(self) -> Iterator[_Place]:
        """Give the destinations at which something may be answered differently."""
        for destination in destination_classes(self._old.set, self._new.set, self._old.index, self._new.index):
            features = tuple(
                each.features(destination, self._numbering, conditions=self._conditions)
                for each in (self._old, self._new)
            )
            place = _Place(
                destination=destination,
                features=(features[0], features[1]),
                meanings=(
                    self._old.meanings(self._old.party(destination)),
                    self._new.meanings(self._new.party(destination)),
                ),
            )
            before, after = place.meanings
            if features[0] != features[1] or before.keys() != after.keys() or self._reaches_moved(place):
                yield place

    def _reaches_moved(self, place: _Place) -> bool:
        if not self._moved:
            return False
        if any(each.observed for each in place.features) or self._has_moved_presenters(place):
            return True
        return any(
            not (each.is_guardrail or each.callers.isdisjoint(self._moved))
            for side in place.meanings
            for each in side.values()
        )

    def _has_moved_presenters(self, place: _Place) -> bool:
        return any(not each.presenters.isdisjoint(self._moved) for each in place.features)

    def _paths(self, place: _Place) -> _Paths:
        """Take the paths apart that a change can reach."""
        before, after = place.meanings
        features = place.features
        meanings = list({**before, **after}.values())
        one_sided = before.keys() ^ after.keys()
        changed = frozenset(number for number, each in enumerate(meanings) if each.key in one_sided)
        operations: list[HttpOrGrpc] = [each.operation for each in meanings]
        observed = any(each.observed for each in features)
        if observed:  # whatever nobody forbids goes on, for everyone
            operations.append(EVERY_OPERATION)
        everything = features[0] != features[1] or (observed and bool(self._moved)) or self._has_moved_presenters(place)
        moved = {number for number, each in enumerate(meanings) if not each.callers.isdisjoint(self._moved)}
        if place.destination.tunnel is not None:
            tunnel = tunnel_path(operations)
            relevant = everything or not tunnel.operations.isdisjoint(changed | moved)
            return _Paths(
                place=place,
                operations=operations,
                meanings=meanings,
                changed=changed,
                paths=[tunnel] if relevant else [],
            )
        shapes: frozenset[PathShape] = frozenset()
        if features[0].exists and features[1].exists:
            shapes = features[0].shapes ^ features[1].shapes
        gaps = any(PathShape.DOUBLE_SLASH in each.shapes for each in features)
        found = path_classes(operations, relevant=None if everything else changed | moved, shapes=shapes, gaps=gaps)
        return _Paths(place=place, operations=operations, meanings=meanings, changed=changed, paths=found)

    def _changed_at(self, paths: _Paths, proof: ProofClass) -> Iterator[ChangedCall]:
        """Give every class of calls at a destination, proven in one way, that the two sets answer differently."""
        destination = paths.place.destination
        inbound = destination.direction is Direction.INBOUND
        known: dict[Hashable, tuple[Change, ...]] = {}
        for path in paths.paths:
            versions: tuple[TlsClass | None, ...] = (None,)
            if inbound and self._is_asked_for_tls(paths, path):
                versions = self._versions
            methods = tuple(
                replace(each, tls=tls)
                for each in path.methods(paths.operations)
                if each.is_tunnel is (destination.tunnel is not None)
                for tls in versions
            )
            for method in methods:
                here = paths.means(path, method)
                for numbers in self._asking(paths, here, proof):
                    first = self._callers[numbers[0]]
                    pair = self._pair(numbers, proof)
                    if pair is None or (first.has_no_sidecar and not inbound):
                        continue
                    call = _call(first, destination, method, path, pair)
                    # What the same is said of, on whatever path and by whatever method, is answered alike.
                    said = frozenset(number for number in here if numbers[0] in paths.meanings[number].callers)
                    opens = tuple(numbers[0] in each.openers for each in paths.place.features)
                    judged = frozenset(
                        number for number in here if not paths.meanings[number].callers.isdisjoint(proof.presenters)
                    )
                    key = said, judged, opens, self._kind[numbers[0]], path.shape, path.has_gap, method.tls
                    if key not in known:
                        changes = self._answers.changes(call)
                        if changes and proof.like is not None:
                            like = replace(call, caller=pair[0], presenter=pair[0] if proof.like.is_token else None)
                            changes = () if changes == self._answers.changes(like) else changes
                        known[key] = changes
                    for change in known[key]:
                        yield ChangedCall(
                            numbers=numbers, path=path, method=method, change=change, example=call, methods=methods
                        )

    def _is_asked_for_tls(self, paths: _Paths, path: PathClass) -> bool:
        """Whether a Guardrail that asks for a version of TLS may be one to the new set and none to the old."""
        asking = [number for number in path.operations if number < len(paths.meanings)]
        moved = self._conditions and bool(self._moved)
        return any(paths.meanings[number].asks_for_tls and (moved or number in paths.changed) for number in asking)

    def _asking(self, paths: _Paths, here: list[int], proof: ProofClass) -> list[tuple[int, ...]]:
        """Give the callers for whom some of the meanings `here` change something, those together who are alike."""
        features = paths.place.features
        asking = self._heard - self._certified if proof.is_token else self._heard
        selected = {paths.meanings[number].callers for number in here}
        if paths.place.destination.tunnel is not None:
            asking &= features[0].openers | features[1].openers
            selected |= {each.openers for each in features}
        if not any(each.observed for each in features):
            asking &= _callers(paths.meanings[number] for number in here if not paths.meanings[number].is_guardrail)
        if features[0] == features[1] and not self._is_judged_otherwise(paths, here, proof):
            asking &= self._moved | _callers(paths.meanings[number] for number in here if number in paths.changed)
        if not asking:
            return []
        return self._alike_callers(asking, frozenset(selected))

    def _is_judged_otherwise(self, paths: _Paths, here: list[int], proof: ProofClass) -> bool:
        """Whether whoever presents a token may be judged in another way than before, for every caller."""
        return not self._moved.isdisjoint(proof.presenters) or any(
            number in paths.changed and not paths.meanings[number].callers.isdisjoint(proof.presenters)
            for number in here
            if paths.meanings[number].is_guardrail
        )

    def _pair(self, numbers: tuple[int, ...], proof: ProofClass) -> tuple[SpiffeId | None, SpiffeId | None] | None:
        """Give an example of a caller and of whoever presents its token; None if nobody else does."""
        first = self._callers[numbers[0]].example
        if not proof.is_token:
            return first, None
        if not proof.presenters:
            return first, first
        for presenter in proof.presenters:
            for number in numbers:
                if number != presenter:
                    return self._callers[number].example, self._callers[presenter].example
                if self._callers[number].another is not None:
                    return self._callers[number].example, self._callers[number].another
        return None

    def _alike_callers(self, asking: frozenset[int], selected: frozenset[frozenset[int]]) -> list[tuple[int, ...]]:
        """Take callers apart by which of the rules and Guardrails, each for some callers, are for them."""
        found = self._alike.get((asking, selected))
        if found is None:
            if len(self._alike) >= MAX_KEPT:
                self._alike.clear()
            by_rules: defaultdict[Hashable, list[int]] = defaultdict(list)
            ordered = list(selected)
            for number in sorted(asking):
                by_rules[self._kind[number], tuple(number in each for each in ordered)].append(number)
            found = self._alike[asking, selected] = [tuple(each) for each in by_rules.values()]
        return found


def _callers(meanings: Iterable[Meaning]) -> frozenset[int]:
    sets = {meaning.callers for meaning in meanings}
    return next(iter(sets)) if len(sets) == 1 else frozenset().union(*sets)


def _words(proof: ProofClass, grouping: Grouping) -> str:
    """Say how callers are proven, where it is not by their certificates alone."""
    if not proof.is_token:
        return ""
    presenters = grouping.names(frozenset(proof.presenters))
    return f" with a JWT-SVID presented by {', '.join(presenters)}" if presenters else " with a JWT-SVID"


def _call(
    caller: CallerClass,
    destination: DestinationClass,
    method: MethodClass,
    path: PathClass,
    pair: tuple[SpiffeId | None, SpiffeId | None],
) -> Call:
    """Give the example call of some classes, by a caller and whoever presents its token."""
    inbound = destination.direction is Direction.INBOUND
    tls = TlsVersion.TLS_1_3 if method.tls is None else method.tls.example
    example, presenter = pair
    return Call(
        direction=destination.direction,
        service=destination.service if inbound else caller.new.name or caller.old.name or "",
        caller=example,
        third_party=caller.third_party,
        presenter=presenter,
        method=method.method,
        path=path.target,
        host=destination.host,
        headers=_GRPC_HEADERS if method.is_grpc else (),
        tls=tls if inbound else None,
    )
