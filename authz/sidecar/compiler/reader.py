"""The reader: a process that has read the policies before, so that an edit costs what was edited.

It keeps every file as it was read last, and the sets that may be in force. Asked by a compiler for what stands in the
folder, it reads the files that are others now, says on the page of tightenings what the edit takes away for certain,
and only then has the set compiled, by a process that it forks. Nobody answers checks from here, and no worker is forked
from it: what it holds is ten times as large as an index.

It may die at any time: its next compiler reads everything itself, and the one after that has another reader.

INVARIANT (the last good set stays): a set with faults takes nothing away, as it does not come into force.
INVARIANT (not for ever): what was taken away for an edit that was taken back is given back with it.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import time
from typing import TYPE_CHECKING, Final

from authz.policy.policy_set import KnownFiles, PolicySet, parse_policy_set
from authz.policy.tightening import tightening_of
from authz.policy_folder import ReadFiles
from authz.sidecar.channel import Channel, StartCompiler, channel_pair
from authz.sidecar.child_process import fork_child
from authz.sidecar.compiler.apart import fork_apart, put_result, standing_back
from authz.sidecar.compiler.compilation import FolderSet, Refused, Same, compiled_result, read_set
from authz.sidecar.tightening_page import Tightened, TighteningPage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz.policy.document import SourceFile
    from authz.sidecar.settings import SidecarSettings
    from authz.sidecar.shared_memory import SharedMemory

_log = logging.getLogger(__name__)

_DONE: Final = b"."
#: What is read at once while others answer, some hundred policies; more is read standing back.
READ_AT_ONCE_BYTES: Final = 256 * 1024


class Reader:
    """The reader as the template and its compilers see it."""

    def __init__(self, settings: SidecarSettings, shared: SharedMemory) -> None:
        self._settings = settings
        self._shared = shared
        self._pid = 0
        self._channel: Channel | None = None

    def keep_running(self, not_its: Sequence[int]) -> None:
        """Fork it where there is none; called by the template, of whose descriptors these are none of its business.

        Who waits for the end of a compiler would wait for that of the reader, too.
        """
        if self._pid and not os.waitpid(self._pid, os.WNOHANG)[0]:
            return
        if self._channel is not None:
            _log.error("the reader of policies has ended; another one takes its place")
            self._channel.close()
        ours, theirs = channel_pair(second_waits=True)

        def run() -> None:
            for descriptor in not_its:
                os.close(descriptor)
            ours.close()
            run_reader(
                theirs,
                self._settings,
                TighteningPage(self._shared.tightening),
                clock=self._shared.clock.around_ns,
            )

        self._pid = fork_child("authz-reader", run)
        theirs.close()
        self._channel = ours

    def put_result(self, job: StartCompiler, *, memory: int, source: int) -> bool:
        """Have it put what becomes of the folder into `memory`; False where it has died. Called by a compiler."""
        if self._channel is None:
            return False
        done, says_done = os.pipe2(os.O_CLOEXEC)
        sent = self._channel.send(job, [memory, source, says_done])
        os.close(says_done)
        try:
            return sent and os.read(done, 1) == _DONE
        finally:
            os.close(done)

    def forget(self) -> None:
        """Ask it nothing more."""
        if self._channel is not None:
            self._channel.close()


def run_reader(
    compilers: Channel, settings: SidecarSettings, page: TighteningPage, *, clock: Callable[[], int] = time.time_ns
) -> None:
    """Answer one compiler after the other, until the template has gone."""
    gc.disable()
    folder = PolicyFolder(settings, page, clock=clock)
    while (received := compilers.receive()) is not None:
        match received:
            case StartCompiler() as job, [memory, source, says_done]:
                folder.put_result(job, memory=memory, source=source, says_done=says_done)
                for descriptor in (memory, source, says_done):
                    os.close(descriptor)
                # What was read stays; only what came since has to be looked through.
                gc.collect()
                gc.freeze()
            case _, descriptors:
                for descriptor in descriptors:
                    os.close(descriptor)


class PolicyFolder:
    """The policy folder as it was read last, and what its edits take away."""

    def __init__(
        self, settings: SidecarSettings, page: TighteningPage, *, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._page = page
        self._read_files = ReadFiles()
        self._known = KnownFiles()
        #: by digest: what is in force, and what may be soon
        self._sets: dict[str, PolicySet] = {}
        #: the process that compiles what was read last, 0 while there is none; nobody else reaps it
        self._compiling = 0

    def put_result(self, job: StartCompiler, *, memory: int, source: int, says_done: int) -> None:
        """Read the folder, say what is taken away, and have the set compiled; `says_done` is told when it is.

        Who asks next waits for no compile: what the one before was to get is not wanted any more.
        """
        settings = self._settings
        found = self.read(in_force=job.digest, serving=job.serving)
        self._end_compiling()

        def put() -> None:
            result = compiled_result(
                found,
                folder=settings.policies,
                service=settings.service,
                state=settings.state,
                serving=job.serving,
                clock=self._clock,
            )
            put_result(result, memory=memory, source=source)
            with contextlib.suppress(BrokenPipeError):
                os.write(says_done, _DONE)

        if isinstance(found, Same) or (isinstance(found, Refused) and job.serving):
            put()
        else:
            self._compiling = fork_apart(put, stands_back=job.serving)

    def _end_compiling(self) -> None:
        if self._compiling:
            os.kill(self._compiling, signal.SIGKILL)
            os.waitpid(self._compiling, 0)
            self._compiling = 0

    def read(self, *, in_force: str, serving: bool) -> FolderSet | Refused | Same:
        """Read the folder; `in_force` is the digest of the set that decides."""

        def parse(files: tuple[SourceFile, ...]) -> PolicySet:
            if serving and self._known.unknown_bytes(files) > READ_AT_ONCE_BYTES:
                return standing_back(lambda: parse_policy_set(files, self._known))
            return parse_policy_set(files, self._known)

        found = read_set(self._settings.policies, in_force=in_force, parse=parse, known=self._read_files)
        if isinstance(found, Same):
            self._page.write(None)
        elif isinstance(found, FolderSet):
            before = self._sets.get(in_force)
            if before is None:
                # The reader before this one may have left behind what it has said of this set.
                self._page.forget(found.policy_set.revision)
            else:
                tightening = tightening_of(before, found.policy_set)
                self._page.write(Tightened(before.revision, tightening))
            self._sets = {found.digest: found.policy_set}
            if before is not None:
                self._sets[in_force] = before
        return found
