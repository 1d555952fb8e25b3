"""Whose every trust domain, identity, certificate and host is: each has one owner, or the set has a fault.

Reads the documents themselves, not their values: a document with another fault still owns what it says it owns.

# INVARIANT (one owner): in a set that passes, every SPIFFE ID, every name in certificates of one authority and every
# host has at most one owner.
"""

from __future__ import annotations

from collections import defaultdict
from posixpath import normpath
from typing import TYPE_CHECKING, TypeAlias

from authz.errors import AuthzError
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.policy.errors import FaultCode, nearest, quoted
from authz.policy.host import ThirdPartyHost, parse_dns_name, parse_service_host
from authz.policy.identity_pattern import IdentityPattern, IdentityTable
from authz.policy.revocation import parse_revocation
from authz.policy.schema import Guardrail, Kind, MicroPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from authz.policy.document import Key
    from authz.policy.errors import Fault
    from authz.policy.placed import Placed

    T = TypeVar("T")

_Place: TypeAlias = "tuple[Key, ...]"


def ownership_faults(placed: Sequence[Placed]) -> Iterator[Fault]:
    """Give the faults of trust domains, identities and hosts."""
    meshes = [each for each in placed if each.kind is Kind.MESH]
    for mesh in meshes:
        yield from _trust_domain_faults(mesh)
    known = _known_trust_domains(meshes)
    if known is not None:
        for each in placed:
            yield from _foreign_identities(each, known)
    yield from _identity_faults(placed)
    yield from _certificate_faults(placed)
    yield from _host_faults(placed)


def _parsed(each: Placed, parse: Callable[[str], T], *keys: Key) -> Iterator[tuple[_Place, T]]:
    """Give the values of a list of texts; those that are none have their faults from the schema."""
    for place, text in each.document.texts(*keys):
        try:
            yield place, parse(text)
        except AuthzError:
            continue


def _parsed_one(each: Placed, parse: Callable[[str], T], *place: Key) -> Iterator[tuple[_Place, T]]:
    """Give the value of a text, if it is there and is one."""
    text = each.document.text(*place)
    try:
        if text is not None:
            yield place, parse(text)
    except AuthzError:
        return


# --- trust domains -------------------------------------------------------------------------------------------------


def _federated(mesh: Placed) -> Iterator[tuple[_Place, TrustDomain]]:
    for entry in mesh.document.places("spec", "federates"):
        yield from _parsed_one(mesh, TrustDomain.parse, *entry, "trustDomain")


def _known_trust_domains(meshes: Sequence[Placed]) -> frozenset[TrustDomain] | None:
    """Give the own and the federated trust domains; None where they are not known for sure."""
    if len(meshes) != 1:
        return None
    document = meshes[0].document
    own = [domain for _, domain in _parsed(meshes[0], TrustDomain.parse, "spec", "trustDomains")]
    federated = [domain for _, domain in _federated(meshes[0])]
    stated = len(document.places("spec", "trustDomains")) + len(document.places("spec", "federates"))
    return frozenset([*own, *federated]) if own and len(own) + len(federated) == stated else None


def _trust_domain_faults(mesh: Placed) -> Iterator[Fault]:
    own: set[TrustDomain] = set()
    for place, domain in _parsed(mesh, TrustDomain.parse, "spec", "trustDomains"):
        if domain in own:
            yield mesh.fault(place, f"the trust domain {quoted(domain.name)} stands here twice", FaultCode.CONFLICT)
        own.add(domain)
    federated: set[TrustDomain] = set()
    for place, domain in _federated(mesh):
        if domain in own:
            message = f"the trust domain {quoted(domain.name)} is an own one; only others are federated"
            yield mesh.fault(place, message, FaultCode.CONFLICT)
        elif domain in federated:
            yield mesh.fault(place, f"the trust domain {quoted(domain.name)} is federated twice", FaultCode.CONFLICT)
        federated.add(domain)


def _selects_no_identities(each: Placed) -> bool:
    """Whether a policy without a fault of its own names no identity: of nearly all, and soon told."""
    value = each.value
    return isinstance(value, (MicroPolicy, Guardrail)) and not any(one.identities for one in value.callers or ())


def _foreign_identities(each: Placed, known: frozenset[TrustDomain]) -> Iterator[Fault]:
    """Find identities of trust domains that are neither own nor federated."""
    named: list[tuple[_Place, TrustDomain]] = []
    match each.kind:
        case Kind.MESH:
            named += [
                (place, found.trust_domain) for place, found in _parsed(each, parse_revocation, "spec", "revoked")
            ]
            for entry in each.document.places("spec", "federates"):
                named += [
                    (place, found.trust_domain)
                    for place, found in _parsed_one(each, SpiffeId.parse, *entry, "endpoint", "spiffeId")
                ]
        case Kind.SERVICE | Kind.THIRD_PARTY:
            patterns = _parsed(each, IdentityPattern.parse, "spec", "identities")
            named += [(place, found.trust_domain) for place, found in patterns]
        case Kind.MICRO_POLICY | Kind.GUARDRAIL if not _selects_no_identities(each):
            for entry in each.document.places("spec", "from"):
                patterns = _parsed(each, IdentityPattern.parse, *entry, "identities")
                named += [(place, found.trust_domain) for place, found in patterns]
        case Kind.MICRO_POLICY | Kind.GUARDRAIL:
            pass
        case Kind.POLICY_TEST:
            pass  # a test may well ask for a stranger
    for place, domain in named:
        if domain not in known:
            hint = nearest(domain.name, [each.name for each in known], similarity=0.85)
            message = f"the trust domain {quoted(domain.name)} is neither own nor federated{hint}"
            yield each.fault(place, message, FaultCode.REFERENCE)


# --- identities ----------------------------------------------------------------------------------------------------


def _identity_faults(placed: Sequence[Placed]) -> Iterator[Fault]:
    """Find exact IDs that stand twice, and patterns of different owners that are equally specific and can meet."""
    exact: dict[SpiffeId, tuple[Placed, _Place]] = {}
    #: by the number of literal segments: only equally specific patterns collide
    tables: defaultdict[int, IdentityTable[tuple[Placed, _Place]]] = defaultdict(IdentityTable)
    for each in placed:
        if each.kind not in {Kind.SERVICE, Kind.THIRD_PARTY}:
            continue
        for place, pattern in _parsed(each, IdentityPattern.parse, "spec", "identities"):
            shown = quoted(str(pattern))
            if pattern.exact is not None:
                owner, owned = exact.setdefault(pattern.exact, (each, place))
                if (owner, owned) != (each, place):
                    message = f"the identity {shown} is already that of {quoted(owner.name)} in {owner.where(*owned)}"
                    yield each.fault(place, message, FaultCode.CONFLICT)
                continue
            table = tables[pattern.literals]
            other = next((found for found in table.overlapping(pattern) if found[0] is not each), None)
            table.add(pattern, (each, place))
            if other is not None:
                owner, owned = other
                message = (
                    f"{shown} and the equally specific pattern of {quoted(owner.name)} in {owner.where(*owned)} "
                    "can match the same ID; make one of them more literal"
                )
                yield each.fault(place, message, FaultCode.CONFLICT)


# --- certificates ------------------------------------------------------------------------------------------------


def _certificate_faults(placed: Sequence[Placed]) -> Iterator[Fault]:
    """Find names of certificates of one authority that stand twice."""
    owners: dict[tuple[str, str, str], tuple[Placed, _Place]] = {}
    for each in placed:
        if each.kind is not Kind.THIRD_PARTY:
            continue
        for entry in each.document.places("spec", "certificates"):
            written = each.document.text(*entry, "authority")
            if not written:
                continue  # the schema has told
            authority = normpath(written)
            names = [("dns", *found) for found in _parsed(each, parse_dns_name, *entry, "dns")]
            names += [("uri", *found) for found in each.document.texts(*entry, "uri")]
            for kind, place, name in names:
                owner, owned = owners.setdefault((authority, kind, name), (each, place))
                if (owner, owned) != (each, place):
                    message = (
                        f"certificates of {quoted(authority)} with the name {quoted(name)} are already those of "
                        f"{quoted(owner.name)} in {owner.where(*owned)}"
                    )
                    yield each.fault(place, message, FaultCode.CONFLICT)


# --- hosts ---------------------------------------------------------------------------------------------------------


def _host_faults(placed: Sequence[Placed]) -> Iterator[Fault]:
    """Find hosts that stand twice; a Service answers to its name and its hosts whatever the port."""
    names = {each.name: each for each in placed if each.kind is Kind.SERVICE}
    owners: dict[str, Placed] = {}
    for each in names.values():
        for place, host in _parsed(each, parse_service_host, "spec", "hosts"):
            if names.get(host, each) is not each:
                yield each.fault(place, f"{quoted(host)} is the name of another Service", FaultCode.CONFLICT)
            elif host in owners:
                message = f"the host {quoted(host)} is already that of {quoted(owners[host].name)}"
                yield each.fault(place, message, FaultCode.CONFLICT)
            owners.setdefault(host, each)
    yield from _third_party_host_faults(placed, owners)


def _third_party_host_faults(placed: Sequence[Placed], services: Mapping[str, Placed]) -> Iterator[Fault]:
    entries: dict[ThirdPartyHost, tuple[Placed, _Place]] = {}
    for each in placed:
        if each.kind is not Kind.THIRD_PARTY:
            continue
        for place, entry in _parsed(each, ThirdPartyHost.parse, "spec", "hosts"):
            if not entry.wildcard and entry.name in services:
                owned_by = quoted(services[entry.name].name)
                message = f"the host {quoted(entry.name)} is already that of the Service {owned_by}"
                yield each.fault(place, message, FaultCode.CONFLICT)
            owner, owned = entries.setdefault(entry, (each, place))
            if (owner, owned) != (each, place):
                shown = quoted(str(entry))
                message = f"the host {shown} is already that of {quoted(owner.name)} in {owner.where(*owned)}"
                yield each.fault(place, message, FaultCode.CONFLICT)
