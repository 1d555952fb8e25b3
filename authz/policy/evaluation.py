"""The answer to a call: steps 1 to 8 of the policy language, one function each, in their order.

Decides; reads no clock (`now` is passed in), no file and no environment. The default is deny: what no step allows is
`no_policy`.

# INVARIANT (total): every Call gets a Decision, whatever its texts are; nothing raises.
# INVARIANT (cost): a decision costs the same in a set of ten policies and in one of a hundred thousand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.decision import Decision, Reason
from authz.policy.deadline import allowed_until_ns, denied_until_ns
from authz.policy.host import is_well_formed, requested_host
from authz.policy.party import GRPC_METHOD, most_literal
from authz.policy.route import NO_SHAPES, grpc_path, is_grpc_content_type, is_method, path_segments
from authz.policy.window import HORIZON_NS, WindowState
from authz.request import Direction

if TYPE_CHECKING:
    from authz.identity.spiffe_id import SpiffeId
    from authz.policy.index import PolicyIndex
    from authz.policy.party import Entry, Party, Rule
    from authz.policy.window import Window
    from authz.request import Call

#: Opaque tunnels: outbound only, and only where the caller's Service says so.
CONNECT: Final = "CONNECT"

_REASON_OF_STATE: Final = {
    WindowState.NOT_YET_OPEN: Reason.NOT_YET_OPEN,
    WindowState.OUTSIDE_HOURS: Reason.OUTSIDE_HOURS,
    WindowState.CLOSED: Reason.CLOSED,
}


def evaluate(index: PolicyIndex, call: Call, now_ns: int) -> Decision:
    """Answer a call at an instant."""
    asked = _Asked(index, call)
    segments = _decoded_path(asked)
    if segments is None:
        return asked.answer(Reason.MALFORMED)  # step 1
    identity = call.caller
    if identity is None or index.is_revoked(identity, call.serial):
        return asked.answer(Reason.UNIDENTIFIED)  # step 2
    if _is_untrusted(asked, identity):
        return asked.answer(Reason.UNTRUSTED)  # step 2
    destination = asked.destination
    if destination is None:
        return asked.answer(Reason.UNKNOWN_DESTINATION)  # step 3
    # Step 4, the Guardrails, has its place here.
    matched = _Matched(asked, identity, destination, segments, now_ns)
    return _outside_commission(matched) or _allowed(matched) or _not_open(matched) or _no_policy(matched)


class _Asked:
    """A call with the Services and ThirdParties that it is between, as far as they are known."""

    __slots__ = ("call", "caller", "destination", "index")

    def __init__(self, index: PolicyIndex, call: Call) -> None:
        self.index = index
        self.call = call
        self.caller = None if call.caller is None else index.owner(call.caller)
        self.destination = _destination(index, call)

    def answer(
        self, reason: Reason, policy: str | None = None, valid_until_ns: int | None = None, route: str | None = None
    ) -> Decision:
        """Give the answer with everything that the record of the call needs."""
        caller_service, caller_third_party = _names(self.caller)
        destination_service, destination_third_party = _names(self.destination)
        return Decision(
            reason=reason,
            policy=policy,
            revision=self.index.revision,
            valid_until_ns=valid_until_ns,
            caller_service=caller_service,
            caller_third_party=caller_third_party,
            destination_service=destination_service,
            destination_third_party=destination_third_party,
            route=route,
        )


def _names(party: Party | None) -> tuple[str | None, str | None]:
    """Give the name of a Service, or that of a ThirdParty."""
    if party is None:
        return None, None
    return (party.name, None) if party.is_service else (None, party.name)


def _destination(index: PolicyIndex, call: Call) -> Party | None:
    """Find what is called: inbound the Service whose sidecar asks, outbound what the host names."""
    if call.direction is Direction.INBOUND:
        return index.service(call.service)
    requested = requested_host(call.host) if is_well_formed(call.host) else None
    return None if requested is None else index.destination(*requested)


def _decoded_path(asked: _Asked) -> list[str] | None:
    """Step 1: give the path's segments, or None for a malformed request."""
    call = asked.call
    if not is_method(call.method) or not is_well_formed(call.host):
        return None
    if call.method == CONNECT:
        # Outbound only, and its path counts as `/`, whatever it is.
        return [""] if call.direction is Direction.OUTBOUND else None
    return path_segments(call.path, NO_SHAPES if asked.destination is None else asked.destination.path_shapes)


def _is_untrusted(asked: _Asked, identity: SpiffeId) -> bool:
    """Step 2: whether an identity is verified, but neither of an own trust domain nor known by name.

    Whoever is known by name is of an own or a federated trust domain: a set in which it is otherwise has a fault.
    """
    return asked.caller is None and identity.trust_domain not in asked.index.trust_domains


class _Matched:
    """A call between known parties, with what the rules say of it whatever the time."""

    __slots__ = ("_asked", "_destination", "_is_grpc", "_segments", "entries", "now_ns", "third_parties")

    def __init__(self, asked: _Asked, identity: SpiffeId, destination: Party, segments: list[str], now_ns: int) -> None:
        call = asked.call
        self._asked = asked
        self._destination = destination
        self._segments = segments
        self._is_grpc = call.method == GRPC_METHOD and is_grpc_content_type(
            [value for name, value in call.headers if name == "content-type"]
        )
        self.now_ns = now_ns
        self.third_parties = [
            party for party in (asked.caller, destination) if party is not None and not party.is_service
        ]
        # A tunnel needs the caller's `egress.connect` beside a rule, which is not supported yet: none is allowed.
        self.entries: list[Entry] = (
            []
            if call.method == CONNECT
            else asked.index.matching_entries(
                identity, asked.caller, destination, call.method, segments, is_grpc=self._is_grpc
            )
        )

    def answer(self, reason: Reason, policy: str | None, *, rule: Rule | None = None) -> Decision:
        """Give the answer, and until when it holds; `rule` is the deciding one."""
        rules = [entry.rule.window for entry in self.entries]
        parties = [party.window for party in self.third_parties]
        until_ns = allowed_until_ns if reason is Reason.ALLOWED else denied_until_ns
        return self._asked.answer(reason, policy, until_ns(rules, parties, self.now_ns), self._route(rule))

    def _route(self, rule: Rule | None) -> str | None:
        """Give the template that stands for the call in records: the destination's own, else the deciding rule's."""
        method = self._asked.call.method
        if method == CONNECT:
            return None
        offered = self._destination.api.matching(method, self._segments, is_grpc=self._is_grpc)
        entry = most_literal(offered or [entry for entry in self.entries if entry.rule is rule])
        if entry is None:
            return None
        # A gRPC call stands under its method's name, also where `pkg.Service/*` or `all` matched it.
        if entry.grpc or (self._is_grpc and entry.template is None):
            return grpc_path(self._segments) or entry.template
        return entry.template


def _outside_commission(matched: _Matched) -> Decision | None:
    """Step 5: the call's ThirdParty is before or after its window."""
    for party in matched.third_parties:
        match party.window.state(matched.now_ns):
            case WindowState.NOT_YET_OPEN:
                return matched.answer(Reason.NOT_COMMISSIONED, party.name)
            case WindowState.CLOSED | WindowState.OUTSIDE_HOURS:
                return matched.answer(Reason.DECOMMISSIONED, party.name)
            case WindowState.OPEN:
                pass
    return None


def _allowed(matched: _Matched) -> Decision | None:
    """Step 6: a MicroPolicy that matches is open."""
    now_ns = matched.now_ns
    first: Rule | None = None
    for entry in matched.entries:
        rule = entry.rule
        if (first is None or rule.name < first.name) and rule.window.is_open(now_ns):
            first = rule
    return None if first is None else matched.answer(Reason.ALLOWED, first.name, rule=first)


def _not_open(matched: _Matched) -> Decision | None:
    """Step 7: MicroPolicies match, and none is open; the one that is, or was, nearest to it says why."""
    now_ns = matched.now_ns
    rule = min(
        (entry.rule for entry in matched.entries),
        key=lambda each: (*_distance(each.window, now_ns), each.name),
        default=None,
    )
    if rule is None:
        return None
    return matched.answer(_REASON_OF_STATE[rule.window.state(now_ns)], rule.name, rule=rule)


def _distance(window: Window, now_ns: int) -> tuple[int, int]:
    """Order windows that are not open.

    First the one open again soonest within 366 days, else the one with the earliest later `opens`, else the one with
    the latest `closes`, where none counts as latest.
    """
    opening_ns = window.next_opening_ns(now_ns)
    if opening_ns is not None and opening_ns <= now_ns + HORIZON_NS:
        return 0, opening_ns
    if window.opens_ns is not None and window.opens_ns > now_ns:
        return 1, window.opens_ns
    if window.closes_ns is None:
        return 2, 0
    return 3, -window.closes_ns


def _no_policy(matched: _Matched) -> Decision:
    """Step 8: no MicroPolicy speaks of the call."""
    return matched.answer(Reason.NO_POLICY, None)
