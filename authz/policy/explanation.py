"""Why a call is answered as it is: the steps of the language that were taken, and the rules that were near.

The answer is `evaluate`'s own. The steps tell, in the contract's order, what each of them found; the last one is the
one that decided. What the steps of a call are is told here; what its rules lack, in `compared_rule`; what they say of
it, in `explained_ruling`.

# INVARIANT (agrees): the last step's reason and policy are those of the answer, and no step before it has a reason;
# those of `if_enforced` are the shadow's, and the verdict of `then` is the one from `valid_until` on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.decision import Reason
from authz.policy.compared_rule import CallField, KnownCall, compared
from authz.policy.errors import nearest, quoted
from authz.policy.evaluation import CONNECT, call_facts, called_party, evaluate, of_presenter
from authz.policy.explained_ruling import ExplainedRuling, Step, closed_tunnel_in_words
from authz.policy.host import DEFAULT_PORTS, is_well_formed, requested_host
from authz.policy.malformed import why_malformed
from authz.policy.route import NO_SHAPES, is_method, path_segments
from authz.policy.schema import Kind, Service
from authz.request import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from authz.decision import Decision
    from authz.identity.spiffe_id import SpiffeId
    from authz.policy.compared_rule import ComparedRule, Party
    from authz.policy.index import PolicyIndex
    from authz.policy.policy_set import PolicySet
    from authz.policy.route import PathShape
    from authz.request import Call

#: So many of the rules that did not match are told.
MAX_NEAREST: Final = 5
#: The answers of which a rule could have made another one.
_OPEN_TO_RULES: Final = frozenset(
    {Reason.NO_POLICY, Reason.NOT_YET_OPEN, Reason.OUTSIDE_HOURS, Reason.CLOSED, Reason.OBSERVED}
)
_KIND_OF_REASON: Final = {
    Reason.GUARDRAIL: Kind.GUARDRAIL,
    Reason.NOT_COMMISSIONED: Kind.THIRD_PARTY,
    Reason.DECOMMISSIONED: Kind.THIRD_PARTY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """An answer with its steps; `place` is where the deciding document stands, `nearest` what else could allow.

    `if_enforced` is the step that would decide with every mode `enforce`, where the answer would be another one;
    `then` the one that decides from the answer's `valid_until` on. `closed_tunnel` says why a CONNECT is no tunnel that
    a rule could open.
    """

    decision: Decision
    at_ns: int
    place: str | None
    steps: tuple[Step, ...]
    if_enforced: Step | None
    then: Step | None
    nearest: tuple[ComparedRule, ...]
    closed_tunnel: str | None


def explain(policy_set: PolicySet, index: PolicyIndex, call: Call, now_ns: int) -> Explanation:
    """Answer a call at an instant and say why; `index` is the set's own. Cost: linear in the number of rules."""
    decision = evaluate(index, call, now_ns)
    walk = _Walk(policy_set, index, call, now_ns)
    steps = tuple(walk.steps())
    until_ns = decision.valid_until_ns
    enforced = _Walk(policy_set, index, call, now_ns, every_mode_enforced=True).last_step()
    same = (enforced.reason, enforced.policy) == (steps[-1].reason, steps[-1].policy)
    near: tuple[ComparedRule, ...] = ()
    closed_tunnel = None if decision.reason is not Reason.NO_POLICY else walk.closed_tunnel()
    if decision.reason in _OPEN_TO_RULES and closed_tunnel is None:
        known = walk.known_call()
        near = _nearest(compared(rule, known, now_ns) for rule in policy_set.micro_policies)
    return Explanation(
        decision=decision,
        at_ns=now_ns,
        place=None
        if decision.policy is None
        else place_of(policy_set, _KIND_OF_REASON.get(decision.reason, Kind.MICRO_POLICY), decision.policy),
        steps=steps,
        if_enforced=None if same else enforced,
        then=None if until_ns is None else _Walk(policy_set, index, call, until_ns).last_step(),
        nearest=near,
        closed_tunnel=closed_tunnel,
    )


def place_of(policy_set: PolicySet, kind: Kind, name: str, *keys: str) -> str:
    """Give `file:line` of a document of the set, or of a place in it."""
    document = policy_set.documents[kind, name]
    return f"{document.path}:{document.node(*keys).line}"


def _nearest(rules: Iterable[ComparedRule]) -> tuple[ComparedRule, ...]:
    """Give the rules that lack the least: few fields first, of the same number those whose path fits further."""
    related = [each for each in rules if each.lacks and each.is_related]
    about_both = {CallField.CALLER, CallField.DESTINATION}
    related.sort(
        key=lambda each: (
            len(each.lacks),
            len(about_both & {lack.field for lack in each.lacks}),
            -each.fitting,
            each.rule.name,
        )
    )
    # What lacks much more than the nearest one is not near.
    return tuple(each for each in related[:MAX_NEAREST] if len(each.lacks) <= len(related[0].lacks) + 1)


class _Walk:
    """The steps of the language over one call, each reading what those before it found."""

    def __init__(
        self,
        policy_set: PolicySet,
        index: PolicyIndex,
        call: Call,
        now_ns: int,
        *,
        every_mode_enforced: bool = False,
    ) -> None:
        self._set = policy_set
        self._index = index
        self._call = call
        self._now_ns = now_ns
        self._every_mode_enforced = every_mode_enforced
        self._parties: dict[str, Party] = {party.name: party for party in policy_set.parties}
        self._found = called_party(index, call)
        self._destination = self._party(None if self._found is None else self._found.name)
        owner = index.certified(call.third_party) if call.caller is None else index.owner(call.caller)
        self._owner = self._party(None if owner is None else owner.name)

    def steps(self) -> Iterator[Step]:
        """Take the steps until one of them answers."""
        for take in (self._request, self._caller, self._destined):
            step = take()
            yield step
            if step.reason is not None:
                return
        if self._found is not None:
            ruling = ExplainedRuling(
                self._set,
                self._index,
                self._call,
                self._known_calls(),
                self._found,
                now_ns=self._now_ns,
                every_mode_enforced=self._every_mode_enforced,
            )
            yield from ruling.steps()

    def last_step(self) -> Step:
        """Give the step that answers."""
        *_, last = self.steps()
        return last

    def _party(self, name: str | None) -> Party | None:
        return None if name is None else self._parties.get(name)

    def closed_tunnel(self) -> str | None:
        """Say why the call is a tunnel that is not its caller's to open; None where it is none."""
        call, index = self._call, self._index
        owner = index.certified(call.third_party) if call.caller is None else index.owner(call.caller)
        return None if self._found is None else closed_tunnel_in_words(call, owner, self._found)

    def known_call(self) -> KnownCall:
        """Give the call as the rules see it, once the first three steps have passed."""
        call, destination, caller, segments = self._call, self._destination, self._call.caller, self._segments()
        if (caller is None and self._owner is None) or destination is None or segments is None or self._found is None:
            raise AssertionError("steps 1 to 3 have passed")
        return KnownCall(
            caller=caller,
            owner=self._owner,
            destination=destination,
            method=call.method,
            segments=tuple(segments),
            content_types=tuple(value for name, value in call.headers if name == "content-type"),
            facts=call_facts(self._index, call, self._found, segments),
        )

    def _known_calls(self) -> tuple[KnownCall, ...]:
        """Give the call as Guardrails see it: as the caller's, and as that of whoever presents the caller's token."""
        known = self.known_call()
        if self._call.presenter is None:
            return (known,)
        call = of_presenter(self._call)
        presented = _Walk(self._set, self._index, call, self._now_ns)
        return known, presented.known_call()

    # --- step 1

    def _segments(self) -> list[str] | None:
        call = self._call
        if not is_method(call.method) or not is_well_formed(call.host):
            return None
        if call.method == CONNECT:
            return [""] if call.direction is Direction.OUTBOUND else None
        return path_segments(call.path, self._shapes)

    @property
    def _shapes(self) -> frozenset[PathShape]:
        return NO_SHAPES if self._destination is None else self._destination.path_shapes

    def _request(self) -> Step:
        segments = self._segments()
        if segments is None:
            found = why_malformed(self._call, self._shapes)
            return Step(number=1, name="request", found=found, reason=Reason.MALFORMED)
        if self._call.method == CONNECT:
            return Step(number=1, name="request", found="well-formed; the path of a CONNECT counts as `/`")
        path = quoted("/" + "/".join(segments))
        return Step(number=1, name="request", found=f"well-formed; the path is {path}")

    # --- step 2

    def _caller(self) -> Step:
        found, reason = self._who()
        return Step(number=2, name="caller", found=found, reason=reason)

    def _who(self) -> tuple[str, Reason | None]:
        identity, presenter = self._call.caller, self._call.presenter
        unproven = self._unproven()
        if unproven is not None:
            return unproven, Reason.UNIDENTIFIED
        if identity is None:
            if self._owner is None:
                return "there is no verified identity", Reason.UNIDENTIFIED
            return f"{_named(self._owner)}, proved by a certificate without SPIFFE ID", None
        revoked = self._revoked(identity, self._call.serial if presenter is None else None)
        if revoked is None and presenter is not None:
            revoked = self._revoked(presenter, self._call.serial)
        if revoked is not None:
            return revoked, Reason.UNIDENTIFIED
        if self._owner is None:
            found, reason = self._nobodys(identity)
        else:
            shown = quoted(str(identity))
            found, reason = f"{shown} is {_named(self._owner)}{_matching_identity(self._owner, identity)}", None
        return found if presenter is None else f"{found}; its token is presented by {quoted(str(presenter))}", reason

    def _unproven(self) -> str | None:
        """Say why what the caller has is no proof to the destination; None where it is one."""
        identity, presenter, found = self._call.caller, self._call.presenter, self._found
        if presenter is None:
            if found is None or found.accepts_x509:
                return None
            return f"{quoted(found.name)} accepts no X.509-SVID, and there is no other proof"
        if identity is None:
            return "there is no verified identity"
        if found is None or not found.accepts_jwt:
            return "the destination accepts no JWT-SVID"
        owner = self._party(self._index.identity_owner(presenter))
        if presenter == identity or (isinstance(owner, Service) and owner.name in found.forwarders):
            return None
        shown = quoted(str(presenter))
        return f"{shown} presents the token of another, and is not among the `forwarders` of {quoted(found.name)}"

    def _revoked(self, identity: SpiffeId, serial: str | None) -> str | None:
        """Say how an identity, or the certificate that proves it, is taken back; None where it is not."""
        if not self._index.is_revoked(identity, serial):
            return None
        where = place_of(self._set, Kind.MESH, self._set.mesh.name, "spec", "revoked")
        what = "is" if self._index.is_revoked(identity, None) else "is proved by a certificate that is"
        return f"{quoted(str(identity))} {what} listed under `revoked` in {where}"

    def _nobodys(self, identity: SpiffeId) -> tuple[str, Reason | None]:
        """Judge a verified identity that belongs to no Service or ThirdParty."""
        shown, domain = quoted(str(identity)), identity.trust_domain
        if domain in self._index.trust_domains:
            return f"{shown} belongs to no Service or ThirdParty; only `identities` selectors can match it", None
        federated = [each.trust_domain for each in self._set.mesh.federates]
        if domain in federated:
            text = f"{shown} is of a federated trust domain and belongs to no Service or ThirdParty"
            known = [str(pattern) for party in self._set.parties for pattern in party.identities]
            hint = nearest(str(identity), known, similarity=0.8)
        else:
            text = f"the trust domain {quoted(domain.name)} is neither own nor federated"
            known = [each.name for each in (*self._set.mesh.trust_domains, *federated)]
            hint = nearest(domain.name, known)
        return text + hint, Reason.UNTRUSTED

    # --- step 3

    def _destined(self) -> Step:
        if self._destination is None:
            reason = Reason.UNKNOWN_DESTINATION
            return Step(number=3, name="destination", found=self._why_unknown(), reason=reason)
        if self._call.direction is Direction.INBOUND:
            found = f"{_named(self._destination)}, inbound"
        else:
            found = f"{quoted(self._call.host)} is {_named(self._destination)}, outbound"
        return Step(number=3, name="destination", found=found)

    def _why_unknown(self) -> str:
        call = self._call
        if call.direction is Direction.INBOUND:
            hint = nearest(call.service, [service.name for service in self._set.services])
            return f"there is no Service {quoted(call.service)}{hint}"
        text = f"the host {quoted(call.host)} is that of no Service and of no ThirdParty"
        requested = requested_host(call.host)
        if requested is None:
            return f"{text}; it has no port from 1 to 65535 after its `:`"
        name, port = requested
        other_ports = sorted(
            str(host)
            for party in self._set.third_parties
            for host in party.hosts
            if host.name == (name.partition(".")[2] if host.wildcard else name)
        )
        if other_ports and port is not None:
            usual = "" if port in DEFAULT_PORTS else "; one without a port stands for none, 80 and 443"
            return f"{text}: the port {port} is not that of {', '.join(map(quoted, other_ports))}{usual}"
        if other_ports:
            return f"{text}: {', '.join(map(quoted, other_ports))} has a port"
        known = [service.name for service in self._set.services]
        known += [host for service in self._set.services for host in service.hosts]
        known += [str(host) for party in self._set.third_parties for host in party.hosts]
        return text + nearest(name, known)


def _named(party: Party) -> str:
    return f"the {'Service' if isinstance(party, Service) else 'ThirdParty'} {quoted(party.name)}"


def _matching_identity(owner: Party, identity: SpiffeId) -> str:
    """Give the entry by which an ID belongs to its owner, where that is a pattern."""
    patterns: Sequence[str] = [str(each) for each in owner.identities if each.exact is None and each.matches(identity)]
    exact = any(each.exact == identity for each in owner.identities)
    return "" if exact or not patterns else f", by {quoted(patterns[0])}"
