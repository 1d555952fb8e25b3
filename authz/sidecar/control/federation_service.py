"""The bundles of federated trust domains, followed in control: what the source of the identity does not deliver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from authz.federation.federated_bundles import FederatedBundles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from authz.federation.followed_bundle import FederationStatus
    from authz.federation.relationship import Relationship
    from authz.identity.trust import Trust
    from authz.sidecar.control.control_services import ControlServices


class FederationService:
    """Follows what `configure` said last; `changed` and `reported` are called in control's main loop.

    `status` is of the main loop, too: what was known when `reported` was called last.
    """

    name = "federation"

    def __init__(
        self,
        *,
        services: ControlServices,
        state: Path | None,
        own: Callable[[], Trust],
        changed: Callable[[Trust], None],
        reported: Callable[[], None],
    ) -> None:
        """Take where fetched bundles are kept over restarts, and whose bundles an endpoint of ours is verified by."""
        self._services = services
        self._state = state
        self._own = own
        self._changed = changed
        self._reported = reported
        self.status: tuple[FederationStatus, ...] = ()
        self._wanted: tuple[Relationship, ...] = ()
        self._bundles: FederatedBundles | None = None
        self._configuring: set[asyncio.Task[None]] = set()

    def configure(self, relationships: tuple[Relationship, ...]) -> None:
        """Follow these from now on, and no others; called by the main loop."""
        self._services.call(lambda: self._configure(relationships))

    async def run(self, ready: Callable[[], None]) -> None:
        """Follow until cancelled."""
        self._bundles = FederatedBundles(
            state=self._state,
            own=self._own,
            changed=lambda trust: self._services.hand_over(lambda: self._changed(trust)),
            reported=self._report,
        )
        ready()
        self._configure(self._wanted)
        await self._bundles.run()

    def _configure(self, relationships: tuple[Relationship, ...]) -> None:
        self._wanted = relationships
        if self._bundles is not None:
            task = asyncio.get_running_loop().create_task(self._configured(self._bundles, relationships))
            self._configuring.add(task)
            task.add_done_callback(self._configuring.discard)

    async def _configured(self, bundles: FederatedBundles, relationships: tuple[Relationship, ...]) -> None:
        await bundles.configure(relationships)
        self._report()  # one that has ended is reported by nobody

    def _report(self) -> None:
        if self._bundles is not None:
            status = self._bundles.status()
            self._services.hand_over(lambda: self._take(status))

    def _take(self, status: tuple[FederationStatus, ...]) -> None:
        if status != self.status:
            self.status = status
            self._reported()
