"""The bundles of all federated trust domains, kept up to date: what the policy set federates, and nothing else.

# INVARIANT (never merged): each trust domain has the one bundle of its own relationship (SPIFFE Federation 4.2, 7.3).
# INVARIANT (ended at once): a trust domain that leaves `federates` is not in `trust` any more before `configure`
# awaits anything; then its poll ends and its copy is deleted (6.3).
# INVARIANT (apart): trust domains are followed by tasks of their own; one that fails or hangs delays no other.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Final

from authz.federation.bundle_client import BundleClient
from authz.federation.errors import FederationError
from authz.federation.followed_bundle import FollowedBundle, Surroundings
from authz.federation.freshness import has_same_keys
from authz.federation.kept_bundles import KeptBundles
from authz.federation.poll_times import PollTimes
from authz.identity.trust import Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from authz.federation.followed_bundle import FederationStatus
    from authz.federation.relationship import Relationship
    from authz.identity.spiffe_id import TrustDomain

_log = logging.getLogger(__name__)

#: a file system that hangs holds up neither what runs nor the other trust domains
LOAD_S: Final = 10.0


class FederatedBundles:
    """Belongs to one event loop: `configure` with what the set in force says, and `run` as a task.

    `changed` is called in that loop with the new trust after each change of keys, and must not wait; so is `reported`,
    when `status` may say something else than before. `state` keeps what was fetched over restarts. `own` gives the
    bundles of our own trust domains, by which an endpoint is verified whose server is one of ours (non-self-serving
    endpoints, SPIFFE Federation 5.2.2.4).
    """

    def __init__(
        self,
        *,
        changed: Callable[[Trust], None],
        reported: Callable[[], None] | None = None,
        state: Path | None = None,
        own: Callable[[], Trust] | None = None,
        client: BundleClient | None = None,
        times: PollTimes | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._changed = changed
        self._own = own
        self._kept = None if state is None else KeptBundles(state)
        self._trust = Trust.of(())
        self._wanted: dict[TrustDomain, Relationship] = {}
        self._followed: dict[TrustDomain, FollowedBundle] = {}
        self._tasks: dict[TrustDomain, asyncio.Task[None]] = {}
        self._runs = False
        self._configuring = asyncio.Lock()
        self._surroundings = Surroundings(
            client=client or BundleClient(),
            kept=self._kept,
            times=times or PollTimes(),
            trust_of_servers=self._trust_of_servers,
            changed=self._tell,
            reported=reported or _nobody,
            chance=chance,
        )

    @property
    def trust(self) -> Trust:
        """The bundles of the federated trust domains, as far as they are known."""
        return self._trust

    def status(self) -> tuple[FederationStatus, ...]:
        """Say how it stands with each, by name."""
        return tuple(self._followed[each].status() for each in sorted(self._followed))

    async def configure(self, relationships: Iterable[Relationship]) -> None:
        """Follow these trust domains and no others; returns when files and kept copies have been read.

        One whose endpoint or file is another one than before starts from the beginning: what was fetched elsewhere is
        not believed. Nothing is fetched here: `run` does that. Of two calls that overlap the later one counts.
        """
        wanted = self._wanted = {each.trust_domain: each for each in relationships}
        # INVARIANT (ended at once): nothing is awaited before this is done.
        tasks = [self._end(trust_domain) for trust_domain in tuple(self._followed) if trust_domain not in wanted]
        self._tell()
        async with self._configuring:
            await _ended(tasks)
            await self._retain()
            await asyncio.gather(*(self._begin(each) for each in wanted.values()))

    def _end(self, trust_domain: TrustDomain) -> asyncio.Task[None] | None:
        """Follow it no longer; gives what is still to end."""
        _log.info("federation with `%s` has ended", trust_domain)
        del self._followed[trust_domain]
        task = self._tasks.pop(trust_domain, None)
        if task is not None:
            task.cancel()
        return task

    async def _begin(self, relationship: Relationship) -> None:
        """Follow a trust domain by this relationship, in the place of the one that it had."""
        trust_domain = relationship.trust_domain
        before = self._followed.get(trust_domain)
        if before is not None and before.relationship == relationship:
            return
        followed = FollowedBundle(relationship, self._surroundings)
        try:
            async with asyncio.timeout(LOAD_S):
                await followed.load()
        except TimeoutError:
            _log.exception("the bundle of `%s` cannot be read within %d s", trust_domain, LOAD_S)
        if self._wanted.get(trust_domain) != relationship:  # meanwhile it has ended
            return
        task = self._tasks.pop(trust_domain, None)
        self._followed[trust_domain] = followed
        self._tell()
        if task is not None:
            task.cancel()
            await _ended([task])
        if self._runs:
            self._start()

    async def run(self) -> None:
        """Follow files and endpoints until cancelled."""
        self._runs = True
        self._start()
        try:
            await asyncio.Event().wait()
        finally:
            self._runs = False
            tasks, self._tasks = list(self._tasks.values()), {}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self) -> None:
        for trust_domain, followed in self._followed.items():
            if trust_domain not in self._tasks:
                self._tasks[trust_domain] = asyncio.create_task(followed.follow(), name=f"bundle of {trust_domain}")

    async def _retain(self) -> None:
        """Delete what is kept of others, also what an earlier process has left."""
        if self._kept is None:
            return
        try:
            await asyncio.to_thread(self._kept.retain, tuple(self._wanted))
        except FederationError as error:
            _log.error("a bundle whose federation has ended is still kept: %s", error)

    def _trust_of_servers(self) -> Trust:
        trust = Trust.of(()) if self._own is None else self._own()
        for bundle in self._trust:
            trust = trust.replace(bundle)
        return trust

    def _tell(self) -> None:
        """Put together what is trusted now, and say so where it is something else than before."""
        before = self._trust
        trust = self._trust = Trust.of(each.bundle for each in self._followed.values() if each.bundle is not None)
        if not _has_changed(before, trust):
            return
        try:
            self._changed(trust)
        except Exception:  # noqa: BLE001 who is told is foreign to this package, and following goes on
            _log.exception("a change of federated bundles was not taken in")


def _nobody() -> None:
    """Tell nobody."""


def _has_changed(before: Trust, after: Trust) -> bool:
    """Whether another SVID may be proven by now than before."""
    if before.bundles.keys() != after.bundles.keys():
        return True
    return any(not has_same_keys(bundle, after.bundles[bundle.trust_domain]) for bundle in before)


async def _ended(tasks: Iterable[asyncio.Task[None] | None]) -> None:
    await asyncio.gather(*(each for each in tasks if each is not None), return_exceptions=True)
