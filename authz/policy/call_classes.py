"""The calls that two policy sets can tell apart, by one example of each: callers, destinations, operations.

Whatever a set says of calls, it says by patterns. So the calls fall into finitely many classes that neither set can
take apart, and an answer for one call of a class is the answer for all of them.

# INVARIANT (complete): if the two sets answer some call differently at an instant, they do so for the example of its
# class; serial numbers of certificates, connections whose version of TLS is not known, and conditions aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import quote

from authz.identity.spiffe_id import SpiffeId
from authz.policy.host import DEFAULT_PORTS
from authz.policy.identity_pattern import ANY_SEGMENT as ANY_ID_SEGMENT, ANY_SEGMENTS, IdentityPattern
from authz.policy.operation import ALL, GrpcOperation, HttpOperation
from authz.policy.party import GRPC_METHOD, broadened
from authz.policy.revocation import RevokedSerial
from authz.policy.route import ANY_SEGMENT, REST, PathShape, PathTemplate
from authz.policy.segment_partition import segment_classes, unmatched_example
from authz.request import Call, Direction, TlsVersion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from authz.identity.spiffe_id import TrustDomain
    from authz.policy.host import ThirdPartyHost
    from authz.policy.index import PolicyIndex
    from authz.policy.policy_set import PolicySet

#: A method and a port that no policy names.
_FRESH_METHOD: Final = "ANY-OTHER"
_FRESH_PORTS: Final = range(8440, 65_536)
_GRPC_HEADERS: Final = (("content-type", b"application/grpc"),)
#: What is put into a free segment to give a path the shape.
_SHAPED: Final = {
    PathShape.SEMICOLON: ";x",
    PathShape.ENCODED_SLASH: "%2Fx",
    PathShape.ENCODED_DELIMITER: "%3Fx",
    PathShape.DOUBLE_SLASH: "//x",
}

HttpOrGrpc: TypeAlias = HttpOperation | GrpcOperation


# --- callers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerClass:
    """The SPIFFE IDs that exactly these patterns match, and whose they are in either set."""

    example: SpiffeId
    patterns: frozenset[IdentityPattern]
    old_owner: str | None
    new_owner: str | None

    @property
    def identity(self) -> str:
        """What stands for these IDs: the most specific of the patterns."""
        if not self.patterns:
            return f"any other workload of {self.example.trust_domain}"
        return str(min(self.patterns, key=lambda each: (each.exact is None, -each.literals, str(each))))


def caller_classes(old: PolicySet, new: PolicySet, old_index: PolicyIndex, new_index: PolicyIndex) -> list[CallerClass]:
    """Give the classes of callers that the two sets can tell apart, of all trust domains that either names."""
    by_domain: dict[TrustDomain, set[IdentityPattern]] = {}
    for domain in (*old.mesh.trust_domains, *new.mesh.trust_domains):
        by_domain[domain] = set()
    for pattern in (*_identity_patterns(old), *_identity_patterns(new)):
        by_domain.setdefault(pattern.trust_domain, set()).add(pattern)
    found = []
    for domain in sorted(by_domain, key=lambda each: each.name):
        for segments, matched in _identity_classes(by_domain[domain]):
            example = SpiffeId.parse(f"spiffe://{domain}/{'/'.join(segments)}")
            found.append(
                CallerClass(
                    example=example,
                    patterns=matched,
                    old_owner=old_index.identity_owner(example),
                    new_owner=new_index.identity_owner(example),
                )
            )
    return found


def _identity_classes(patterns: set[IdentityPattern]) -> Iterator[tuple[tuple[str, ...], frozenset[IdentityPattern]]]:
    """Give an example of each class of one trust domain, and what matches it; at last one that nothing matches."""
    known = [(pattern.segments, pattern) for pattern in sorted(patterns, key=str)]
    for each in segment_classes(known, any_segment=ANY_ID_SEGMENT, rest=ANY_SEGMENTS):
        yield each.example, each.matched
    unmatched = unmatched_example(known, any_segment=ANY_ID_SEGMENT, rest=ANY_SEGMENTS, empty_last=False)
    if unmatched is not None:
        yield unmatched, frozenset()


def _identity_patterns(policy_set: PolicySet) -> Iterator[IdentityPattern]:
    for party in policy_set.parties:
        yield from party.identities
    froms = [rule.callers for rule in policy_set.micro_policies]
    for callers in (*froms, *(guardrail.callers or () for guardrail in policy_set.guardrails)):
        for selector in callers:
            yield from selector.identities
    for revoked in policy_set.mesh.revoked:
        if not isinstance(revoked, RevokedSerial):
            yield IdentityPattern.parse(str(revoked))


# --- destinations --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationClass:
    """Requests to one place, and which Service or ThirdParty that is in either set; `name` is what people call it."""

    name: str
    direction: Direction
    host: str
    old_party: str | None
    new_party: str | None


def destination_classes(
    old: PolicySet, new: PolicySet, old_index: PolicyIndex, new_index: PolicyIndex
) -> list[DestinationClass]:
    """Give the destinations of both sets: Services by name, and the hosts of whatever is called from outside of it."""
    services = sorted({service.name for service in (*old.services, *new.services)})
    found = {
        (Direction.INBOUND, name): DestinationClass(
            name=name,
            direction=Direction.INBOUND,
            host=name,
            old_party=name if old_index.has_service(name) else None,
            new_party=name if new_index.has_service(name) else None,
        )
        for name in services
    }
    in_both = {party.name for party in old.parties} & {party.name for party in new.parties}
    for host, port in _hosts(old, new):
        before, after = old_index.destination(host, port), new_index.destination(host, port)
        if before is not None and after is not None and before.is_service and after.is_service:
            if before.name == after.name:
                continue  # between two Services both directions give the same answer
        elif before is None and after is None:
            continue
        old_party = None if before is None else before.name
        new_party = None if after is None else after.name
        party = new_party or old_party or ""
        moved = old_party != new_party and (party in in_both or None not in {old_party, new_party})
        if not moved and old_party != new_party and party in services:
            continue  # a Service that comes or goes does so with all its hosts
        name = party if not moved else host if port in DEFAULT_PORTS else f"{host}:{port}"
        found.setdefault(
            (Direction.OUTBOUND, name),
            DestinationClass(
                name=name,
                direction=Direction.OUTBOUND,
                host=host if port is None else f"{host}:{port}",
                old_party=old_party,
                new_party=new_party,
            ),
        )
    return list(found.values())


def _hosts(old: PolicySet, new: PolicySet) -> Iterator[tuple[str, int | None]]:
    """Give an example of each host, with and without a port, that either set can tell from others."""
    for service in sorted({name for each in (*old.services, *new.services) for name in (each.name, *each.hosts)}):
        yield service, None
    entries: list[ThirdPartyHost] = [host for each in (*old.third_parties, *new.third_parties) for host in each.hosts]
    written = {entry.port for entry in entries if entry.port is not None}
    fresh = next(port for port in _FRESH_PORTS if port not in written)
    exact = {entry.name for entry in entries if not entry.wildcard}
    names = exact | {_below(entry.name, exact) for entry in entries if entry.wildcard}
    for name in sorted(names):
        yield from ((name, port) for port in (None, 80, 443, *sorted(written - {80, 443}), fresh))


def _below(parent: str, taken: set[str]) -> str:
    label = "any"
    while f"{label}.{parent}" in taken:
        label += "-other"
    return f"{label}.{parent}"


# --- operations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodClass:
    """A method, as a gRPC call or not; `named` is false for all methods that no rule for these paths names.

    `tls` is the version of the caller's connection where that makes a difference.
    """

    method: str
    is_grpc: bool
    named: bool
    tls: TlsVersion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PathClass:
    """The paths that exactly these operations mean, by number; `template` stands for them, None for any other path."""

    target: str
    template: PathTemplate | None
    shape: PathShape | None
    operations: frozenset[int]

    def methods(self, operations: Sequence[HttpOrGrpc]) -> list[MethodClass]:
        """Give the methods that the operations on these paths can tell apart."""
        here = [operations[number] for number in sorted(self.operations)]
        http = [each for each in here if isinstance(each, HttpOperation)]
        names = sorted({name for each in http if each.methods is not ALL for name in each.methods})
        found = [MethodClass(method=name, is_grpc=False, named=True) for name in names]
        has_grpc = any(isinstance(each, GrpcOperation) for each in here)
        if has_grpc:
            found.append(MethodClass(method=GRPC_METHOD, is_grpc=True, named=True))
        if any(each.methods is ALL for each in http):
            if has_grpc and GRPC_METHOD not in names:
                found.append(MethodClass(method=GRPC_METHOD, is_grpc=False, named=True))
            found.append(MethodClass(method=_FRESH_METHOD, is_grpc=False, named=False))
        return found


def path_classes(operations: Sequence[HttpOrGrpc], shapes: Iterable[PathShape]) -> list[PathClass]:
    """Give the classes of paths that some operation means; `shapes` are those of path to be looked at besides."""
    everywhere = frozenset(
        number for number, each in enumerate(operations) if isinstance(each, HttpOperation) and each.paths is ALL
    )
    patterns = [(template.segments, (number, template)) for number, template in _templates(operations)]
    found = []
    for each in segment_classes(patterns, any_segment=ANY_SEGMENT, rest=REST):
        template = _standing_for([template for _, template in each.matched], each.shape)
        numbers = everywhere | {number for number, _ in each.matched}
        free = [index for index, segment in enumerate(each.shape) if segment == ANY_SEGMENT]
        found.append(PathClass(target=_target(each.example), template=template, shape=None, operations=numbers))
        found += [
            PathClass(
                target=_target(each.example, (free[0], shape)), template=template, shape=shape, operations=numbers
            )
            for shape in sorted(shapes)
            if free and shape is not PathShape.DOUBLE_SLASH
        ]
    unmatched = None
    if everywhere:
        unmatched = unmatched_example(patterns, any_segment=ANY_SEGMENT, rest=REST, empty_last=True)
    if unmatched is not None:
        fresh = _target(unmatched)
        found.append(PathClass(target=fresh, template=None, shape=None, operations=everywhere))
        found += [
            PathClass(target=fresh + _SHAPED[shape], template=None, shape=shape, operations=everywhere)
            for shape in sorted(shapes)
        ]
    return found


def forbidden_operation(operation: HttpOrGrpc) -> HttpOperation:
    """Give what a Guardrail's operation means: it matches broadly, as `GuardTable` does."""
    if isinstance(operation, GrpcOperation):
        return HttpOperation(
            methods=ALL, paths=tuple(path for each in operation.methods for path in _broad(each.segments))
        )
    methods = operation.methods
    if methods is not ALL and "GET" in methods:
        methods |= {"HEAD"}
    if operation.paths is ALL:
        return HttpOperation(methods=methods, paths=ALL)
    return HttpOperation(
        methods=methods, paths=tuple(each for path in operation.paths for each in _broad(path.segments))
    )


def _broad(segments: tuple[str, ...]) -> Iterator[PathTemplate]:
    for each in broadened(segments):
        for broad in (each, (*each, "")):
            yield PathTemplate(text="/" + "/".join(broad), segments=broad)


def _templates(operations: Sequence[HttpOrGrpc]) -> Iterator[tuple[int, PathTemplate]]:
    for number, operation in enumerate(operations):
        if isinstance(operation, GrpcOperation):
            for method in operation.methods:
                yield number, PathTemplate(text=f"/{method}", segments=method.segments)
        elif operation.paths is not ALL:
            yield from ((number, path) for path in operation.paths)


def _standing_for(templates: Sequence[PathTemplate], shape: Sequence[str]) -> PathTemplate:
    """Give the template that lies within all others; where none does, what they have in common."""
    # A Guardrail also means a trailing slash behind all the rest: no pattern of a rule says that.
    known = [each for each in templates if REST not in each.segments[:-1]]
    for template in sorted(known, key=lambda each: (-each.literals, each.text.count(ANY_SEGMENT), each.text)):
        if len(known) == len(templates) and all(other.covers(template) for other in templates):
            return template
    return PathTemplate(text="/" + "/".join(shape), segments=tuple(shape))


def _target(segments: Sequence[str], shaped: tuple[int, PathShape] | None = None) -> str:
    """Write segments as a request's target; one of them may get a shape."""
    written = [quote(segment, safe="") for segment in segments]
    if shaped is not None:
        written[shaped[0]] += _SHAPED[shaped[1]]
    return "/" + "/".join(written)


# --- calls ---------------------------------------------------------------------------------------------------------


def call_of_classes(caller: CallerClass, destination: DestinationClass, method: MethodClass, path: PathClass) -> Call:
    """Give the example call of four classes."""
    inbound = destination.direction is Direction.INBOUND
    return Call(
        direction=destination.direction,
        service=destination.name if inbound else caller.new_owner or caller.old_owner or "",
        caller=caller.example,
        method=method.method,
        path=path.target,
        host=destination.host,
        headers=_GRPC_HEADERS if method.is_grpc else (),
        tls=(method.tls or TlsVersion.TLS_1_3) if inbound else None,
    )
