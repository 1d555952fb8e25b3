"""Which container a process is in, and whether that is one of a Service's workload (`attest: [{container: ...}]`).

A process whose pid can be seen is in the container that the kernel says (its cgroup), as long as the first process of
that container, by the engine's word, stands in the same place. Everything is read again afterwards, so that neither a
container nor a process can have been replaced by another one in between.

A process in another pid namespace shows as pid 0: the kernel says nothing of it that could be compared. It is known by
the socket that it came by, which is one Service's alone, and by what runs: at least one running container has the
entry's labels, and each that has them is what the entry says in full. Who else gets at that socket is for whoever
mounts it to see to.

# INVARIANT (fail closed): an engine that is down, slow, or says what cannot be read leaves the process unattested.
# INVARIANT (one run): what is compared is true of the peer's container in the run in which the peer was found.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.issuer.attestor.container_evidence import (
    MAX_CGROUP_BYTES,
    ContainerFacts,
    ContainerMembership,
    asks_for_digest,
    container_membership,
    is_as_selected,
)
from authz.issuer.errors import AttestationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from authz.issuer.attestor.container_engine import ContainerEngine
    from authz.issuer.registration import Registration
    from authz.policy.evidence_fields import Container
    from authz.workload_api.peer import Peer

#: containers of one description, as replicas on one machine are
MAX_REPLICAS: Final = 64
_SHOWN_ID_CHARS: Final = 12


class ContainerAttestor:
    """Attests processes by the container that they are in; only Services that ask for it cost a question."""

    def __init__(self, engine: ContainerEngine, *, proc: str = "/proc") -> None:
        self._engine = engine
        self._proc = proc

    @property
    def name(self) -> str:
        """What it is called in records."""
        return "container"

    async def services(self, peer: Peer, candidates: Sequence[Registration]) -> frozenset[str]:
        """Give the candidates one of whose `container` entries holds in every field."""
        wanted = {
            registration.service: selectors
            for registration in candidates
            if (selectors := [each.container for each in registration.attest if each.container is not None])
        }
        if not wanted:
            return frozenset()
        if peer.pid:
            return await self._by_cgroup(peer, wanted)
        if len(candidates) != 1:
            raise AttestationError("the process is in another pid namespace, and the socket is no workload's own")
        ((service, selectors),) = wanted.items()
        for selector in selectors:
            if await self._runs_as(selector):
                return frozenset({service})
        return frozenset()

    async def _by_cgroup(self, peer: Peer, wanted: Mapping[str, Sequence[Container]]) -> frozenset[str]:
        membership = self._membership(peer.pid)
        if membership is None:
            return frozenset()
        facts = await self._facts(membership)
        found = frozenset(
            [
                service
                for service, selectors in wanted.items()
                if any([await self._holds(selector, facts) for selector in selectors])
            ]
        )
        # INVARIANT (one run): the same process, in the same place, in the same run of the same container.
        if self._membership(peer.pid) != membership or await self._facts(membership) != facts or not peer.lives():
            raise AttestationError("the process or its container was replaced while it was looked at")
        return found

    async def _facts(self, membership: ContainerMembership) -> ContainerFacts:
        """Give what the engine says of a container in which a process was found."""
        shown = membership.container_id[:_SHOWN_ID_CHARS]
        facts = await self._engine.container(membership.container_id)
        if facts is None:
            raise AttestationError(f"the container engine has no container `{shown}`")
        if not facts.is_running or not facts.first_pid:
            raise AttestationError(f"the container `{shown}` does not run")
        # INVARIANT (same place) of container_evidence.
        if self._membership(facts.first_pid) != membership:
            raise AttestationError(f"the process is not where the container `{shown}` is")
        return facts

    async def _runs_as(self, selector: Container) -> bool:
        """Whether containers with the labels of an entry run, and all of them are what it says."""
        if not selector.labels:
            raise AttestationError(
                "a container in another pid namespace is looked up by labels, and the entry has none"
            )
        ids = await self._engine.running(selector.labels)
        if len(ids) > MAX_REPLICAS:
            raise AttestationError(f"more than {MAX_REPLICAS} running containers have the labels")
        for container_id in ids:
            facts = await self._engine.container(container_id)
            if facts is None or not facts.is_running or not await self._holds(selector, facts):
                return False
        if set(await self._engine.running(selector.labels)) != set(ids):
            raise AttestationError("the containers were replaced while they were looked at")
        return bool(ids)

    async def _holds(self, selector: Container, facts: ContainerFacts) -> bool:
        digests = await self._engine.digests(facts.image_id) if asks_for_digest(selector) else frozenset()
        return is_as_selected(selector, facts, digests)

    def _membership(self, pid: int) -> ContainerMembership | None:
        try:
            with Path(f"{self._proc}/{pid}/cgroup").open("rb") as file:
                return container_membership(file.read(MAX_CGROUP_BYTES + 1))
        except (FileNotFoundError, ProcessLookupError) as error:
            raise AttestationError("the process has ended") from error
        except OSError as error:
            raise AttestationError("its cgroups cannot be read") from error
