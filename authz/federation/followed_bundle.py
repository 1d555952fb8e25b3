"""The bundle of one federated trust domain, followed for as long as the relationship lasts.

Which of three copies is in force:

1. What the endpoint gave last, if it supersedes what was in force then (`freshness`). A copy of it is kept, and is in
   force again after a restart.
2. The operator's file, whenever it is read for the first time or holds something else than before: SPIFFE Federation
   4.2 has the local update be the latest until the next refresh replaces it. So an operator who has the partner's new
   roots on another way, or whose partner counts from the beginning again, replaces the file.
3. None, and then nobody of that trust domain is believed.

Without an endpoint there is the file alone. What cannot be read, fetched or believed leaves what was in force, and is
said in the status.

# INVARIANT (own keys): nothing of another trust domain is read, changed or waited for here, but for the authorities of
the server of an `https_spiffe` endpoint.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md (4.2, 5.2.2.4, 6)
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from authz.errors import AuthzError
from authz.federation.bundle_file import read_bundle_file
from authz.federation.errors import FederationError
from authz.federation.freshness import require_successor
from authz.federation.kept_bundles import KeptBundle
from authz.identity.bundle import bundle_from_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from authz.federation.bundle_client import BundleClient
    from authz.federation.bundle_file import BundleFile
    from authz.federation.kept_bundles import KeptBundles
    from authz.federation.poll_times import PollTimes
    from authz.federation.relationship import Endpoint, Relationship
    from authz.identity.bundle import Bundle
    from authz.identity.spiffe_id import TrustDomain
    from authz.identity.trust import Trust

_log = logging.getLogger(__name__)

#: how often the operator's file is looked at
FILE_LOOK_S: Final = 1.0

#: device, inode, size and times of change of a file
_Facts = tuple[int, int, int, int, int]


class Origin(StrEnum):
    """Where the bundle in force came from."""

    FILE = "file"
    ENDPOINT = "endpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationStatus:
    """How it stands with one federated trust domain.

    `last_success` is when the endpoint was asked successfully, or the file was read; the errors are those since then,
    None where there is none. `next_poll` is None without an endpoint.
    """

    trust_domain: TrustDomain
    origin: Origin | None
    sequence: int | None
    last_success: datetime | None
    endpoint_error: str | None
    file_error: str | None
    next_poll: datetime | None

    def as_fields(self) -> dict[str, str | int | None]:
        """Give it as a flat mapping for JSON, times in RFC 3339."""
        return {
            "trust_domain": self.trust_domain.name,
            "origin": None if self.origin is None else self.origin.value,
            "sequence": self.sequence,
            "last_success": _rfc3339(self.last_success),
            "endpoint_error": self.endpoint_error,
            "file_error": self.file_error,
            "next_poll": _rfc3339(self.next_poll),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all trust domains that are followed have in common.

    `trust_of_servers` gives the bundles known now, of federated trust domains and our own; `changed` is called after a
    bundle was replaced, `reported` after each look at a file and each poll that there is something to say of; `chance`
    gives a number from 0 to 1, anew each time.
    """

    client: BundleClient
    kept: KeptBundles | None
    times: PollTimes
    trust_of_servers: Callable[[], Trust]
    changed: Callable[[], None]
    reported: Callable[[], None]
    chance: Callable[[], float]


class FollowedBundle:
    """The bundle of one relationship; belongs to the event loop that runs it."""

    def __init__(self, relationship: Relationship, surroundings: Surroundings) -> None:
        self.relationship = relationship
        self._around = surroundings
        self.bundle: Bundle | None = None
        self._origin: Origin | None = None
        self._digest: str | None = None
        self._facts: _Facts | None = None
        self._failures = 0
        self._due_s = 0.0
        self._last_success: datetime | None = None
        self._endpoint_error: str | None = None
        self._file_error: str | None = None
        self._next_poll: datetime | None = None

    def status(self) -> FederationStatus:
        """Say how it stands."""
        return FederationStatus(
            trust_domain=self.relationship.trust_domain,
            origin=self._origin,
            sequence=None if self.bundle is None else self.bundle.sequence,
            last_success=self._last_success,
            endpoint_error=self._endpoint_error,
            file_error=self._file_error,
            next_poll=self._next_poll,
        )

    async def load(self) -> None:
        """Read what is on this machine: the operator's file, and the copy of what was fetched."""
        try:
            await self._look_at_file()
            await self._restore()
        except Exception as error:  # noqa: BLE001 see _fault
            self._fault(error)

    async def follow(self) -> None:
        """Follow file and endpoint until cancelled."""
        while True:
            try:
                pause_s = await self._step()
            except Exception as error:  # noqa: BLE001 see _fault
                self._fault(error)
                pause_s = self._around.times.patience.total_seconds()
            await asyncio.sleep(pause_s)

    async def _restore(self) -> None:
        relationship, kept_bundles = self.relationship, self._around.kept
        if relationship.endpoint is None or kept_bundles is None:
            return
        kept = await asyncio.to_thread(kept_bundles.kept, relationship.trust_domain)
        if kept is None or kept.endpoint != relationship.endpoint:
            return
        # 4.2: a file that the operator has replaced meanwhile is the latest; one that cannot be read says nothing.
        if self._digest is not None and self._digest != kept.file_digest:
            return
        self._last_success = kept.fetched
        self._use(kept.bundle, Origin.ENDPOINT)

    async def _step(self) -> float:
        """Look at the file, and ask the endpoint if it is time; gives the seconds until the next look."""
        endpoint = self.relationship.endpoint
        changed = await self._look_at_file()
        if endpoint is None:
            return FILE_LOOK_S
        loop = asyncio.get_running_loop()
        # 4.2: a local update is good until a refresh, and may be what a refresh has waited for.
        if changed or loop.time() >= self._due_s:
            await self._poll(endpoint)
        left_s = max(0.0, self._due_s - loop.time())
        return left_s if self.relationship.bundle_file is None else min(left_s, FILE_LOOK_S)

    def _fault(self, error: Exception) -> None:
        """Say what should not be: the edge of one trust domain, beyond which the others go on."""
        _log.error("the bundle of `%s`: a fault of the program", self.relationship.trust_domain, exc_info=error)
        self._failed(f"a fault of the program: {type(error).__name__}")

    # --- the operator's file ---------------------------------------------------------------------------------------

    async def _look_at_file(self) -> bool:
        """Read the file where it is another one than at the last look; True if it was taken."""
        path = self.relationship.bundle_file
        if path is None:
            return False
        # A file system may hang; the loop has other trust domains to care for.
        facts = await asyncio.to_thread(_facts, path)
        if facts == self._facts and (facts is not None or self._file_error is not None):
            return False
        try:
            file = await asyncio.to_thread(read_bundle_file, path, self.relationship.trust_domain)
        except FederationError as error:
            self._facts = facts
            if str(error) != self._file_error:
                _log.error("the bundle of `%s`: %s", self.relationship.trust_domain, error)
            self._file_error = str(error)
            self._around.reported()
            return False
        self._facts, self._file_error = facts, None
        taken = self._take_file(file)
        self._around.reported()
        return taken

    def _take_file(self, file: BundleFile) -> bool:
        if file.digest == self._digest:
            return False
        self._digest = file.digest
        if self.relationship.endpoint is None:
            self._last_success = datetime.now(UTC)
        self._use(file.bundle, Origin.FILE)
        return True

    # --- the endpoint ----------------------------------------------------------------------------------------------

    async def _poll(self, endpoint: Endpoint) -> None:
        trust_domain = self.relationship.trust_domain
        digest = self._digest
        try:
            document = await self._around.client.fetch(endpoint, self._around.trust_of_servers())
            bundle = bundle_from_json(document, trust_domain)
            if self.bundle is not None:
                require_successor(self.bundle, bundle)
        except AuthzError as error:
            self._failed(str(error))
        else:
            now = datetime.now(UTC)
            self._failures, self._endpoint_error, self._last_success = 0, None, now
            # Kept first: what comes back with a restart is never older than what was in force.
            await self._keep(
                KeptBundle(bundle=bundle, document=document, endpoint=endpoint, file_digest=digest, fetched=now)
            )
            self._use(bundle, Origin.ENDPOINT)
            # 7.6: who was asked for what is in the log.
            _log.info(
                "the bundle of `%s` was fetched from %s: sequence %s", trust_domain, endpoint.url, bundle.sequence
            )
        self._plan()

    async def _keep(self, kept: KeptBundle) -> None:
        if self._around.kept is None:
            return
        try:
            await asyncio.to_thread(self._around.kept.keep, kept)
        except FederationError as error:
            _log.error("the bundle of `%s` cannot be kept for a restart: %s", self.relationship.trust_domain, error)
            self._endpoint_error = f"fetched, but not kept for a restart: {error}"

    def _failed(self, why: str) -> None:
        self._failures += 1
        if why != self._endpoint_error:
            _log.error("the bundle of `%s`: %s", self.relationship.trust_domain, why)
        self._endpoint_error = why

    def _plan(self) -> None:
        """Say when the endpoint is asked next."""
        pause = self._around.times.pause(
            hint=None if self.bundle is None else self.bundle.refresh_hint,
            failures=self._failures,
            has_bundle=self.bundle is not None,
            chance=self._around.chance(),
        )
        self._due_s = asyncio.get_running_loop().time() + pause.total_seconds()
        self._next_poll = datetime.now(UTC) + pause
        self._around.reported()

    def _use(self, bundle: Bundle, origin: Origin) -> None:
        self.bundle, self._origin = bundle, origin
        self._around.changed()


def _facts(path: Path) -> _Facts | None:
    try:
        facts = path.stat()
    except OSError:
        return None  # reading it says why
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _rfc3339(instant: datetime | None) -> str | None:
    return (
        None if instant is None else instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
