"""The answer to a call: who calls whom (steps 1 to 3 of the policy language), and what matches the call.

What the rules that match say of it is decided in `ruling` (steps 4 to 8), until when in `deadline`. Reads no clock
(`now` is passed in), no file and no environment.

# INVARIANT (total): every Call gets a Decision, whatever its texts are; nothing raises.
# INVARIANT (cost): a decision costs the same in a set of ten policies and in one of a hundred thousand.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from authz.decision import Decision, Reason, Shadow
from authz.policy.condition import CallFacts
from authz.policy.condition_words import HEADERS
from authz.policy.deadline import allowed_by_one_until_ns, valid_until_ns
from authz.policy.host import is_well_formed, requested_host
from authz.policy.party import GRPC_METHOD, most_literal
from authz.policy.route import NO_SHAPES, grpc_path, is_grpc_content_type, is_method, path_segments
from authz.policy.ruling import Matched, Ruling, ruling_at, takes_out
from authz.policy.window import HORIZON_NS
from authz.request import Direction, header_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.identity.spiffe_id import SpiffeId
    from authz.policy.index import PolicyIndex
    from authz.policy.party import Entry, Guard, Party, Rule
    from authz.policy.tightening import Tightening
    from authz.policy.window import Window
    from authz.request import Call, TlsVersion

#: Opens an opaque tunnel: outbound only, and only where the caller's Service says so.
CONNECT: Final = "CONNECT"
#: Python 3.11 runs code of its own for each member that is read from an Enum; this one is read for every call.
_INBOUND: Final = Direction.INBOUND
_ALLOWED: Final = Reason.ALLOWED
_NOBODY: Final = (None, None)


def evaluate(index: PolicyIndex, call: Call, now_ns: int, tightening: Tightening | None = None) -> Decision:
    """Answer a call at an instant; with a tightening, as if the set were without what that takes away."""
    return _answered(Asked(index, call, tightening), now_ns)


def _answered(asked: Asked, now_ns: int) -> Decision:
    segments = decoded_path(asked)
    if segments is None:
        return asked.answer(Reason.MALFORMED)  # step 1
    if is_unidentified(asked):
        return asked.answer(Reason.UNIDENTIFIED)  # step 2
    if is_untrusted(asked):
        return asked.answer(Reason.UNTRUSTED)  # step 2
    destination = asked.destination
    if destination is None:
        return asked.answer(Reason.UNKNOWN_DESTINATION)  # step 3
    return _decided(asked, destination, segments, now_ns)  # steps 4 to 8


def steady_until_ns(index: PolicyIndex, call: Call, now_ns: int) -> int:
    """Give an instant before which, from `now_ns` on, `evaluate` gives this call the very same decision.

    It is `now_ns` where that is not easily told: where anything but one rule that allows the call has a say, or
    anything of the call but who calls whom, by which method, host, path and content type.

    # INVARIANT (steady): the decision is the same in all that it says, not the verdict alone.
    """
    asked = Asked(index, call)
    until_ns = _answered(asked, now_ns).valid_until_ns
    window = asked.only_by
    if window is None or asked.is_conditional or call.presenter is not None:
        return now_ns
    if until_ns is not None:
        return until_ns
    if window.hours is not None or window.spans is not None:
        return now_ns
    # An end that comes within the horizon by then is told from then on.
    return now_ns + HORIZON_NS if window.closes_ns is None else window.closes_ns - HORIZON_NS


def call_facts(index: PolicyIndex, call: Call, destination: Party, segments: list[str]) -> CallFacts:
    """Give what conditions may ask about a well-formed call to a known destination."""
    return _facts(Asked(index, call), destination, segments)


class Asked:
    """A call with the Services and ThirdParties that it is between, as far as they are known."""

    __slots__ = ("call", "caller", "destination", "index", "is_conditional", "only_by", "tightening")

    def __init__(self, index: PolicyIndex, call: Call, tightening: Tightening | None = None) -> None:
        #: what of the set counts no more
        self.tightening = tightening
        #: the window of the rule that alone has a say, and allows the call
        self.only_by: Window | None = None
        #: whether conditions had to be looked at
        self.is_conditional = False
        self.index = index
        self.call = call
        identity = call.caller
        self.caller = index.certified(call.third_party) if identity is None else index.owner(identity)
        self.destination = called_party(index, call)

    def is_revoked(self, spiffe_id: SpiffeId, serial: str | None) -> bool:
        """Whether an identity, or the certificate that proved it, is taken back."""
        if self.index.is_revoked(spiffe_id, serial):
            return True
        return self.tightening is not None and self.tightening.is_revoked(spiffe_id, serial)

    def answer(
        self,
        reason: Reason,
        policy: str | None = None,
        valid_until_ns: int | None = None,
        route: str | None = None,
        shadow: Shadow | None = None,
    ) -> Decision:
        """Give the answer with everything that the record of the call needs."""
        caller_service, caller_third_party = _names(self.caller)
        service, third_party = _names(self.destination)
        return Decision(
            reason,
            policy,
            self.index.revision,
            valid_until_ns,
            shadow,
            caller_service,
            caller_third_party,
            service,
            third_party,
            route,
        )


def _names(party: Party | None) -> tuple[str | None, str | None]:
    """Give the name of a Service, or that of a ThirdParty."""
    return _NOBODY if party is None else party.names


def called_party(index: PolicyIndex, call: Call) -> Party | None:
    """Find what is called: inbound the Service whose sidecar asks, outbound what the host names."""
    if call.direction is _INBOUND:
        return index.service(call.service)
    requested = requested_host(call.host) if is_well_formed(call.host) else None
    return None if requested is None else index.destination(*requested)


def is_long_lived(index: PolicyIndex, call: Call) -> bool:
    """Whether the destination marks what is called `longLived`, by method and path, whatever rule allows the call."""
    if not index.has_long_lived:
        return False
    asked = Asked(index, call)
    destination = asked.destination
    if destination is None or destination.long_lived is None:
        return False
    segments = decoded_path(asked)
    if segments is None:
        return False
    is_grpc = call.method == GRPC_METHOD and is_grpc_content_type(header_values(call.headers, "content-type"))
    return bool(destination.long_lived.meaning(call.method, segments, is_grpc=is_grpc))


def depends_on_headers(index: PolicyIndex, call: Call) -> bool:
    """Whether a rule that means the call has a condition on its headers, whatever comes of that."""
    if not index.has_conditions_on_headers:
        return False
    asked = Asked(index, call)
    destination = asked.destination
    segments = None if destination is None else decoded_path(asked)
    if destination is None or segments is None:
        return False
    is_grpc = call.method == GRPC_METHOD and is_grpc_content_type(header_values(call.headers, "content-type"))
    units = index.units(call.caller, asked.caller)
    rules: list[Rule | Guard] = [*index.guards(units, destination, call.method, segments)]
    entries = index.matching_entries(units, destination, call.method, segments, is_grpc=is_grpc)
    rules.extend(entry.rule for entry in entries)
    return any(HEADERS in condition.reads for rule in rules for condition in rule.conditions)


def decoded_path(asked: Asked) -> list[str] | None:
    """Step 1: give the path's segments, or None for a malformed request."""
    call = asked.call
    if not is_method(call.method) or not is_well_formed(call.host):
        return None
    if call.method == CONNECT:
        # Outbound only, and its path counts as `/`, whatever it is.
        return [""] if call.direction is Direction.OUTBOUND else None
    return path_segments(call.path, NO_SHAPES if asked.destination is None else asked.destination.path_shapes)


def is_unidentified(asked: Asked) -> bool:
    """Step 2: whether nothing that the destination accepts proves who calls, or what does is revoked."""
    call, destination = asked.call, asked.destination
    if call.presenter is not None:
        return not _is_presented(asked, call, call.presenter, destination)
    if destination is not None and not destination.accepts_x509:
        return True
    identity = call.caller
    if identity is None:
        return asked.caller is None  # a ThirdParty that a certificate proves has no SPIFFE ID
    return asked.is_revoked(identity, call.serial)


def _is_presented(asked: Asked, call: Call, presenter: SpiffeId, destination: Party | None) -> bool:
    """Whether a JWT-SVID proves the caller: where one is accepted, from its own subject or from a forwarder."""
    if destination is None or not destination.accepts_jwt or call.caller is None:
        return False
    # The certificate of the connection is the presenter's, and so is its serial number.
    if asked.is_revoked(call.caller, None) or asked.is_revoked(presenter, call.serial):
        return False
    if presenter == call.caller:
        return True
    owner = asked.index.owner(presenter)
    return owner is not None and owner.is_service and owner.name in destination.forwarders


def is_untrusted(asked: Asked) -> bool:
    """Step 2: whether an identity is verified, but neither of an own trust domain nor known by name.

    Whoever is known by name is of an own or a federated trust domain: a set in which it is otherwise has a fault.
    """
    identity = asked.call.caller
    return asked.caller is None and identity is not None and identity.trust_domain not in asked.index.trust_domains


def is_closed_tunnel(call: Call, caller: Party | None, destination: Party) -> bool:
    """Whether a call would open an opaque tunnel that its caller may not open, whatever a rule allows."""
    if call.method != CONNECT:
        return False
    if caller is None or destination.is_service:
        return True
    return requested_host(call.host) not in caller.tunnels


def _decided(asked: Asked, destination: Party, segments: list[str], now_ns: int) -> Decision:
    """Give what the rules say (steps 4 to 8), until when, and what they would say if all of them were enforced."""
    call, index = asked.call, asked.index
    is_grpc = call.method == GRPC_METHOD and is_grpc_content_type(header_values(call.headers, "content-type"))
    units = index.units(call.caller, asked.caller)
    guards = index.guards(units, destination, call.method, segments)
    entries = index.matching_entries(units, destination, call.method, segments, is_grpc=is_grpc)
    if index.has_conditions:
        entries, guards = _whose_conditions_hold(asked, destination, segments, entries, guards)
    if call.presenter is not None:
        guards = list({guard.name: guard for guard in (*guards, *_of_presenter(asked, destination, segments))}.values())
    parties: Sequence[Party] = ()
    if not destination.is_service or (asked.caller is not None and not asked.caller.is_service):
        parties = [each for each in (asked.caller, destination) if each is not None and not each.is_service]
    if asked.tightening is not None:
        entries = asked.tightening.entries_left(entries)
        parties = [asked.tightening.party(each) for each in parties]
    if len(entries) == 1 and not guards and not parties and not index.observes and call.method != CONNECT:
        rule = entries[0].rule
        if rule.window.is_open(now_ns):
            # The usual call: one rule allows it, and nothing else of the set has a say (steps 4, 5 and 7 are empty).
            asked.only_by = rule.window
            return asked.answer(
                _ALLOWED,
                rule.name,
                allowed_by_one_until_ns(rule.window, now_ns),
                _route(call, destination, segments, entries, is_grpc=is_grpc),
            )
    rules = [entry.rule for entry in entries]
    forbidding: Sequence[Guard] = ()
    limiting: Sequence[Guard] = ()
    if guards:
        tls = _tls(call, destination)
        forbidding = [guard for guard in guards if guard.forbids(tls)]
        # A Guardrail that takes out none of the rules has no say.
        limiting = [guard for guard in guards if any(takes_out(guard, rule, parties) for rule in rules)]
    matched = Matched(
        parties=parties,
        rules=rules,
        forbidding=forbidding,
        limiting=limiting,
        observed=destination.observed,
        closed_tunnel=call.method == CONNECT and is_closed_tunnel(call, asked.caller, destination),
    )
    shadow: Shadow | None = None
    if index.observes and matched.observes_something:
        enforced, matched = matched.with_every_mode_enforced(), matched.without_observers()
        ruling = ruling_at(matched, now_ns)
        shadow = _shadow(ruling, ruling_at(enforced, now_ns))
    else:
        ruling = ruling_at(matched, now_ns)
    return asked.answer(
        ruling.reason,
        ruling.policy,
        valid_until_ns(matched, now_ns, allowed=ruling.reason.allows),
        _route(call, destination, segments, [entry for entry in entries if entry.rule is ruling.rule], is_grpc=is_grpc),
        shadow,
    )


def of_presenter(call: Call) -> Call:
    """Give a call as that of whoever presented its caller's token: Guardrails are judged for both."""
    return replace(call, caller=call.presenter, presenter=None)


def _of_presenter(asked: Asked, destination: Party, segments: list[str]) -> list[Guard]:
    """Give the guards that mean the call as its presenter's."""
    index, call = asked.index, of_presenter(asked.call)
    presented = Asked(index, call)
    units = index.units(call.caller, presented.caller)
    guards = index.guards(units, destination, call.method, segments)
    if index.has_conditions:
        _, guards = _whose_conditions_hold(presented, destination, segments, [], guards)
    return guards


def _tls(call: Call, destination: Party) -> TlsVersion | None:
    """Give the version of the caller's connection; outbound the lowest that is used towards the destination."""
    return call.tls if call.direction is Direction.INBOUND else destination.tls


def _whose_conditions_hold(
    asked: Asked, destination: Party, segments: list[str], entries: list[Entry[Rule]], guards: list[Guard]
) -> tuple[list[Entry[Rule]], list[Guard]]:
    """Leave out what has a condition that does not hold for the call."""
    rules = [rule for rule in (*guards, *(entry.rule for entry in entries)) if rule.conditions]
    if not rules:
        return entries, guards
    asked.is_conditional = True
    facts = _facts(asked, destination, segments)
    # A rule with several paths stands in several entries; a Guardrail may have the name of a MicroPolicy.
    left_out = {id(rule) for rule in {id(rule): rule for rule in rules}.values() if not rule.matches(facts)}
    return (
        [entry for entry in entries if id(entry.rule) not in left_out],
        [guard for guard in guards if id(guard) not in left_out],
    )


def _facts(asked: Asked, destination: Party, segments: list[str]) -> CallFacts:
    """Give what conditions may ask about."""
    call = asked.call
    caller_service, caller_third_party = _names(asked.caller)
    destination_service, destination_third_party = _names(destination)
    return CallFacts(
        texts={
            "request.method": call.method,
            "request.path": "/" + "/".join(segments),
            "request.host": call.host,
            "request.query": "" if call.method == CONNECT else call.path.partition("?")[2],
            "caller.identity": str(call.caller or ""),
            "caller.service": caller_service or "",
            "caller.thirdParty": caller_third_party or "",
            "caller.address": call.address,
            "destination.service": destination_service or "",
            "destination.thirdParty": destination_third_party or "",
            "tls.version": _tls(call, destination) or "",
        },
        headers=call.headers,
        caller_attributes={} if asked.caller is None else asked.caller.attributes,
        destination_attributes=destination.attributes,
    )


def _shadow(ruling: Ruling, enforced: Ruling) -> Shadow | None:
    """Give the answer with every mode `enforce`, where it is another one."""
    if (ruling.reason, ruling.policy) == (enforced.reason, enforced.policy):
        return None
    return Shadow(decision=enforced.reason.verdict, reason=enforced.reason, policy=enforced.policy)


def _route(
    call: Call, destination: Party, segments: list[str], deciding: Sequence[Entry[Rule]], *, is_grpc: bool
) -> str | None:
    """Give the template that stands for the call in records: the destination's own, else the deciding rule's."""
    if call.method == CONNECT:
        return None
    offered = None if destination.api is None else destination.api.meaning(call.method, segments, is_grpc=is_grpc)
    entry = most_literal(offered or deciding)
    if entry is None:
        return None
    # A gRPC call stands under its method's name, also where `pkg.Service/*` or `all` matched it.
    if entry.grpc or (is_grpc and entry.template is None):
        return grpc_path(segments) or entry.template
    return entry.template
