"""Every question of the API: the contract, as values. What is not here is not answered."""

from __future__ import annotations

from typing import Final

from authz.decision import Reason, Verdict
from authz.hub import answers
from authz.hub.attempt_sources import without_addresses
from authz.hub.operation import CURSOR, EVENTS, LIMIT, STEP, Operation, Parameter, Role, choice, moment, party
from authz.hub.records_query import GROUPS

_SINCE: Final = moment("since", "the beginning of the span, not after until", default="1h")
_SINCE_A_DAY: Final = moment("since", "the beginning of the span, not after until", default="24h", example="24h")
_UNTIL: Final = moment("until", "the end of the span; default: now", example="0s")
_FROM: Final = party("from", "the caller, by the name under which it stands", in_path=True, example="storefront")
_TO: Final = party("to", "the destination, by the name under which it stands", in_path=True)


def _id(says: str) -> Parameter:
    return party("id", says, in_path=True, example="0123456789abcdef0123456789abcdef")


SERVICES: Final = Operation(
    path="/services",
    name="services",
    summary="Services, ThirdParties, and whoever called or was called without being either",
    role=Role.VIEWER,
    answer=answers.Services,
)
EDGES: Final = Operation(
    path="/edges",
    name="edges",
    summary="the map: who called whom, how often, and how it was answered",
    role=Role.VIEWER,
    answer=answers.Edges,
    parameters=(
        _SINCE,
        _UNTIL,
        moment("at", "the map as it was then: the span ends there, and is as long as since to until", example="2h"),
        moment("compare", "compare with the span of the same length that ended then", example="24h"),
        party("service", "only edges from or to it"),
    ),
)
EDGE: Final = Operation(
    path="/edges/{from}/{to}",
    name="edge",
    summary="one edge with its routes",
    role=Role.VIEWER,
    answer=answers.EdgeDetail,
    parameters=(_FROM, _TO, _SINCE, _UNTIL),
    can_be_unknown=True,
)
HISTORY: Final = Operation(
    path="/edges/{from}/{to}/history",
    name="history",
    summary="one edge over time; steps in which nothing happened are left out",
    role=Role.VIEWER,
    answer=answers.History,
    parameters=(_FROM, _TO, _SINCE_A_DAY, _UNTIL, STEP),
    can_be_unknown=True,
)
DENSITY: Final = Operation(
    path="/history",
    name="density",
    summary="calls of everybody over time, in whole hours; steps in which none began are left out",
    role=Role.VIEWER,
    answer=answers.Density,
    parameters=(_SINCE_A_DAY, _UNTIL),
)
CALLS: Final = Operation(
    path="/calls",
    name="calls",
    summary="calls that are kept in full, the newest first: every denied or cut one, first ones, and a sample",
    role=Role.SECURITY,
    answer=answers.CallPage,
    parameters=(
        choice("decision", "only these", tuple(each.value for each in Verdict)),
        choice("reason", "only these", tuple(each.value for each in Reason)),
        party("from", "only of this caller", example="storefront"),
        party("to", "only to this destination"),
        party("policy", "only those that this rule decided", example="storefront-reads-catalog"),
        moment("since", "only from then on; not after until"),
        moment("until", "only before", example="0s"),
        LIMIT,
        CURSOR,
    ),
)
DENIALS: Final = Operation(
    path="/denials",
    name="denials",
    summary="denied calls and failed handshakes by what they have in common",
    role=Role.SECURITY,
    answer=answers.Denials,
    parameters=(
        choice("group", "by what", tuple(GROUPS), default="source"),
        _SINCE_A_DAY,
        _UNTIL,
    ),
)
#: a call that was cut has two records with one id
_PART: Final = choice("part", "cut: of a call that was cut, its end in place of its beginning", ("cut",))
DECISION: Final = Operation(
    path="/decisions/{id}",
    name="decision",
    summary="the record of one decision",
    role=Role.SECURITY,
    answer=answers.DecisionRecord,
    parameters=(_id("the id of the decision"), _PART),
    can_be_unknown=True,
)
EXPLAIN: Final = Operation(
    path="/explain/{id}",
    name="explain",
    summary="why a call was answered as it was: what `authz explain` says under the revision that decided it",
    role=Role.SECURITY,
    answer=answers.Explanation,
    parameters=(_id("the id of the decision"), _PART),
    can_be_unknown=True,
)
WINDOWS: Final = Operation(
    path="/windows",
    name="windows",
    summary="when ThirdParties and rules open and close, and who tried when they were not open",
    role=Role.VIEWER,
    answer=answers.Windows,
    whole_for=Role.SECURITY,
    shown_to_others=without_addresses,
)
POLICIES: Final = Operation(
    path="/policies",
    name="policies",
    summary="the rules, and how much each decided",
    role=Role.VIEWER,
    answer=answers.Policies,
    parameters=(_SINCE_A_DAY, _UNTIL),
)
USAGE: Final = Operation(
    path="/policies/{name}/usage",
    name="usage",
    summary="where one rule was used",
    role=Role.VIEWER,
    answer=answers.PolicyUsage,
    parameters=(
        party("name", "the MicroPolicy or Guardrail", in_path=True, example="storefront-reads-catalog"),
        _SINCE_A_DAY,
        _UNTIL,
    ),
    can_be_unknown=True,
)
REVISIONS: Final = Operation(
    path="/revisions",
    name="revisions",
    summary="states of the policies, who decided by them, and what each changed, the newest first",
    role=Role.VIEWER,
    answer=answers.Revisions,
)
STATUS: Final = Operation(
    path="/status",
    name="status",
    summary="every sidecar, and the store",
    role=Role.VIEWER,
    answer=answers.Status,
)
STREAM: Final = Operation(
    path="/stream",
    name="stream",
    summary="what happens, as server-sent events; each datum is one JSON object",
    role=Role.SECURITY,
    answer=None,
    parameters=(EVENTS,),
)
OPERATIONS: Final = (
    SERVICES, EDGES, EDGE, HISTORY, DENSITY, CALLS, DENIALS, DECISION, EXPLAIN, WINDOWS, POLICIES, USAGE, REVISIONS,
    STATUS, STREAM,
)  # fmt: skip
