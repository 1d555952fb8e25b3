"""A Workload API as the source of a sidecar's identity: followed in the services' loop, told in control's main loop."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from authz.workload_api.client import WorkloadApiClient
from authz.workload_api.errors import WorkloadApiError

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.control.control_services import ControlServices
    from authz.sidecar.control.workload_identity import WorkloadIdentity
    from authz.workload_api.received import ReceivedJwtBundles, ReceivedX509

_log = logging.getLogger(__name__)


class WorkloadApiSource:
    """Follows the Workload API at a socket, for as long as control runs."""

    name = "workload api"

    def __init__(self, endpoint: str, *, services: ControlServices, identity: WorkloadIdentity) -> None:
        """Take the socket; raises WorkloadApiError where it is none."""
        self._client = WorkloadApiClient(endpoint)
        self._services = services
        self._identity = identity

    async def run(self, ready: Callable[[], None]) -> None:
        """Follow both profiles; that the source is not there yet keeps nobody from starting."""
        ready()
        tell = self._services.hand_over
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._x509(_X509Follower(self._identity, tell)))
            tasks.create_task(self._jwt(_JwtFollower(self._identity, tell)))

    async def _x509(self, follower: _X509Follower) -> None:
        try:
            await self._client.follow_x509(follower)
        except WorkloadApiError as error:
            # Workload Endpoint 6: not to be asked again. Another start of the sidecar asks again.
            follower.faulty(str(error))
            await asyncio.Event().wait()

    async def _jwt(self, follower: _JwtFollower) -> None:
        try:
            await self._client.follow_jwt_bundles(follower)
        except WorkloadApiError as error:
            # A source may have the X.509 profile only (Workload API 1): then no token is ever believed.
            _log.info("there are no keys of JWT-SVIDs: %s", error)
            follower.withdrawn(None)
            await asyncio.Event().wait()


class _X509Follower:
    def __init__(self, identity: WorkloadIdentity, tell: Callable[[Callable[[], None]], None]) -> None:
        self._identity = identity
        self._tell = tell

    def received(self, value: ReceivedX509) -> None:
        self._tell(lambda: self._identity.received_x509(value))

    def withdrawn(self, why: str) -> None:
        self._tell(lambda: self._identity.withdrawn(why))

    def faulty(self, why: str) -> None:
        self._tell(lambda: self._identity.faulty(why))


class _JwtFollower:
    def __init__(self, identity: WorkloadIdentity, tell: Callable[[Callable[[], None]], None]) -> None:
        self._identity = identity
        self._tell = tell

    def received(self, value: ReceivedJwtBundles) -> None:
        self._tell(lambda: self._identity.received_jwt_bundles(value))

    def withdrawn(self, why: str | None) -> None:
        self._tell(lambda: self._identity.jwt_withdrawn(why))

    def faulty(self, why: str) -> None:
        """Say nothing: the other stream, to the same source, says the same."""
