"""What of a set has a say in a call, whatever the time: rules, Guardrails and ThirdParties, or a refusal before them.

Steps 1 to 3 of the policy language are answered here, by the engine's own parts; steps 4 to 8 are left open for every
instant (`answers_over_time`). What depends on conditions stays open, too: each is a variable that may be true or false,
unless it asks about nothing but who calls and is called, which is known.

# INVARIANT (complete): two calls of equal standing in a set get the same answer there at every instant, for equal
# values of the variables.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from authz.decision import Reason
from authz.policy.condition import ConditionError
from authz.policy.evaluation import (
    Asked,
    call_facts,
    decoded_path,
    is_closed_tunnel,
    is_unidentified,
    is_untrusted,
    of_presenter,
)
from authz.policy.party import GRPC_METHOD, Guard, Rule
from authz.policy.route import is_grpc_content_type
from authz.policy.ruling import Matched
from authz.request import Direction, header_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Set as AbstractSet

    from authz.policy.condition import CallFacts, Condition
    from authz.policy.index import PolicyIndex
    from authz.policy.party import Party
    from authz.request import Call

R = TypeVar("R", bound=Rule)

#: Facts that all calls of a class have in common: who it is between.
KNOWN_FACTS: Final = frozenset(
    {
        "caller.service",
        "caller.thirdParty",
        "caller.attributes",
        "destination.service",
        "destination.thirdParty",
        "destination.attributes",
    }
)
#: A fact that is another one in either set only where a ThirdParty is called.
_TLS: Final = "tls.version"
#: A fact that is another one for whoever presents a token.
_IDENTITY: Final = "caller.identity"
_SUBJECT: Final = "the token's subject as the caller"
_PRESENTER: Final = "the token's presenter as the caller"


class Variable(NamedTuple):
    """What may be true of a call or not, as no example can tell: the conditions of a Guardrail, or one of a rule.

    A condition that cannot be evaluated matches in a Guardrail and not in a rule: so the two are different variables.
    `facts` is what it asks about that may be another thing in the other set.
    """

    guardrail: bool
    texts: tuple[str, ...]
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A refusal for all time (of steps 1 to 3), or what matches the call where nothing is in observe mode.

    `needs` are the variables that must be true for a rule or Guardrail of `matched`, by its identity, to match.
    """

    refused: Reason | None
    matched: Matched
    needs: dict[int, frozenset[Variable]]

    @property
    def variables(self) -> frozenset[Variable]:
        """What the answer depends on besides the time."""
        return frozenset().union(*self.needs.values()) if self.needs else frozenset()

    def given(self, true: AbstractSet[Variable]) -> Matched:
        """Give what matches where exactly these variables are true."""
        if not self.needs:
            return self.matched

        def holds(rule: Rule) -> bool:
            return self.needs.get(id(rule), frozenset()) <= true

        matched = self.matched
        return replace(
            matched,
            rules=[rule for rule in matched.rules if holds(rule)],
            forbidding=[guard for guard in matched.forbidding if holds(guard)],
            limiting=[guard for guard in matched.limiting if holds(guard)],
        )


_NOTHING: Final = Matched(parties=(), rules=(), forbidding=(), limiting=(), observed=False, closed_tunnel=True)


def standing(index: PolicyIndex, call: Call) -> Standing:
    """Give how a call stands in a set."""
    asked = Asked(index, call)
    owner, party, segments = asked.caller, asked.destination, decoded_path(asked)
    refused = _refusal(asked, segments)
    if refused is not None or party is None or segments is None:
        return Standing(refused=refused or Reason.MALFORMED, matched=_NOTHING, needs={})
    units = index.units(call.caller, owner)
    values = header_values(call.headers, "content-type")
    is_grpc = call.method == GRPC_METHOD and is_grpc_content_type(values)
    entries = index.matching_entries(units, party, call.method, segments, is_grpc=is_grpc)
    guards = [guard for guard in index.guards(units, party, call.method, segments) if guard.enforced]
    rules = [rule for rule in {id(entry.rule): entry.rule for entry in entries}.values() if rule.enforced]
    needs: dict[int, frozenset[Variable]] = {}
    if index.has_conditions and any(rule.conditions for rule in (*rules, *guards)):
        facts = call_facts(index, call, party, segments)
        who = "" if call.presenter is None else _SUBJECT
        rules, guards = _left_open(rules, facts, needs, who), _left_open(guards, facts, needs, who)
    if call.presenter is not None:
        guards += _of_presenter(index, call, party, segments, needs)
    tls = call.tls if call.direction is Direction.INBOUND else party.tls
    matched = Matched(
        parties=[each for each in (owner, party) if each is not None and not each.is_service],
        rules=rules,
        forbidding=[guard for guard in guards if guard.forbids(tls)],
        limiting=[guard for guard in guards if guard.max_window_ns is not None],
        observed=party.observed,
        closed_tunnel=is_closed_tunnel(call, owner, party),
    )
    return Standing(refused=None, matched=matched, needs=needs)


def _refusal(asked: Asked, segments: Sequence[str] | None) -> Reason | None:
    if segments is None:
        return Reason.MALFORMED
    if is_unidentified(asked):
        return Reason.UNIDENTIFIED
    if is_untrusted(asked):
        return Reason.UNTRUSTED
    return Reason.UNKNOWN_DESTINATION if asked.destination is None else None


def _of_presenter(
    index: PolicyIndex, call: Call, party: Party, segments: list[str], needs: dict[int, frozenset[Variable]]
) -> list[Guard]:
    """Give the guards that mean the call as its presenter's, each a value of its own.

    One that means the subject's call, too, may need something else for that.
    """
    presented = of_presenter(call)
    owner = None if presented.caller is None else index.owner(presented.caller)
    found = index.guards(index.units(presented.caller, owner), party, call.method, segments)
    guards = [replace(guard) for guard in found if guard.enforced]
    if any(guard.conditions for guard in guards):
        return _left_open(guards, call_facts(index, presented, party, segments), needs, _PRESENTER)
    return guards


def _left_open(rules: Iterable[R], facts: CallFacts, needs: dict[int, frozenset[Variable]], who: str) -> list[R]:
    """Leave out what is known not to match, and say of the rest what it needs; `who` calls, where two may be meant."""
    found = []
    for rule in rules:
        if not rule.conditions:
            found.append(rule)
        elif isinstance(rule, Guard):
            if all(_is_known(each) for each in rule.conditions):
                if rule.matches(facts):
                    found.append(rule)
            else:  # one that cannot be told matches whatever the others say: they stand together
                found.append(rule)
                needs[id(rule)] = frozenset({_variable(rule.conditions, facts, who, guardrail=True)})
        else:
            known = [each for each in rule.conditions if _is_known(each)]
            if all(_holds(each, facts) for each in known):
                found.append(rule)
                needs[id(rule)] = frozenset(
                    _variable((each,), facts, who, guardrail=False) for each in rule.conditions if each not in known
                )
    return found


def _is_known(condition: Condition) -> bool:
    return condition.reads <= KNOWN_FACTS


def _holds(condition: Condition, facts: CallFacts) -> bool:
    try:
        return condition.holds(facts)
    except ConditionError:
        return False


def _variable(conditions: Sequence[Condition], facts: CallFacts, who: str, *, guardrail: bool) -> Variable:
    reads = frozenset().union(*(each.reads for each in conditions))
    shared = [who] if who and _IDENTITY in reads else []
    for name in sorted(reads & {*KNOWN_FACTS, _TLS}):
        if name in facts.texts:
            shared.append(f"{name}={facts.texts[name]}")
        else:
            shared += [f"{name}.{key}={value}" for key, value in sorted((facts.whole(name) or {}).items())]
    return Variable(guardrail, tuple(sorted({each.text for each in conditions})), tuple(shared))
