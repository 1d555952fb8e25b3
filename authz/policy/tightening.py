"""What an edit of a set takes away for certain, known as soon as the edit is read and long before it is compiled.

While a new set is being compiled the one before decides. What the new one revokes, the windows of ThirdParties and
MicroPolicies that it narrows, and the MicroPolicies that it removes are few names: who answers by the set before looks
at them, too, so that these calls are refused at once.

# INVARIANT (only tighter): a tightening makes denies of allows, for the reasons of the new set, and does nothing else.
# INVARIANT (certain): it denies nothing that the new set allows. What an edit moves (a policy under another name, an
# identity to another party) is left to the new set: `removed` and `narrowed` hold only what no other part of the edit
# may allow again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from authz.policy.evaluation import evaluate
from authz.policy.revocation import RevokedSerial, canonical_serial, parse_revocation
from authz.policy.selection import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from authz.decision import Decision
    from authz.identity.spiffe_id import SpiffeId
    from authz.policy.index import PolicyIndex
    from authz.policy.party import Entry, Party, Rule
    from authz.policy.policy_set import PolicySet
    from authz.policy.revocation import Revocation
    from authz.policy.schema import MicroPolicy, ThirdParty
    from authz.policy.window import Window
    from authz.request import Call

#: opens and closes of a window, each None where it has no end on that side
Dates: TypeAlias = "tuple[int | None, int | None]"
#: policies of one edit that are new or otherwise changed; of more, only the compiled set tells what they allow
MOST_COMPARED: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Tightening:
    """What `revision` takes away of the set before it.

    `parties` and `narrowed` are the new windows of ThirdParties and MicroPolicies by name, `removed` the names of
    MicroPolicies that are gone.
    """

    revision: str
    revoked: frozenset[Revocation] = frozenset()
    parties: Mapping[str, Dates] = field(default_factory=dict)
    narrowed: Mapping[str, Dates] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is taken away."""
        return not (self.revoked or self.parties or self.narrowed or self.removed)

    def is_revoked(self, spiffe_id: SpiffeId, serial: str | None) -> bool:
        """Whether an identity, or the certificate with this serial number (in hex) that proved it, is taken back."""
        if spiffe_id in self.revoked:
            return True
        if serial is None:
            return False
        return RevokedSerial(trust_domain=spiffe_id.trust_domain, serial=canonical_serial(serial)) in self.revoked

    def entries_left(self, entries: Sequence[Entry[Rule]]) -> list[Entry[Rule]]:
        """Give what is left of rules that match a call, with their new windows."""
        left = []
        cut: dict[str, Rule] = {}  # a rule with several paths stands in several entries, and stays one
        for entry in entries:
            rule = entry.rule
            if rule.name in self.removed:
                continue
            dates = self.narrowed.get(rule.name)
            if dates is None:
                left.append(entry)
                continue
            if rule.name not in cut:
                cut[rule.name] = replace(rule, window=_cut(rule.window, dates))
            left.append(replace(entry, rule=cut[rule.name]))
        return left

    def party(self, party: Party) -> Party:
        """Give a ThirdParty with its new window."""
        dates = self.parties.get(party.name)
        return party if dates is None else replace(party, window=_cut(party.window, dates))

    def as_fields(self) -> dict[str, Any]:
        """Give it as JSON has it; :meth:`from_fields` reads it again."""
        return {
            "revision": self.revision,
            "revoked": sorted(map(str, self.revoked)),
            "parties": dict(self.parties),
            "narrowed": dict(self.narrowed),
            "removed": sorted(self.removed),
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Self:
        """Read what :meth:`as_fields` gave."""
        return cls(
            revision=fields["revision"],
            revoked=frozenset(map(parse_revocation, fields["revoked"])),
            parties={name: (opens_ns, closes_ns) for name, (opens_ns, closes_ns) in fields["parties"].items()},
            narrowed={name: (opens_ns, closes_ns) for name, (opens_ns, closes_ns) in fields["narrowed"].items()},
            removed=frozenset(fields["removed"]),
        )


def tighter(decision: Decision, index: PolicyIndex, call: Call, now_ns: int, tightening: Tightening) -> Decision:
    """Give what a call gets, to which `index` alone gives `decision`, while a new set is being made ready.

    A deny is in the name of the new set's revision.
    """
    if not decision.reason.allows:
        return decision
    left = evaluate(index, call, now_ns, tightening)
    if not left.reason.allows:
        return left._replace(revision=tightening.revision)
    ends_ns = [each for each in (decision.valid_until_ns, left.valid_until_ns) if each is not None]
    return left._replace(valid_until_ns=min(ends_ns, default=None))


def tightening_of(before: PolicySet, after: PolicySet) -> Tightening:
    """Give what an edit takes away for certain.

    Cost: a comparison for each document of the set; of those that are the same object, next to nothing.
    """
    revoked = frozenset(after.mesh.revoked) - frozenset(before.mesh.revoked)
    tightening = Tightening(revision=after.revision, revoked=revoked)
    if not _means_the_same_calls(before, after):
        return tightening
    parties: dict[str, Dates] = {}
    for was, now in zip(before.third_parties, after.third_parties, strict=True):
        if _is_narrower(was.window, now.window):
            parties[now.name] = _dates(now.window)
    removed, narrowed, others = _changed_policies(before, after)
    if len(others) > MOST_COMPARED:
        return replace(tightening, parties=parties)
    rest = _Others(others, after)
    return replace(
        tightening,
        parties=parties,
        narrowed={each.name: _dates(each.window) for each in narrowed if not rest.may_allow_what(each)},
        removed=frozenset(each.name for each in removed if not rest.may_allow_what(each)),
    )


def _means_the_same_calls(before: PolicySet, after: PolicySet) -> bool:
    """Whether both sets take calls for the same: the same parties, but for windows, and no Guardrail fewer.

    Where a Mesh goes over to observing, what is taken away goes on.
    """
    if not _are_same(before.services, after.services) or len(before.third_parties) != len(after.third_parties):
        return False
    for was, now in zip(before.third_parties, after.third_parties, strict=True):
        if was is not now and was != now and _without_window(was) != _without_window(now):
            return False
    one, other = before.mesh, after.mesh
    if (one.trust_domains, one.defaults) != (other.trust_domains, other.defaults):
        return False
    guardrails = {each.name: each for each in after.guardrails}
    return all(guardrails.get(each.name) == each for each in before.guardrails)


def _changed_policies(
    before: PolicySet, after: PolicySet
) -> tuple[list[MicroPolicy], list[MicroPolicy], list[MicroPolicy]]:
    """Give the MicroPolicies that are gone, those whose dates are narrower now, and others that are new or changed."""
    were = {each.name: each for each in before.micro_policies}
    narrowed, others = [], []
    for now in after.micro_policies:
        was = were.pop(now.name, None)
        if was is now:
            continue
        if was is None or _without_window(was) != _without_window(now):
            others.append(now)
        elif _is_narrower(was.window, now.window):
            narrowed.append(now)
        elif was.window != now.window:
            others.append(now)
    return list(were.values()), narrowed, others


class _Others:
    """Policies that may allow again what another one does no more: of the same callers, at the same destination."""

    def __init__(self, policies: Sequence[MicroPolicy], policy_set: PolicySet) -> None:
        self._selection = Selection(policy_set) if policies else None
        self._extents = [self._extent(policy) for policy in policies]

    def may_allow_what(self, policy: MicroPolicy) -> bool:
        """Whether any of them meets a policy; where callers are selected by identity, any may be meant."""
        if not self._extents:
            return False
        callers, targets = self._extent(policy)
        return any(
            not targets.isdisjoint(their_targets) and (not callers or not theirs or not callers.isdisjoint(theirs))
            for theirs, their_targets in self._extents
        )

    def _extent(self, policy: MicroPolicy) -> tuple[frozenset[str], set[str]]:
        """Give the callers, none where identities select them, and the destinations of a policy."""
        if self._selection is None:
            return frozenset(), set()
        callers = self._selection.callers(policy.callers)
        targets = {name for target in policy.targets for name in self._selection.targets(target)}
        return frozenset() if callers.identities else callers.names, targets


def _are_same(one: Sequence[object], other: Sequence[object]) -> bool:
    return len(one) == len(other) and all(a is b or a == b for a, b in zip(one, other, strict=True))


def _without_window(named: MicroPolicy | ThirdParty) -> dict[str, object]:
    """Give all that decides about calls, but for the window."""
    return {"name": named.name} | {
        name: value for name, value in named.__dict__.items() if name not in {"metadata", "window"}
    }


def _is_narrower(was: Window, now: Window) -> bool:
    """Whether dates have moved towards each other, and nothing else of a window has changed."""
    if was.hours != now.hours or _dates(was) == _dates(now):
        return False
    return _dates(_cut(was, _dates(now))) == _dates(now)


def _dates(window: Window) -> Dates:
    return window.opens_ns, window.closes_ns


def _cut(window: Window, dates: Dates) -> Window:
    """Give what a window and some dates have in common."""
    opens_ns, closes_ns = dates
    return replace(
        window,
        opens_ns=max((each for each in (window.opens_ns, opens_ns) if each is not None), default=None),
        closes_ns=min((each for each in (window.closes_ns, closes_ns) if each is not None), default=None),
    )
