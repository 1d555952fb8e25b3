"""What is doubtful in a set without faults: dead, ending, unused, too broad, or never what its author meant.

Every finding is exact: what is said to be so is so for every call. What could only be guessed at is not said.
What is within another rule, or forbidden by a Guardrail, is found where one rule or Guardrail is enough to show it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from authz.instant import rfc3339_from_ns
from authz.policy.errors import nearest, quoted
from authz.policy.finding import ACCEPT, LEVELS, Finding, Level, LintCode
from authz.policy.forbidden_rules import ForbiddenRules
from authz.policy.host import DEFAULT_PORTS
from authz.policy.identity_pattern import ANY_SEGMENTS, IdentityPattern
from authz.policy.operation import ALL, HttpOperation
from authz.policy.revocation import RevokedSerial
from authz.policy.route import REST, PathShape
from authz.policy.rule_extent import Extents
from authz.policy.schema import Kind
from authz.policy.schema_fields import Evidence
from authz.policy.selection import Selection
from authz.policy.window import ALWAYS, NS_PER_DAY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from authz.policy.document import Key
    from authz.policy.errors import PolicySetFaults
    from authz.policy.host import Tunnel
    from authz.policy.policy_set import PolicySet
    from authz.policy.rule_extent import Extent
    from authz.policy.schema import Guardrail, MicroPolicy, Named, Service, TargetSelector, ThirdParty
    from authz.policy.window import Window

ENDING_DAYS: Final = 14
#: what web frameworks and regular expressions write for any segment
_PLACEHOLDER: Final = re.compile(r":[A-Za-z_]\w*|<[^<>]+>|\[[^\]]+\]\+?|\(.+\)|\.\+|.+\$")


def faults_as_findings(faults: PolicySetFaults) -> tuple[Finding, ...]:
    """Give the faults of a set that cannot be used as findings."""
    return tuple(
        Finding(fault.path, fault.line, fault.column, fault.code, fault.message, Level.ERROR) for fault in faults.faults
    )


def lint(
    policy_set: PolicySet, *, now_ns: int, progress: Callable[[int, int], None] | None = None
) -> tuple[Finding, ...]:
    """Give the findings of a set, sorted by position; those that their document accepts are notes.

    `progress` is told after each rule how many of how many have been looked at. Cost: close to linear in their number.
    """
    return tuple(sorted(set(_Lint(policy_set, now_ns).findings(progress))))


class _Lint:
    def __init__(self, policy_set: PolicySet, now_ns: int) -> None:
        self._set = policy_set
        self._now_ns = now_ns
        self._selection = Selection(policy_set)
        self._extents = Extents(policy_set)
        self._forbidden = ForbiddenRules(policy_set)
        self._used = frozenset(self._names_used())
        self._double_slash = {party.name for party in policy_set.parties if PathShape.DOUBLE_SLASH in party.path_shapes}
        self._third_parties = {each.name: each for each in policy_set.third_parties}

    def findings(self, progress: Callable[[int, int], None] | None) -> Iterator[Finding]:
        mesh = _Place(self._set, Kind.MESH, self._set.mesh)
        yield from mesh.judged(self._revoked(mesh))
        for service in self._set.services:
            place = _Place(self._set, Kind.SERVICE, service)
            yield from place.judged(self._service(place, service))
        for third_party in self._set.third_parties:
            place = _Place(self._set, Kind.THIRD_PARTY, third_party)
            yield from place.judged(self._third_party(place, third_party))
        for number, policy in enumerate(self._set.micro_policies, start=1):
            place = _Place(self._set, Kind.MICRO_POLICY, policy)
            yield from place.judged(self._micro_policy(place, policy))
            if progress is not None:
                progress(number, len(self._set.micro_policies))
        for guardrail in self._set.guardrails:
            place = _Place(self._set, Kind.GUARDRAIL, guardrail)
            yield from place.judged(self._guardrail(place, guardrail))
        for test in self._set.policy_tests:
            yield from _Place(self._set, Kind.POLICY_TEST, test).judged(())

    # --- Mesh

    def _revoked(self, place: _Place) -> Iterator[Finding]:
        owners = {
            pattern.exact: party
            for party in self._set.parties
            for pattern in party.identities
            if pattern.exact is not None
        }
        for index, revoked in enumerate(self._set.mesh.revoked):
            owner = None if isinstance(revoked, RevokedSerial) else owners.get(revoked)
            if owner is not None:
                message = f"{quoted(str(revoked))} is revoked, and still an identity of {quoted(owner.name)}"
                yield place.finding(LintCode.REVOKED_IN_USE, message, "spec", "revoked", index)

    # --- paths

    def _literal_placeholders(
        self, place: _Place, operations: Iterable[tuple[tuple[Key, ...], HttpOperation]]
    ) -> Iterator[Finding]:
        """Find literal segments that are placeholders elsewhere: such a rule allows, or forbids, next to nothing."""
        for at, operation in operations:
            for position, path in enumerate(() if operation.paths is ALL else operation.paths):
                segment = next((each for each in path.segments if _PLACEHOLDER.fullmatch(each)), None)
                if segment is not None:
                    message = f"{quoted(segment)} is taken as it is written; any one segment is `{{name}}`"
                    yield place.finding(LintCode.LITERAL_PLACEHOLDER, message, *at, "paths", position)

    # --- Services and ThirdParties

    def _names_used(self) -> Iterator[str]:
        """Give the Services and ThirdParties that some rule is about."""
        for service in self._set.services:
            yield from service.forwarders  # they bring the calls of others
        selected: set[IdentityPattern] = set()
        for extent in self._extents:
            yield from extent.callers.names
            yield from extent.targets
            selected |= {each.pattern for each in extent.callers.identities if each.owners is None}
            for each in extent.callers.identities:
                yield from each.owners or ()
        if selected:
            for party in self._set.parties:
                if any(pattern.overlaps(each) for pattern in party.identities for each in selected):
                    yield party.name

    def _service(self, place: _Place, service: Service) -> Iterator[Finding]:
        if service.name not in self._used:
            message = f"no rule is about the Service {quoted(service.name)}: it calls nobody, and nobody calls it"
            yield place.finding(LintCode.UNUSED_SERVICE, message, "metadata", "name")
        if service.forwarders and Evidence.JWT_SVID not in service.accepts:
            message = f"{quoted(service.name)} does not accept `jwt-svid`: nobody presents tokens to it"
            yield place.finding(LintCode.UNUSED_FORWARDERS, message, "spec", "forwarders")
        for index, tunnel in enumerate(() if service.egress is None else service.egress.connect):
            if not self._leads_to_a_third_party(tunnel):
                message = f"no ThirdParty has the host {quoted(str(tunnel))}: the tunnel is never opened"
                yield place.finding(LintCode.UNREACHABLE_TUNNEL, message, "spec", "egress", "connect", index)
        yield from self._literal_placeholders(
            place,
            (
                (("spec", "api", number), entry.operation)
                for number, entry in enumerate(service.api)
                if isinstance(entry.operation, HttpOperation)
            ),
        )

    def _leads_to_a_third_party(self, tunnel: Tunnel) -> bool:
        if any(tunnel.name in {service.name, *service.hosts} for service in self._set.services):
            return False
        _, _, parent = tunnel.name.partition(".")
        return any(
            host.name == (parent if host.wildcard else tunnel.name)
            and (host.port == tunnel.port or (host.port is None and tunnel.port in DEFAULT_PORTS))
            for third_party in self._set.third_parties
            for host in third_party.hosts
        )

    def _third_party(self, place: _Place, third_party: ThirdParty) -> Iterator[Finding]:
        if third_party.name not in self._used:
            message = (
                f"no rule is about the ThirdParty {quoted(third_party.name)}: it calls nobody, and nobody calls it"
            )
            yield place.finding(LintCode.UNUSED_THIRD_PARTY, message, "metadata", "name")
        yield from self._window(place, third_party.window)
        with_port = {
            (host.name, host.wildcard): other.name
            for other in self._set.third_parties
            for host in other.hosts
            if host.port in {80, 443} and other is not third_party
        }
        for index, host in enumerate(third_party.hosts):
            other = with_port.get((host.name, host.wildcard))
            if host.port is None and other is not None:
                message = f"{quoted(str(host))} is {quoted(other)} instead where the port is written"
                yield place.finding(LintCode.HOST_OVERLAP, message, "spec", "hosts", index)

    def _window(self, place: _Place, window: Window) -> Iterator[Finding]:
        closes_ns = window.closes_ns
        if closes_ns is None:
            return
        if closes_ns <= self._now_ns:
            message = f"the window ended at {rfc3339_from_ns(closes_ns)}; remove the document, or move the date"
            yield place.finding(LintCode.WINDOW_ENDED, message, "spec", "window", "closes")
        elif closes_ns <= self._now_ns + ENDING_DAYS * NS_PER_DAY:
            days = (closes_ns - self._now_ns) // NS_PER_DAY
            left = f"in {days} days" if days > 1 else "in less than two days"
            message = f"the window ends {left}, at {rfc3339_from_ns(closes_ns)}"
            yield place.finding(LintCode.WINDOW_ENDING, message, "spec", "window", "closes")

    # --- MicroPolicies

    def _micro_policy(self, place: _Place, policy: MicroPolicy) -> Iterator[Finding]:
        extent = self._extents[policy.name]
        yield from self._window(place, policy.window)
        yield from self._never_open(place, extent)
        yield from self._selects_nothing(place, extent)
        yield from self._over_broad_callers(place, policy)
        yield from self._over_broad(place, policy)
        yield from self._unreachable_paths(place, extent)
        yield from self._literal_placeholders(place, _http_operations(policy.targets))
        forbidding = self._forbidden.forbidding(extent)
        if forbidding is not None:
            where = self._set.documents[Kind.GUARDRAIL, forbidding.name]
            message = (
                f"all that this rule allows is forbidden by {quoted(forbidding.name)} in {where.path}:{where.root.line}"
            )
            yield place.finding(LintCode.FORBIDDEN, message, "metadata", "name")
        covering = self._extents.covering(extent)
        if covering is not None:
            where = self._set.documents[Kind.MICRO_POLICY, covering.name]
            message = (
                f"all that this rule allows is allowed by {quoted(covering.name)} in {where.path}:{where.root.line}"
            )
            yield place.finding(LintCode.SHADOWED, message, "metadata", "name")

    def _never_open(self, place: _Place, extent: Extent) -> Iterator[Finding]:
        """Find rules that are open at no instant, or at none at which their ThirdParties are commissioned."""
        if not extent.window.meets(ALWAYS):
            message = "none of the hours of `during` lies between `opens` and `closes`: the rule allows nothing"
            yield place.finding(LintCode.NEVER_OPEN, message, "spec", "window")
            return
        windows = [
            party.window
            for name in (*extent.callers.names, *extent.targets)
            if (party := self._third_parties.get(name))
        ]
        every_call_has_one = bool(windows) and (
            (not extent.callers.identities and extent.callers.names <= self._third_parties.keys())
            or extent.targets.keys() <= self._third_parties.keys()
        )
        if every_call_has_one and not any(extent.window.meets(window) for window in windows):
            message = "the rule is open only while its ThirdParty is not commissioned: it allows nothing"
            yield place.finding(LintCode.NEVER_OPEN, message, "spec", "window")

    def _selects_nothing(self, place: _Place, extent: Extent) -> Iterator[Finding]:
        if extent.callers.nobody:
            message = "no Service or ThirdParty is selected by `from`: the rule allows nobody"
            yield place.finding(LintCode.SELECTS_NOTHING, message, "spec", "from")
        if not extent.targets:
            message = "no Service or ThirdParty is selected by `to`: the rule allows nothing"
            yield place.finding(LintCode.SELECTS_NOTHING, message, "spec", "to")

    def _over_broad_callers(self, place: _Place, policy: MicroPolicy) -> Iterator[Finding]:
        for index, caller in enumerate(policy.callers):
            if caller.services or caller.third_parties or caller.attributes:
                continue
            for number, pattern in enumerate(caller.identities):
                if pattern.segments == (ANY_SEGMENTS,):
                    message = f"{quoted(str(pattern))} is every workload of the trust domain, known or not"
                    at: tuple[Key, ...] = ("spec", "from", index, "identities", number)
                    yield place.finding(LintCode.OVER_BROAD_CALLER, message, *at)

    def _over_broad(self, place: _Place, policy: MicroPolicy) -> Iterator[Finding]:
        for at, operation in _http_operations(policy.targets):
            if operation.paths is ALL:
                if operation.methods is ALL:
                    message = "every operation is allowed; name the ones that are needed"
                    yield place.finding(LintCode.OVER_BROAD, message, *at)
                continue
            for position, path in enumerate(operation.paths):
                if path.segments == (REST,):
                    message = f"{quoted(path.text)} is every path but `/`; name the ones that are needed"
                    yield place.finding(LintCode.OVER_BROAD, message, *at, "paths", position)

    def _unreachable_paths(self, place: _Place, extent: Extent) -> Iterator[Finding]:
        """Find paths with an empty segment, to destinations none of which allows `double-slash`."""
        if not self._double_slash.isdisjoint(extent.targets):
            return
        for at, operation in _http_operations(extent.rule.targets):
            for position, path in enumerate(() if operation.paths is ALL else operation.paths):
                if "" in path.segments[:-1]:
                    message = f"{quoted(path.text)} has `//`, which no destination here allows (`double-slash`)"
                    yield place.finding(LintCode.UNREACHABLE_PATH, message, *at, "paths", position)

    # --- Guardrails

    def _guardrail(self, place: _Place, guardrail: Guardrail) -> Iterator[Finding]:
        yield from self._window(place, guardrail.window)
        yield from self._literal_placeholders(place, _http_operations(guardrail.targets or ()))
        if guardrail.callers is not None and self._selection.callers(guardrail.callers).nobody:
            message = "no Service or ThirdParty is selected by `from`: the Guardrail forbids nobody"
            yield place.finding(LintCode.SELECTS_NOTHING, message, "spec", "from")
        if guardrail.targets is not None and not any(self._selection.targets(each) for each in guardrail.targets):
            message = "no Service or ThirdParty is selected by `to`: the Guardrail forbids nothing"
            yield place.finding(LintCode.SELECTS_NOTHING, message, "spec", "to")


def _http_operations(targets: Sequence[TargetSelector]) -> Iterator[tuple[tuple[Key, ...], HttpOperation]]:
    """Give the operations by method and path, each with its place."""
    for index, target in enumerate(targets):
        for number, operation in enumerate(target.operations):
            if isinstance(operation, HttpOperation):
                yield ("spec", "to", index, "operations", number), operation


class _Place:
    """A document of the set: where its findings stand, and which of them it accepts."""

    def __init__(self, policy_set: PolicySet, kind: Kind, named: Named) -> None:
        self._document = policy_set.documents[kind, named.name]
        self._annotation = named.metadata.annotations.get(ACCEPT)

    def finding(self, code: LintCode, message: str, *keys: Key) -> Finding:
        node = self._document.node(*keys)
        return Finding(self._document.path, node.line, node.column, code, message, LEVELS[code])

    def judged(self, findings: Iterable[Finding]) -> Iterator[Finding]:
        """Give the findings, as notes where the document accepts them; and what is wrong with how it does that."""
        accepted: dict[str, str] = {}
        for line in (self._annotation or "").splitlines():
            if not line.strip():
                continue
            code, _, reason = line.strip().partition(" ")
            if code not in list(LintCode):
                hint = nearest(code, list(LintCode)) or "; write `CODE reason`"
                yield self._about_accept(LintCode.BAD_ACCEPT, f"there is no finding {quoted(code)}{hint}")
            elif not reason.strip():
                yield self._about_accept(
                    LintCode.BAD_ACCEPT, f"{quoted(code)} is accepted without a reason; write `CODE reason`"
                )
            else:
                accepted[code] = reason.strip()
        found = set()
        for finding in findings:
            found.add(finding.code)
            yield finding.accept(accepted[finding.code]) if finding.code in accepted else finding
        for code in sorted(accepted.keys() - found):
            yield self._about_accept(LintCode.UNUSED_ACCEPT, f"{quoted(code)} is accepted, and not found here")

    def _about_accept(self, code: LintCode, message: str) -> Finding:
        return self.finding(code, message, "metadata", "annotations", ACCEPT)
