"""Whose workload a peer is: what the attestors know of it, and what the socket says that it came by.

A socket that is dedicated to one workload (`--workload-socket`) makes its peers that Service's and nobody else's: by
itself where the Service says nothing in `attest`; together with what it says where it does. On the common socket a peer
in another pid namespace is nobody.

# INVARIANT (fail closed): who is not attested by anybody is refused, and so is who cannot be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.issuer.errors import AttestationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from authz.issuer.attestor.attestor import Attestor
    from authz.issuer.registration import Registration, Registry
    from authz.workload_api.peer import Peer


class WorkloadAttestation:
    """Asks every attestor; `dedicated` gives the Service of each socket that is one workload's alone."""

    def __init__(self, attestors: Sequence[Attestor], *, dedicated: Mapping[str, str]) -> None:
        self._attestors = attestors
        self._dedicated = dedicated

    async def registrations(self, peer: Peer, registry: Registry) -> tuple[Registration, ...]:
        """Give the registrations whose workload the peer is, by name, one at least; raises AttestationError."""
        own = self._dedicated.get(peer.socket)
        if own is not None and own not in registry.registrations:
            raise AttestationError(f"the socket is that of `{own}`, which has no identity to be issued")
        if own is None and not peer.pid:
            raise AttestationError("the process is in another pid namespace, and this socket is no workload's own")
        candidates = tuple(registry.registrations.values()) if own is None else (registry.registrations[own],)
        names: set[str] = set()
        unknown: list[str] = []
        for attestor in self._attestors:
            try:
                names |= await attestor.services(peer, candidates)
            except AttestationError as error:
                unknown.append(f"{attestor.name}: {error}")
        if own is not None and not candidates[0].attest:
            names.add(own)
        if peer.pid and not peer.lives():
            raise AttestationError("the process has ended")
        if not names:
            raise AttestationError("; ".join(unknown) or "no Service says of its workloads what this process is")
        return tuple(registry.registrations[name] for name in sorted(names))
