from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from authz.mesh.child import Program
from authz.mesh.errors import MeshError, MeshStartError
from authz.mesh.kept_running import KeptRunning, restart_delay_s
from authz.mesh.process_mark import mark_of
from authz.mesh.state import Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from authz.mesh.child import Child

_SAYS_READY = """
import os, signal, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
    notifications.sendto(b"STATUS=here\\nREADY=1", os.environ["NOTIFY_SOCKET"])
signal.pause()
"""


@given(st.integers(min_value=1, max_value=10**9))
def test_the_first_restart_is_at_once_and_none_waits_longer_than_a_second(deaths: int) -> None:
    assert 0 <= restart_delay_s(deaths) <= restart_delay_s(deaths + 1) <= 1
    assert restart_delay_s(1) == 0
    assert restart_delay_s(7) == 1


class _Watched:
    """A program under watch: every change of its process is an event."""

    def __init__(self, tmp_path: Path, code: str) -> None:
        self.changed = asyncio.Condition()
        self.said: list[str] = []
        self.started: list[Child] = []
        self.kept = KeptRunning(
            Program(
                of="orders",
                role=Role.SIDECAR,
                arguments=(sys.executable, "-c", code),
                log=str(tmp_path / "log"),
                notify_socket=str(tmp_path / "notify"),
            ),
            gate=asyncio.Semaphore(1),
            report=self.said.append,
            changed=self._wake,
            started=self.started.append,
        )
        self._wakers: set[asyncio.Task[None]] = set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(holds)

    def _wake(self) -> None:
        waker = asyncio.create_task(self._notify())
        self._wakers.add(waker)
        waker.add_done_callback(self._wakers.discard)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


def _run(story: Callable[[], Awaitable[None]]) -> None:
    async def told() -> None:
        await story()

    asyncio.run(told())


def test_a_program_is_started_when_it_says_that_it_is_ready_and_stops_when_asked(tmp_path: Path) -> None:
    async def story() -> None:
        watched = _Watched(tmp_path, _SAYS_READY)
        await watched.kept.start()
        mark = watched.kept.mark
        assert watched.kept.ready
        assert mark is not None
        assert mark.lives()
        await watched.kept.stop(grace_s=30)
        assert not mark.lives()
        assert watched.kept.mark is None

    _run(story)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log"]


def test_a_program_that_ends_before_it_is_ready_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    async def story() -> None:
        watched = _Watched(tmp_path, "import sys; print('no room'); sys.exit('on this disk')")
        with pytest.raises(MeshStartError) as failed:
            await watched.kept.start()
        said = str(failed.value)
        assert said.startswith("the sidecar of `orders` ended with status 1")
        assert "    no room" in said
        assert "    on this disk" in said
        await watched.kept.stop(grace_s=0)

    _run(story)


def test_a_program_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    async def story() -> None:
        program = Program(of="x", role=Role.ENVOY, arguments=("/no/such/envoy",), log=str(tmp_path / "log"))
        kept = KeptRunning(
            program, gate=asyncio.Semaphore(1), report=lambda _: None, changed=lambda: None, started=lambda _: None
        )
        with pytest.raises(MeshError, match="cannot be started: no such file"):
            await kept.start()
        await kept.stop(grace_s=0)

    _run(story)


def test_a_program_that_is_killed_is_started_again_and_never_given_up(tmp_path: Path) -> None:
    async def story() -> None:
        watched = _Watched(tmp_path, _SAYS_READY)
        await watched.kept.start()
        keeper = asyncio.create_task(watched.kept.keep())
        for _ in range(3):
            mark = watched.kept.mark
            assert mark is not None
            os.kill(mark.pid, signal.SIGKILL)
            await watched.until(lambda before=mark: watched.kept.ready and watched.kept.mark != before)  # type: ignore[misc]
        assert watched.said[:2] == [
            "the sidecar of `orders` was ended by signal 9; it is started again at once",
            "the sidecar of `orders` serves again",
        ]
        assert "it is started again in 0.05 s" in watched.said[2]
        keeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        await watched.kept.stop(grace_s=30)

    _run(story)


def test_what_a_killed_program_leaves_in_its_group_is_killed_too(tmp_path: Path) -> None:
    code = f"""
import os, signal
pid = os.fork()
if pid:
    open({str(tmp_path / "pid")!r}, "w").write(str(pid))
    exec({_SAYS_READY!r})
signal.pause()
"""

    async def story() -> None:
        watched = _Watched(tmp_path, code)
        await watched.kept.start()
        grandchild = mark_of(int((tmp_path / "pid").read_text()))
        assert grandchild is not None
        assert watched.kept.mark is not None
        pidfd = os.pidfd_open(grandchild.pid)
        os.kill(watched.kept.mark.pid, signal.SIGKILL)
        gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, gone.set)
        async with asyncio.timeout(30):
            await gone.wait()
        asyncio.get_running_loop().remove_reader(pidfd)
        os.close(pidfd)
        await watched.kept.stop(grace_s=0)

    _run(story)
