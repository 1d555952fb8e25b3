"""The destinations that two policy sets can tell apart, by one example of each: Services, and hosts of ThirdParties.

# INVARIANT (complete): if the two sets answer calls to some destination differently, they do so for one of these.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.policy.host import DEFAULT_PORTS
from authz.request import Direction

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from authz.policy.host import ThirdPartyHost
    from authz.policy.index import PolicyIndex
    from authz.policy.policy_set import PolicySet

#: Of ports that no policy names, the first stands for all.
_FRESH_PORTS: Final = range(8440, 65_536)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationClass:
    """Requests to one place, and which Service or ThirdParty that is in either set; `name` is what people call it.

    With `tunnel`, a host and a port, it is no request but an opaque tunnel.
    """

    name: str
    direction: Direction
    host: str
    old_party: str | None
    new_party: str | None
    tunnel: tuple[str, int] | None = None

    @property
    def service(self) -> str:
        """The Service whose sidecar asks about inbound calls."""
        return self.name if self.direction is Direction.INBOUND else ""


def destination_classes(
    old: PolicySet, new: PolicySet, old_index: PolicyIndex, new_index: PolicyIndex
) -> list[DestinationClass]:
    """Give the destinations of both sets: Services by name, and the hosts of whatever is called from outside of it."""
    services = sorted({service.name for service in (*old.services, *new.services)})
    found: dict[tuple[object, ...], DestinationClass] = {}
    for name in services:
        found[Direction.INBOUND, name] = DestinationClass(
            name=name,
            direction=Direction.INBOUND,
            host=name,
            old_party=name if old_index.has_service(name) else None,
            new_party=name if new_index.has_service(name) else None,
        )
    in_both = {party.name for party in old.parties} & {party.name for party in new.parties}
    for host, port, written in _hosts(old, new):
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
        name = party if not moved else written if port in DEFAULT_PORTS else f"{written}:{port}"
        found.setdefault(
            (Direction.OUTBOUND, name, old_party, new_party),
            DestinationClass(
                name=name,
                direction=Direction.OUTBOUND,
                host=host if port is None else f"{host}:{port}",
                old_party=old_party,
                new_party=new_party,
            ),
        )
    return [*found.values(), *_tunnels(old, new, old_index, new_index)]


def _tunnels(
    old: PolicySet, new: PolicySet, old_index: PolicyIndex, new_index: PolicyIndex
) -> Iterator[DestinationClass]:
    """Give what some Service may open tunnels to; all others are closed, whatever a rule allows."""
    for host, port in sorted({each for side in (old, new) for service in side.services for each in service.tunnels}):
        before, after = old_index.destination(host, port), new_index.destination(host, port)
        if any(party is not None and not party.is_service for party in (before, after)):
            yield DestinationClass(
                name=f"{host}:{port}",
                direction=Direction.OUTBOUND,
                host=f"{host}:{port}",
                old_party=None if before is None else before.name,
                new_party=None if after is None else after.name,
                tunnel=(host, port),
            )


def _hosts(old: PolicySet, new: PolicySet) -> Iterator[tuple[str, int | None, str]]:
    """Give an example of each host, with and without a port, that either set can tell from others, and its pattern."""
    of_services = {name for each in (*old.services, *new.services) for name in (each.name, *each.hosts)}
    for host in sorted(of_services):
        yield host, None, host
    entries: list[ThirdPartyHost] = [host for each in (*old.third_parties, *new.third_parties) for host in each.hosts]
    ports: defaultdict[tuple[str, bool], set[int]] = defaultdict(set)
    for entry in entries:
        ports[entry.name, entry.wildcard] |= set() if entry.port is None else {entry.port}
    exact = {name for name, wildcard in ports if not wildcard}
    for name, wildcard in sorted(ports):
        host = _below(name, exact | of_services) if wildcard else name
        # An entry with a port leaves the other ports to the wildcard above it.
        above = set() if wildcard else ports.get((name.partition(".")[2], True), set())
        written = ports[name, wildcard] | above
        fresh = next(port for port in _FRESH_PORTS if port not in written)
        for port in (None, 80, 443, *sorted(written - {80, 443}), fresh):
            yield host, port, f"*.{name}" if wildcard else name


def _below(parent: str, taken: Collection[str]) -> str:
    label = "any"
    while f"{label}.{parent}" in taken:
        label += "-other"
    return f"{label}.{parent}"
