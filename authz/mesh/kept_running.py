"""One program that is kept running: started, watched, restarted when it dies, stopped.

The first start decides whether the mesh comes up: a program that ends before it serves is a MeshStartError with the
last lines of its log. After that nothing is ever given up: a program that dies is started again at once, then after
delays that double up to one second, until it has served for a while.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Never

from authz.mesh.child import Child, Program
from authz.mesh.errors import MeshError, MeshStartError

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.mesh.process_mark import ProcessMark

#: A program that needs longer than this to serve is taken for stuck: at load 32 on two processors 30 s were too few.
START_PATIENCE_S: Final = 90.0
#: Who has served for so long is no longer punished for earlier deaths.
FORGIVEN_AFTER_S: Final = 10.0
_FIRST_DELAY_S: Final = 0.05
_LONGEST_DELAY_S: Final = 1.0
_DOUBLINGS: Final = 5

_LAST_LINES = 8
_LAST_BYTES = 8192


def restart_delay_s(deaths: int) -> float:
    """Give the pause before the restart after so many deaths in a row: none after the first, at most a second."""
    if deaths <= 1:
        return 0.0
    return min(_LONGEST_DELAY_S, _FIRST_DELAY_S * (1 << min(deaths - 2, _DOUBLINGS)))


class KeptRunning:
    """A program and the process that runs it now.

    `changed` is called whenever `mark` or `ready` have changed, `started` with every new process, before it can have
    done anything.
    """

    def __init__(
        self,
        program: Program,
        *,
        gate: asyncio.Semaphore,
        report: Callable[[str], None],
        changed: Callable[[], None],
        started: Callable[[Child], None],
    ) -> None:
        self.program = program
        self._started = started
        self.ready = False
        self._gate = gate
        self._report = report
        self._changed = changed
        self._child: Child | None = None

    @property
    def mark(self) -> ProcessMark | None:
        """The process that runs the program now; None between a death and the restart."""
        return None if self._child is None else self._child.mark

    async def start(self) -> None:
        """Start the program and wait until it serves; raises MeshStartError that says why it does not."""
        async with self._gate:
            child = self._spawn()
            served = await self._comes_up(child)
        if not served:
            raise MeshStartError(await self._why_not(child))

    async def keep(self) -> Never:
        """Restart the program each time it ends, for ever; it must have been started."""
        deaths = 0
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            how = "cannot be started"
            if self._child is not None:
                status = await asyncio.shield(self._child.ended)
                how = _how_it_ended(status)
            self._gone()
            deaths = 1 if loop.time() - began > FORGIVEN_AFTER_S else deaths + 1
            delay_s = restart_delay_s(deaths)
            when = f"in {delay_s:g} s" if delay_s else "at once"
            self._report(f"{self.program.name} {how}; it is started again {when}")
            await asyncio.sleep(delay_s)
            await self._restart()

    async def stop(self, *, grace_s: float) -> None:
        """End the process, if there is one, and wait until it has gone; `keep` must have been cancelled before."""
        if self._child is not None:
            await self._child.stop(grace_s=grace_s)
            self._gone()

    async def _restart(self) -> None:
        try:
            child = self._spawn()
        except MeshError as error:
            self._report(str(error))
            return
        if await self._comes_up(child):
            self._report(f"{self.program.name} serves again")
        elif not child.ended.done():
            self._report(f"{self.program.name} has not become ready in {START_PATIENCE_S:g} s; it is killed")
            await child.stop(grace_s=0)

    def _spawn(self) -> Child:
        self._child = Child(self.program)
        self._started(self._child)
        self._changed()
        return self._child

    async def _comes_up(self, child: Child) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(START_PATIENCE_S):
                self.ready = await child.ready()
        self._changed()
        return self.ready

    def _gone(self) -> None:
        self._child = None
        self.ready = False
        self._changed()

    async def _why_not(self, child: Child) -> str:
        """Say why the program does not serve, in the words of its log."""
        if child.ended.done():
            what = _how_it_ended(child.ended.result())
        else:
            what = f"has not become ready in {START_PATIENCE_S:g} s"
            if child.last_words:
                what += f" ({child.last_words})"
        last = _last_lines(self.program.log)
        said = ":\n" + "\n".join(f"    {line}" for line in last) if last else "; its log is empty"
        return f"{self.program.name} {what}; {self.program.log}{said}"


def _how_it_ended(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"


def _last_lines(path: str) -> list[str]:
    try:
        with Path(path).open("rb") as log:
            size = log.seek(0, 2)
            log.seek(max(0, size - _LAST_BYTES))
            text = log.read(_LAST_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-_LAST_LINES:]
