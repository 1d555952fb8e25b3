"""The seam between the issuer and those who know what a process is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.issuer.registration import Registration
    from authz.workload_api.peer import Peer


class Attestor(Protocol):
    """Knows one kind of evidence.

    Facts come from the kernel or from who started the process, never from the process. What was read about a pid counts
    only if `peer.lives()` is true after the reading.
    """

    @property
    def name(self) -> str:
        """What it is called in records."""

    async def services(self, peer: Peer, candidates: Sequence[Registration]) -> frozenset[str]:
        """Give the names of those of the candidates whose workload the peer is, by this kind of evidence.

        `peer.socket` is the socket that it came by, and `peer.pid` is 0 where it is in another pid namespace. Raises
        AttestationError, with the reason for the record, where what is needed to tell cannot be known.
        """
