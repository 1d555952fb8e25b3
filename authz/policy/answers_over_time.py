"""One call put to two sets at every time: when they answer it differently.

Time is cut at the edges of all windows that have a say in the call; between them, where hours open and close, the
answers' own `valid_until` leads on. Calls for which the same rules, Guardrails and ThirdParties count are answered
alike: each such combination is gone through once.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from authz.decision import Reason, Verdict
from authz.policy.changed_call import Change, Span
from authz.policy.errors import PolicyError
from authz.policy.evaluation import CONNECT, evaluate, is_closed_tunnel
from authz.policy.host import requested_host
from authz.policy.party import GRPC_METHOD
from authz.policy.route import is_grpc_content_type, path_segments
from authz.policy.window import HORIZON_NS
from authz.request import Direction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz.decision import Decision
    from authz.policy.index import PolicyIndex
    from authz.policy.party import Party
    from authz.request import Call

#: Answers that are asked for: a minute or two. Beyond it, people compare the calls that they really have.
MAX_ANSWERS: Final = 4_000_000
#: Hours on five days open and close 520 times a year; of more in one span, only so many are followed.
MAX_CHANGES: Final = 2_000
#: What the steps answer before rules and windows have a say: the same at every time.
_TIMELESS: Final = frozenset(
    {Reason.MALFORMED, Reason.UNIDENTIFIED, Reason.UNTRUSTED, Reason.UNKNOWN_DESTINATION, Reason.INTERNAL_ERROR}
)

_Signature: TypeAlias = "tuple[object, ...]"


class DifferenceError(PolicyError):
    """Two sets differ in too much to be compared call by call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """What of a set has a say in a call: calls of the same signature get the same answers at all times."""

    signature: _Signature
    edges_ns: frozenset[int]


def destination_of(index: PolicyIndex, direction: Direction, service: str, host: str) -> Party | None:
    """Give the Service or ThirdParty that is called; a host has been found well-formed before."""
    if direction is Direction.INBOUND:
        return index.service(service)
    requested = requested_host(host)
    return None if requested is None else index.destination(*requested)


class AnswersOverTime:
    """The answers of two sets without conditions; hours are followed for 366 days from `now_ns`."""

    def __init__(self, old: PolicyIndex, new: PolicyIndex, now_ns: int) -> None:
        self._old = old
        self._new = new
        self._now_ns = now_ns
        self._answers_left = MAX_ANSWERS
        self._known: dict[tuple[_Signature, _Signature], tuple[Change, ...]] = {}

    def changes(self, call: Call) -> tuple[Change, ...]:
        """Give when a call becomes allowed, and when denied; raises DifferenceError where too much was asked."""
        before, after = self._standing(self._old, call), self._standing(self._new, call)
        key = before.signature, after.signature
        if key not in self._known:
            edges = tuple(sorted(before.edges_ns | after.edges_ns))
            self._known[key] = tuple(self._gone_through(call, edges))
        return self._known[key]

    def _standing(self, index: PolicyIndex, call: Call) -> _Standing:
        reason = self._answer(index, call, self._now_ns).reason
        party = destination_of(index, call.direction, call.service, call.host)
        segments = None if party is None else path_segments(call.path, party.path_shapes)
        if call.method == CONNECT:
            segments = [""]  # whatever its path is, it counts as `/`
        if reason in _TIMELESS or party is None or segments is None or call.caller is None:
            return _Standing(signature=(reason,), edges_ns=frozenset())
        owner = index.owner(call.caller)
        units = index.units(call.caller, owner)
        values = [value for name, value in call.headers if name == "content-type"]
        is_grpc = call.method == GRPC_METHOD and is_grpc_content_type(values)
        rules = [entry.rule for entry in index.matching_entries(units, party, call.method, segments, is_grpc=is_grpc)]
        guards = index.guards(units, party, call.method, segments)
        parties = [each for each in (owner, party) if each is not None and not each.is_service]
        tls = call.tls if call.direction is Direction.INBOUND else party.tls
        windows = [*(rule.window for rule in (*rules, *guards)), *(each.window for each in parties)]
        return _Standing(
            signature=(
                frozenset(rule.name for rule in rules),
                frozenset((guard.name, guard.forbids(tls)) for guard in guards),
                frozenset(each.name for each in parties),
                party.observed,
                is_closed_tunnel(call, owner, party),
            ),
            edges_ns=frozenset(
                edge for window in windows for edge in (window.opens_ns, window.closes_ns) if edge is not None
            ),
        )

    def _answer(self, index: PolicyIndex, call: Call, at_ns: int) -> Decision:
        self._answers_left -= 1
        if self._answers_left < 0:
            message = f"the sets differ in too much: {MAX_ANSWERS} answers were not enough"
            raise DifferenceError(f"{message}; compare recorded calls with --calls")
        return evaluate(index, call, at_ns)

    def _gone_through(self, call: Call, edges: tuple[int, ...]) -> Iterator[Change]:
        spans: defaultdict[Verdict, list[Span]] = defaultdict(list)
        first: dict[Verdict, tuple[int, Decision, Decision]] = {}
        recurring = False
        for start_ns, end_ns in zip((None, *edges), (*edges, None), strict=True):
            for span, at_ns, before, after in self._within(call, start_ns, end_ns):
                recurring = recurring or span.until_ns != end_ns
                if before.verdict is after.verdict:
                    continue
                told = spans[after.verdict]
                if told and told[-1].until_ns == span.from_ns:
                    told[-1] = Span(from_ns=told[-1].from_ns, until_ns=span.until_ns)
                else:
                    told.append(span)
                first.setdefault(after.verdict, (at_ns, before, after))
        for becomes, (at_ns, before, after) in first.items():
            allowing, denying = (after, before) if becomes is Verdict.ALLOW else (before, after)
            yield Change(
                becomes=becomes,
                spans=tuple(spans[becomes]),
                recurring=recurring,
                policy=allowing.policy,
                reason=denying.reason,
                example_at_ns=at_ns,
            )

    def _within(
        self, call: Call, start_ns: int | None, end_ns: int | None
    ) -> Iterator[tuple[Span, int, Decision, Decision]]:
        """Give the answers of both sets within one span of time, split where hours open or close."""
        now_ns = self._now_ns
        at_ns = start_ns if start_ns is not None else now_ns if end_ns is None else min(now_ns, end_ns - 1)
        from_ns = start_ns
        last_ns = max(at_ns, now_ns) + HORIZON_NS
        for _ in range(MAX_CHANGES):
            before, after = self._answer(self._old, call, at_ns), self._answer(self._new, call, at_ns)
            later = [each for each in (before.valid_until_ns, after.valid_until_ns) if each is not None]
            next_ns = min(later, default=None)
            if next_ns is None or (end_ns is not None and next_ns >= end_ns):
                yield Span(from_ns=from_ns, until_ns=end_ns), at_ns, before, after
                return
            yield Span(from_ns=from_ns, until_ns=next_ns), at_ns, before, after
            if next_ns > last_ns:
                return
            # Hours of long ago are over: they are looked at as they will be.
            skips = next_ns < now_ns and (end_ns is None or now_ns < end_ns)
            from_ns = at_ns = now_ns if skips else next_ns
