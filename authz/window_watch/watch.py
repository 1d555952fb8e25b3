"""The watch itself: follows the policy folder and the decision logs, and has announcements sent until they are taken.

In place of the decision logs of one machine it can ask a hub, which knows of the attempts of the whole mesh.

It wakes up when a file changes, when something is due, and every `RESCAN_S` for file systems that tell nothing (and
clocks that are set): it never waits in a loop. A policy folder with a fault changes nothing: the windows that were
read last are watched on, and the fault is said once. What is not taken is sent again, ever later, for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import watchfiles

from authz.decision_logs import AttemptFollower, log_folder
from authz.errors import AuthzError
from authz.insight.announcement import Memory, Place, looked_at, next_due_ns
from authz.insight.window_dates import WindowDates, windows_of
from authz.instant import NS_PER_S
from authz.policy_folder import load_policy_folder
from authz.policy_listing import policy_files
from authz.window_watch.errors import WindowWatchError
from authz.window_watch.hub_attempts import HubAttempts
from authz.window_watch.webhook import Webhook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from authz.insight.announcement import Announcement, WindowKey
    from authz.insight.attempt import Attempt
    from authz.policy_listing import FolderEntry
    from authz.window_watch.hub_attempts import AskedHub
    from authz.window_watch.memory_file import MemoryFile
    from authz.window_watch.signature import Secret
    from authz.window_watch.webhook import NotifyUrl, Refusal

#: how often is looked even when nothing was told
RESCAN_S: Final = 2.0
#: changes that come together are one: of policies, where an edit is to be seen soon; of logs, which grow all the time
_POLICIES_SETTLED_MS: Final = 50
_LOGS_SETTLED_MS: Final = 500
FIRST_RETRY_S: Final = 1.0
LONGEST_RETRY_S: Final = 600.0
#: attempts that are about an end that the policies did not have yet when they were read
MAX_EARLY: Final = 1000
_SHORTEST_WAIT_S: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchSettings:
    """What is watched, and who is told."""

    policies: str
    state: Path
    url: NotifyUrl
    secrets: tuple[Secret, ...]
    leads_ns: tuple[int, ...]
    #: asked for attempts in place of the decision logs in `state`
    hub: AskedHub | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Something that a watch says of itself: `fault` where somebody should look."""

    text: str
    announcement: Announcement | None = None
    fault: bool = False


class WindowWatch:
    """One watch; `clock` gives nanoseconds since the epoch, `say` is told what happens."""

    def __init__(
        self, settings: WatchSettings, memory: MemoryFile, *, clock: Callable[[], int], say: Callable[[Said], None]
    ) -> None:
        self._settings = settings
        self._file = memory
        self._clock = clock
        self._say = say
        self._memory = memory.read(clock())
        memory.write(self._memory)
        self._is_kept = True
        self._follower = AttemptFollower(settings.state) if settings.hub is None else None
        #: what the hub has told since the last look, and what is wrong with it
        self._of_hub: list[Attempt] = []
        self._hub_faults: tuple[str, ...] = ()
        self._listing: tuple[FolderEntry, ...] | None = None
        self._fault: str | None = None
        self._windows: tuple[WindowDates, ...] = ()
        self._place: Place | None = None
        self._tried: dict[WindowKey, Attempt] = {}
        self._early: deque[Attempt] = deque(maxlen=MAX_EARLY)
        #: something that is announced may have changed since the last look, or it becomes due then
        self._is_stale = True
        self._due_ns: int | None = None
        self._looked_ns = 0
        self._told_faults: frozenset[str] = frozenset()
        self._policies_changed = True
        self._changed = asyncio.Event()
        self._waiting = asyncio.Event()

    async def run(self, *, ready: Callable[[], None] = lambda: None) -> None:
        """Watch until it is cancelled; raises what is wrong with the policies, or with its memory, at the start."""
        await self._load()
        clock_s = lambda: self._clock() // NS_PER_S  # noqa: E731
        async with Webhook(self._settings.url, self._settings.secrets, clock_s=clock_s) as webhook:
            await self._look()
            ready()
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._hear_policies())
                    tasks.create_task(
                        self._hear_logs() if self._settings.hub is None else self._ask(HubAttempts(self._settings.hub))
                    )
                    tasks.create_task(self._deliver(webhook))
                    await self._look_on()
            except ExceptionGroup as group:
                # One of them is enough, and the first one is the reason for the others.
                raise group.exceptions[0] from group

    async def _look_on(self) -> None:
        loop = asyncio.get_running_loop()
        listed_s = loop.time()
        while True:
            wait_s = RESCAN_S if self._due_ns is None else min(RESCAN_S, (self._due_ns - self._clock()) / NS_PER_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(_SHORTEST_WAIT_S, wait_s))
            self._changed.clear()
            # Logs grow all the time: that is no reason to list the policies each time.
            if self._policies_changed or loop.time() - listed_s >= RESCAN_S:
                self._policies_changed = False
                listed_s = loop.time()
                await self._look_at_policies()
            await self._look()

    async def _look_at_policies(self) -> None:
        try:
            # What could not be used is read again only when it has changed.
            if await asyncio.to_thread(policy_files, self._settings.policies) != self._listing:
                await self._load()
        except AuthzError as error:
            self._say_fault(str(error))

    async def _load(self) -> None:
        """Read the policies; what is wrong with them is raised, and the windows stay those of before."""
        self._listing = await asyncio.to_thread(policy_files, self._settings.policies)
        policy_set = await asyncio.to_thread(load_policy_folder, self._settings.policies)
        mesh = policy_set.mesh
        self._place = Place(mesh=mesh.name, trust_domain=mesh.trust_domains[0].name)
        self._windows = windows_of(policy_set)
        self._fault = None
        # Ends may have been moved: what was read before is judged by those that hold now.
        self._early.extend(self._tried.values())
        self._tried.clear()
        self._is_stale = True

    def _say_fault(self, fault: str) -> None:
        if fault != self._fault:
            self._fault = fault
            self._say(Said(text=f"the windows that were read last are watched on: {fault}", fault=True))

    async def _look(self) -> None:
        """See what has changed, keep what is to be announced, and have it sent."""
        try:
            if self._follower is None:
                of_hub, self._of_hub = self._of_hub, []
                self._sort(of_hub)
                self._say_once(self._hub_faults)
            else:
                await asyncio.to_thread(self._read_logs, self._follower)
                self._say_once(f"{path}: {why}" for path, why in self._follower.told.unreadable.items())
        except AuthzError as error:
            self._say_once([str(error)])
        now_ns = self._clock()
        is_due = now_ns < self._looked_ns or (self._due_ns is not None and now_ns >= self._due_ns)
        if self._place is None or not (self._is_stale or is_due or not self._is_kept):
            return
        leads_ns = self._settings.leads_ns
        memory = looked_at(
            self._memory, self._windows, self._tried, place=self._place, leads_ns=leads_ns, now_ns=now_ns
        )
        self._is_stale = False
        self._looked_ns, self._due_ns = now_ns, next_due_ns(self._windows, leads_ns, now_ns)
        self._keep(memory)
        if memory.waiting:
            self._waiting.set()

    def _say_once(self, faults: Iterable[str]) -> None:
        """Say what is wrong with the logs when it begins to be so."""
        found = frozenset(faults)
        for fault in sorted(found - self._told_faults):
            self._say(Said(text=f"attempts may be missed: {fault}", fault=True))
        self._told_faults = found

    def _read_logs(self, follower: AttemptFollower) -> None:
        self._sort(follower.new_attempts())

    def _sort(self, attempts: Iterable[Attempt]) -> None:
        """Keep of each window the first attempt after its end."""
        windows = {(each.kind, each.name): each for each in self._windows}
        early = list(self._early)
        self._early.clear()
        for attempt in (*early, *attempts):
            if not attempt.after:
                continue
            key = (attempt.kind, attempt.name)
            window = windows.get(key)
            if window is None or not window.was_tried_at(attempt.time_ns, after=True):
                # A sidecar may know of an edit before we do.
                self._early.append(attempt)
            elif key not in self._tried or attempt.time_ns < self._tried[key].time_ns:
                self._tried[key] = attempt
                self._is_stale = True

    def _keep(self, memory: Memory) -> None:
        # INVARIANT (at least once): it is on disk before anything of it is sent.
        if memory == self._memory and self._is_kept:
            return
        self._memory = memory
        try:
            self._file.write(memory)
            self._is_kept = True
        except WindowWatchError as error:
            # Telling it is worth more than telling it once: it goes on, and is told again by a watch after this one.
            if self._is_kept:
                self._say(Said(text=f"what is told cannot be remembered: {error}", fault=True))
            self._is_kept = False

    async def _deliver(self, webhook: Webhook) -> None:
        retry_s: dict[str, float] = {}
        tries: dict[str, int] = {}
        loop = asyncio.get_running_loop()
        while True:
            # Whoever has waited longest comes first: one that is never taken does not hold up the others.
            due = sorted(
                (each for each in self._memory.waiting if retry_s.get(each.id, 0.0) <= loop.time()),
                key=lambda each: retry_s.get(each.id, 0.0),
            )
            for announcement in due:
                refusal = await webhook.send(announcement)
                if refusal is None:
                    self._keep(self._memory.without(announcement))
                    retry_s.pop(announcement.id, None)
                    tries.pop(announcement.id, None)
                    self._say(Said(text="taken", announcement=announcement))
                else:
                    tries[announcement.id] = tries.get(announcement.id, 0) + 1
                    delay_s = _delay_s(tries[announcement.id], refusal)
                    retry_s[announcement.id] = loop.time() + delay_s
                    text = f"not taken by {self._settings.url}: {refusal.why}; again in {delay_s:.0f} s"
                    self._say(Said(text=text, announcement=announcement, fault=True))
            if due:
                continue
            next_s = min((retry_s.get(each.id, 0.0) for each in self._memory.waiting), default=None)
            self._waiting.clear()
            with contextlib.suppress(TimeoutError):
                wait_s = None if next_s is None else max(_SHORTEST_WAIT_S, next_s - loop.time())
                await asyncio.wait_for(self._waiting.wait(), wait_s)

    async def _hear_policies(self) -> None:
        async for _ in _changes(lambda: self._settings.policies, _POLICIES_SETTLED_MS, below=True):
            self._policies_changed = True
            self._changed.set()

    async def _ask(self, hub: HubAttempts) -> None:
        """Ask the hub again and again; where it cannot be asked, what it knows is told once it can."""
        while True:
            try:
                # Apart from the look, which has closes to announce while a hub takes its time.
                attempts = await asyncio.to_thread(hub.new_attempts)
                self._of_hub.extend(attempts)
                self._hub_faults = ()
            except AuthzError as error:
                self._hub_faults = (str(error),)
            self._changed.set()
            await asyncio.sleep(RESCAN_S)

    async def _hear_logs(self) -> None:
        async for _ in _changes(lambda: str(log_folder(self._settings.state)), _LOGS_SETTLED_MS, below=False):
            self._changed.set()


async def _changes(folder: Callable[[], str], settled_ms: int, *, below: bool) -> AsyncIterator[object]:
    """Give something whenever something in a folder, or below it, has changed; for ever."""
    while True:
        try:
            async for each in watchfiles.awatch(
                folder(),
                watch_filter=None,
                debounce=2 * settled_ms,
                step=settled_ms,
                rust_timeout=int(RESCAN_S * 1000),
                recursive=below,
            ):
                yield each
        except (OSError, RuntimeError):
            # The folder may be gone, or not be there yet: it is looked at all the same.
            await asyncio.sleep(RESCAN_S)


def _delay_s(tries: int, refusal: Refusal) -> float:
    """Give the pause after so many tries: twice as long each time, and never all at the same moment."""
    longest_s: float = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(tries - 1, 20))
    return max(refusal.retry_after_s, longest_s * (0.5 + random.random() / 2))  # noqa: S311 no secret
