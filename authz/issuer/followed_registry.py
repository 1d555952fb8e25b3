"""Follows the policy folder: its registrations come into force by themselves, or those of the last good set stay.

The folder is watched, and listed again every `RESCAN_S` for file systems that tell nothing. What cannot be used changes
nothing and is said once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import watchfiles

from authz.errors import AuthzError
from authz.issuer.registration import registry_of
from authz.policy_folder import load_policy_folder
from authz.policy_listing import PolicyFolderError, policy_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from authz.issuer.registration import Registry
    from authz.policy_listing import FolderEntry

_log = logging.getLogger(__name__)

#: how often the folder is listed even when nothing was told
RESCAN_S: Final = 2.0


class FollowedRegistry:
    """Reads a folder now (`load`), and from then on whenever it changes (`run`)."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._seen: tuple[FolderEntry, ...] | None = None
        self._said: str | None = None

    def load(self) -> Registry:
        """Read the folder; raises PolicyError where it cannot be used."""
        seen = _listing(self._folder)
        registry = registry_of(load_policy_folder(self._folder))
        self._seen = seen
        return registry

    async def run(self, take: Callable[[Registry], Awaitable[None]]) -> None:
        """Give every later registry to `take`, until cancelled."""
        while True:
            try:
                await self._look(take)
                async for _ in self._wake_ups():
                    await self._look(take)
            except (OSError, RuntimeError) as error:
                # The folder itself may be gone, or replaced: it is listed without being told until it is back.
                self._say(f"{self._folder}: {error}")
                await asyncio.sleep(RESCAN_S)

    def _wake_ups(self) -> AsyncIterator[object]:
        return watchfiles.awatch(
            self._folder,
            watch_filter=None,
            debounce=50,
            step=20,
            rust_timeout=int(RESCAN_S * 1000),
            yield_on_timeout=True,
        )

    async def _look(self, take: Callable[[Registry], Awaitable[None]]) -> None:
        seen = await asyncio.to_thread(_listing, self._folder)
        if seen is not None and seen == self._seen:
            return
        try:
            registry = await asyncio.to_thread(lambda: registry_of(load_policy_folder(self._folder)))
            await take(registry)
        except AuthzError as error:
            self._say(str(error))
        else:
            self._said = None
            _log.info("revision %s is in force: %d Services", registry.revision[:12], len(registry.registrations))
        self._seen = seen

    def _say(self, why: str) -> None:
        if why != self._said:
            self._said = why
            _log.error("the policies in %s cannot be used, the registrations of before stay: %s", self._folder, why)


def _listing(folder: str) -> tuple[FolderEntry, ...] | None:
    try:
        return policy_files(folder)
    except PolicyFolderError:
        return None  # reading it says why
