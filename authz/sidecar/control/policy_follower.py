"""Follows a policy folder: what stands in it comes into force by itself, or the last good set stays and says so.

The folder is watched (inotify and its like) and, for file systems that tell nothing, listed again every
`RESCAN_S`. A set is read whole, parsed, compiled and put in force by replacing one reference: no check
waits, none sees half a set. A set with faults changes nothing; each new fault is logged once with its position.

Recurring hours are compiled for weeks ahead; what is in force is compiled again every day, whatever stands in the
folder by then, and long before the answers would be less than exact.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from authz.errors import AuthzError
from authz.instant import NS_PER_S
from authz.policy.errors import PolicySetFaults
from authz.policy.index import compile_index
from authz.policy.policy_set import parse_policy_set
from authz.policy_folder import read_policy_folder
from authz.sidecar.compiler.compilation import shown_faults
from authz.sidecar.control import last_good
from authz.sidecar.control.folder_watch import RESCAN_S, listing, wake_ups
from authz.sidecar.in_force import PolicyInForce

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from authz.policy.document import SourceFile
    from authz.policy.index import PolicyIndex
    from authz.policy.policy_set import PolicySet
    from authz.policy_listing import FolderEntry
    from authz.sidecar.in_force import InForce

_log = logging.getLogger(__name__)

#: the thread is given so long to end; it is a daemon and holds nothing that must be put in order
STOP_PATIENCE_S: Final = 2.0
#: how often hours are worked out anew; the index is exact for 34 days, and denies from 400 days on
RENEWAL_NS: Final = 24 * 3600 * NS_PER_S


class PolicyFollower:
    """Keeps what is in force equal to what stands in the folder, from `load` on and, after `start`, by itself."""

    def __init__(
        self,
        *,
        folder: str,
        in_force: InForce,
        state: Path | None,
        changed: Callable[[PolicyInForce], None],
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._folder = folder
        self._in_force = in_force
        self._state = state
        self._changed = changed
        self._seen: tuple[FolderEntry, ...] | None = None
        self._clock = clock
        self._read: tuple[SourceFile, ...] | None = None
        #: what is in force, where it has hours, and around when it was compiled
        self._compiled: PolicySet | None = None
        self._compiled_ns = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="policies", daemon=True)

    def load(self) -> None:
        """Read the folder now; where it cannot be used and nothing is in force yet, the set kept last is."""
        self._refresh()
        if self._in_force.policy.index is None and self._state is not None:
            self._restore()

    def start(self) -> None:
        """Follow the folder from now on, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Follow it no longer; returns when the thread has ended, or hangs in a file system that does not answer."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_PATIENCE_S)

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                for _ in wake_ups(self._folder, self._stop):
                    self._refresh()
            except (OSError, RuntimeError) as error:
                # The folder itself may be gone, or replaced: it is listed without being told until it is back.
                self._say(PolicyInForce(index=self._in_force.policy.index, faults=(f"{self._folder}: {error}",)))
                self._stop.wait(RESCAN_S)
                self._refresh()

    def _index(self, policy_set: PolicySet) -> PolicyIndex:
        """Compile a set for the weeks to come."""
        now_ns = self._clock()
        index = compile_index(policy_set, now_ns)
        # Read once, not every day again: reading takes twenty times as long as compiling, and checks wait for both.
        # Where each policy stands in its file, which is most of what a set holds, is not kept.
        self._compiled = None if index.exact_until_ns is None else replace(policy_set, documents={})
        self._compiled_ns = now_ns
        return index

    def _renew(self) -> None:
        """Work the hours of what is in force out anew, once a day and when the clock was set."""
        policy = self._in_force.policy
        if policy.index is None or self._compiled is None:
            return
        if abs(self._clock() - self._compiled_ns) < RENEWAL_NS:
            return
        try:
            index = self._index(self._compiled)
        except Exception as error:  # noqa: BLE001 the edge of a thread: what is in force stays, for 400 days at most
            text = f"{self._folder}: hours cannot be worked out anew: {type(error).__name__}: {error}"
            self._say(PolicyInForce(index=policy.index, faults=(text,)))
            return
        self._say(PolicyInForce(index=index, faults=policy.faults))

    def _refresh(self) -> None:
        self._renew()
        seen = listing(self._folder)
        if seen is not None and seen == self._seen:
            return
        try:
            files = read_policy_folder(self._folder)
            self._seen = seen
            if files == self._read and not self._in_force.policy.stale:
                return
            index = self._index(parse_policy_set(files))
        except PolicySetFaults as error:
            self._seen = seen
            self._say(PolicyInForce(index=self._in_force.policy.index, faults=shown_faults(error)))
            return
        except AuthzError as error:
            self._say(PolicyInForce(index=self._in_force.policy.index, faults=(str(error),)))
            return
        except Exception as error:  # noqa: BLE001 the edge of a thread: the last good set stays in force and says so
            text = f"{self._folder}: a fault of the program: {type(error).__name__}: {error}"
            self._say(PolicyInForce(index=self._in_force.policy.index, faults=(text,)))
            return
        self._read = files
        if self._state is not None:
            last_good.keep(self._state, files)
        self._say(PolicyInForce(index=index))

    def _restore(self) -> None:
        files = None if self._state is None else last_good.kept(self._state)
        if files is None:
            return
        try:
            index = self._index(parse_policy_set(files))
        except AuthzError:
            return
        self._say(PolicyInForce(index=index, faults=self._in_force.policy.faults))

    def _say(self, policy: PolicyInForce) -> None:
        before = self._in_force.policy
        self._in_force.policy = policy
        if policy.faults == before.faults and policy.revision == before.revision:
            return
        if policy.faults != before.faults:
            for fault in policy.faults:
                _log.error("%s", fault)
            if policy.faults:
                kept = (
                    "no calls are allowed" if policy.index is None else f"revision {policy.index.revision[:12]} stays"
                )
                _log.error("the policies in %s cannot be used: %s", self._folder, kept)
        if policy.revision != before.revision or (before.faults and not policy.faults):
            _log.info("revision %s is in force", (policy.revision or "none")[:12])
        self._changed(policy)
