"""What would have to be changed for a denied call to be allowed: one sentence, with the place to change it at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.decision import Reason
from authz.policy.errors import quoted
from authz.policy.schema import Kind

if TYPE_CHECKING:
    from authz.decision import Decision
    from authz.policy.compared_rule import ComparedRule
    from authz.policy.explanation import Explanation
    from authz.policy.policy_set import PolicySet

#: the step at which a Guardrail's `maxWindow` denies; at an earlier one it forbids the call itself
_RULES_STEP: Final = 6


def remedy_of(policy_set: PolicySet, explanation: Explanation) -> str | None:  # noqa: C901, PLR0911 one return a reason
    """Say what to change so that a denied call is allowed; None where it is not denied."""
    decision = explanation.decision
    match decision.reason:
        case Reason.ALLOWED | Reason.OBSERVED:
            return None
        case Reason.MALFORMED:
            return "mend the request as step 1 says; no policy can allow it as it is"
        case Reason.UNIDENTIFIED:
            return "call with a valid SVID whose identity is not revoked; without an identity nothing is allowed"
        case Reason.UNTRUSTED:
            return "name the identity in a ThirdParty's `identities`, and its trust domain in the Mesh's `federates`"
        case Reason.UNKNOWN_DESTINATION:
            return "call a Service or a host of the set, or write a Service or ThirdParty with this host"
        case Reason.GUARDRAIL:
            return _past_the_guardrail(policy_set, explanation)
        case Reason.NOT_COMMISSIONED | Reason.DECOMMISSIONED:
            field = "opens" if decision.reason is Reason.NOT_COMMISSIONED else "closes"
            return f"move `{field}` of the ThirdParty {_named(policy_set, Kind.THIRD_PARTY, decision, 'window', field)}"
        case Reason.NOT_YET_OPEN | Reason.CLOSED:
            field = "opens" if decision.reason is Reason.NOT_YET_OPEN else "closes"
            return f"move `{field}` of {_named(policy_set, Kind.MICRO_POLICY, decision, 'window', field)}"
        case Reason.OUTSIDE_HOURS:
            where = _named(policy_set, Kind.MICRO_POLICY, decision, "window", "during")
            return f"wait for its hours, or change `during` of {where}"
        case Reason.NO_POLICY if explanation.closed_tunnel is not None:
            return f"open the tunnel first: {explanation.closed_tunnel}"
        case Reason.NO_POLICY:
            return _another_rule(policy_set, explanation.nearest)
        case Reason.INTERNAL_ERROR | Reason.OVERLOADED:
            return "ask whoever runs the server; its log says more"


def _past_the_guardrail(policy_set: PolicySet, explanation: Explanation) -> str:
    guardrail = _named(policy_set, Kind.GUARDRAIL, explanation.decision)
    if explanation.steps[-1].number >= _RULES_STEP:
        return f"give the rule of step 6 an `opens` and a `closes` that are close enough for the Guardrail {guardrail}"
    return f"change the call, or the Guardrail {guardrail}; no MicroPolicy allows what it forbids"


def _another_rule(policy_set: PolicySet, nearest: tuple[ComparedRule, ...]) -> str:
    if not nearest:
        return "write a MicroPolicy that allows it"
    rule = nearest[0]
    document = policy_set.documents[Kind.MICRO_POLICY, rule.rule.name]
    fields = " and ".join(dict.fromkeys(lack.field.value for lack in rule.lacks))
    return (
        f"write a MicroPolicy that allows it, or change the {fields} of the call or of {quoted(rule.rule.name)} "
        f"({document.path}:{document.root.line})"
    )


def _named(policy_set: PolicySet, kind: Kind, decision: Decision, *keys: str) -> str:
    """Give the deciding document's name and where in it something stands."""
    name = decision.policy or ""
    document = policy_set.documents[kind, name]
    node = document.node("spec", *keys) if keys else document.root
    return f"{quoted(name)} ({document.path}:{node.line})"
