"""The policies that the hub knows: the folder that it follows, and every state of it that it has seen.

What cannot be used changes nothing: the last good set stays known, over a restart, too, and the faults are told.
Without one there is nothing to name anybody by, nor to tell which Service a sidecar is of: such a hub does not start.
Each revision is kept with its files, so that a call is explained by the rules that decided it, however long ago.

    DATA/revisions/REVISION.json.gz    the files, the revision before, and what changed

# INVARIANT (untouched): a kept revision is what its name says, or it is not used.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import time
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import watchfiles

from authz.errors import AuthzError
from authz.hub.errors import HubError
from authz.insight.window_dates import windows_of
from authz.instant import NS_PER_MS
from authz.policy.difference import compare
from authz.policy.difference_json import difference_object
from authz.policy.document import MAX_SET_BYTES, SourceFile
from authz.policy.index import compile_index
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.policy.window import NS_PER_DAY
from authz.policy_folder import load_policy_folder, read_policy_folder
from authz.policy_listing import PolicyFolderError, policy_files

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from authz.insight.window_dates import WindowDates
    from authz.policy.index import PolicyIndex
    from authz.policy_listing import FolderEntry

_log = logging.getLogger(__name__)

#: how often the folder is listed even when nothing was told
RESCAN_S: Final = 2.0
#: ten edits a day for half a year; the oldest are forgotten first
MAX_REVISIONS: Final = 2000
#: of differences that are kept with a revision; a set that was rewritten has tens of thousands
MAX_DIFFERENCES: Final = 1000
_SUFFIX: Final = ".json.gz"
_MARGIN_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A policy set, ready to be asked."""

    policy_set: PolicySet
    index: PolicyIndex
    windows: tuple[WindowDates, ...]

    @property
    def revision(self) -> str:
        """The revision of the set."""
        return self.policy_set.revision


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptRevision:
    """A revision that was in the folder; `differences` and `notes` are None where there was nothing to compare with."""

    revision: str
    first_ms: int
    previous: str | None
    differences: list[dict[str, Any]] | None
    notes: list[str] | None


@dataclass(slots=True)
class KnownPolicies:
    """Follows a folder; `now` is what it held last, None before that and without a folder."""

    folder: str | None
    kept: Path
    now: Known | None = None
    faults: tuple[str, ...] = ()
    history: list[KeptRevision] = field(default_factory=list)
    _seen: tuple[FolderEntry, ...] | None = None

    def load(self) -> None:
        """Read what is kept, and the folder; a folder that cannot be used is told by `faults`.

        Raises HubError where there is no set of before in its place.
        """
        self.kept.mkdir(mode=0o700, exist_ok=True)
        self.history = sorted(_kept_revisions(self.kept), key=lambda each: each.first_ms)
        if self.folder is None:
            return
        self._seen = _listing(self.folder)
        self._take()
        kept = (self._kept_set(each.revision) for each in reversed(self.history)) if self.now is None else ()
        for policy_set in kept:
            if policy_set is not None:
                self.now = _known(policy_set)
                _log.error(
                    "the policies in %s cannot be used, revision %s of before stays known: %s",
                    self.folder, policy_set.revision[:12], "\n".join(self.faults),
                )  # fmt: skip
                break
        if self.now is None:
            raise HubError("\n".join(self.faults))

    async def run(self, changed: Callable[[Known, KeptRevision], Awaitable[None]]) -> None:
        """Tell of every later set, until cancelled."""
        if self.folder is None:
            return
        while True:
            try:
                async for _ in self._wake_ups(self.folder):
                    await self._look(changed)
            except (OSError, RuntimeError):
                # The folder itself may be gone, or replaced: it is listed without being told until it is back.
                await self._look(changed)
                await asyncio.sleep(RESCAN_S)

    def _wake_ups(self, folder: str) -> AsyncIterator[object]:
        return watchfiles.awatch(
            folder,
            watch_filter=None,
            debounce=50,
            step=20,
            rust_timeout=int(RESCAN_S * 1000),
            yield_on_timeout=True,
        )

    async def _look(self, changed: Callable[[Known, KeptRevision], Awaitable[None]]) -> None:
        seen = await asyncio.to_thread(_listing, self.folder or "")
        if seen is not None and seen == self._seen:
            return
        self._seen = seen
        before = self.now
        await asyncio.to_thread(self._take)
        if self.now is not None and self.now is not before and self.history:
            await changed(self.now, self.history[-1])

    def _take(self) -> None:
        try:
            files = read_policy_folder(self.folder or "")
            policy_set = parse_policy_set(files) if files else load_policy_folder(self.folder or "")
            before = self.now
            if before is not None and before.revision == policy_set.revision:
                self.faults = ()
                return
            known = _known(policy_set)
        except AuthzError as error:
            faults = tuple(str(error).splitlines())
            # A folder that is not there is looked for every two seconds.
            if self.now is not None and faults != self.faults:
                _log.error("the policies in %s cannot be used, those of before stay known: %s", self.folder, error)
            self.faults = faults
            return
        self._keep(files, known, None if before is None else before.policy_set)
        self.now, self.faults = known, ()
        _log.info("revision %s is known", known.revision[:12])

    def _keep(self, files: tuple[SourceFile, ...], known: Known, before: PolicySet | None) -> None:
        """Write down a revision that is new; the one before is that of the folder, or the last one that was kept."""
        if before is None and self.history:
            if self.history[-1].revision == known.revision:
                return
            before = self._kept_set(self.history[-1].revision)
        previous = None if before is None else before.revision
        differences, notes = (None, None) if before is None else _differences(before, known.policy_set)
        entry = KeptRevision(
            revision=known.revision,
            first_ms=time.time_ns() // NS_PER_MS,
            previous=previous,
            differences=differences,
            notes=notes,
        )
        content = {
            "revision": entry.revision,
            "first_ms": entry.first_ms,
            "previous": previous,
            "differences": differences,
            "notes": notes,
            "files": [{"path": each.path, "content": each.content.decode("utf-8", "replace")} for each in files],
        }
        path = self.kept / f"{known.revision}{_SUFFIX}"
        written = path.with_suffix(".new")
        try:
            descriptor = os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(gzip.compress(json.dumps(content).encode(), 6))
                file.flush()
                os.fsync(file.fileno())
            written.replace(path)
        except OSError as error:
            _log.error("revision %s cannot be kept: %s", known.revision[:12], error.strerror)
        self.history = [*(each for each in self.history if each.revision != known.revision), entry]
        for each in self.history[:-MAX_REVISIONS]:
            (self.kept / f"{each.revision}{_SUFFIX}").unlink(missing_ok=True)
        self.history = self.history[-MAX_REVISIONS:]

    def of_revision(self, revision: str) -> Known | None:
        """Give a policy set that was known once, None if it is not kept."""
        if self.now is not None and self.now.revision == revision:
            return self.now
        found = self._kept_set(revision)
        return None if found is None else _known(found)

    def _kept_set(self, revision: str) -> PolicySet | None:
        if revision not in {each.revision for each in self.history}:
            return None
        try:
            content = _content(self.kept / f"{revision}{_SUFFIX}")
            files = [SourceFile(path=each["path"], content=each["content"].encode()) for each in content["files"]]
            found = parse_policy_set(files)
        except (OSError, ValueError, KeyError, TypeError, zlib.error, AuthzError) as error:
            _log.error("the kept revision %s cannot be read: %s", revision[:12], error)
            return None
        return found if found.revision == revision else None  # INVARIANT (untouched)


def _known(policy_set: PolicySet) -> Known:
    return Known(policy_set=policy_set, index=compile_index(policy_set), windows=windows_of(policy_set))


def _differences(before: PolicySet, after: PolicySet) -> tuple[list[dict[str, Any]] | None, list[str] | None]:
    now_ns = time.time_ns()
    try:
        found = compare(before, after, now_ns=now_ns - now_ns % NS_PER_DAY)
    except AuthzError as error:
        return None, [f"too much has changed to be told: {error}"]
    notes = list(found.notes)
    if len(found.differences) > MAX_DIFFERENCES:
        notes.append(f"{len(found.differences)} differences; the first {MAX_DIFFERENCES} are kept")
    return [difference_object(each) for each in found.differences[:MAX_DIFFERENCES]], notes


def _listing(folder: str) -> tuple[FolderEntry, ...] | None:
    try:
        return policy_files(folder)
    except PolicyFolderError:
        return None  # reading it says why


def _kept_revisions(folder: Path) -> list[KeptRevision]:
    found = []
    for path in folder.glob(f"*{_SUFFIX}"):
        try:
            content = _content(path)
            found.append(
                KeptRevision(
                    revision=str(content["revision"]),
                    first_ms=int(content["first_ms"]),
                    previous=content["previous"],
                    differences=content["differences"],
                    notes=content["notes"],
                )
            )
        except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
            _log.error("%s cannot be read: %s", path, error)
    return found


def _content(path: Path) -> dict[str, Any]:
    unpacker = zlib.decompressobj(wbits=31)
    text = unpacker.decompress(path.read_bytes(), 2 * MAX_SET_BYTES + _MARGIN_BYTES)
    content = json.loads(text)
    if not isinstance(content, dict):
        raise TypeError
    return content
