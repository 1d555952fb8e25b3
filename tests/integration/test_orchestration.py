"""What the mesh tells a real issuer of the processes that it starts, and what it says of the answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from authz.issuer.orchestrator import Orchestrator
from authz.mesh.child import Child, Program
from authz.mesh.orchestration import Orchestration
from authz.mesh.state import Role
from tests.support.issuer_process import MESH, PATIENCE_S, Issuer, service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
def place() -> Iterator[str]:
    path = f"/tmp/on-{os.urandom(4).hex()}"  # noqa: S108 short
    with Issuer(MESH, service("orders"), arguments=[f"--orchestrator-socket={path}"]):
        yield path


class _Reports:
    """What is reported, awaited one after the other."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[str] = asyncio.Queue()
        self.take = self._said.put_nowait

    async def next(self) -> str:
        async with asyncio.timeout(PATIENCE_S):
            return await self._said.get()


@contextlib.asynccontextmanager
async def _child(tmp_path: Path, of: str) -> AsyncIterator[Child]:
    child = Child(Program(of=of, role=Role.APP, arguments=("/bin/sleep", "1000"), log=str(tmp_path / of)))
    try:
        yield child
    finally:
        await child.stop(grace_s=0)


def test_a_refusal_is_told_at_once_of_the_process_that_is_refused(place: str, tmp_path: Path) -> None:
    async def story() -> None:
        reports = _Reports()
        orchestration = Orchestration(place, reports.take)
        running = asyncio.create_task(orchestration.run())
        orchestration.issuer_serves()
        async with _child(tmp_path, "orders") as orders, _child(tmp_path, "nobody") as nobody:
            orchestration.started(orders)
            orchestration.started(nobody)
            told = await reports.next()
            assert told.startswith("the app of `nobody` gets no identity from the issuer: there is no Service")
        running.cancel()

    asyncio.run(story())


def test_an_issuer_that_takes_another_orchestrator_is_said_and_asked_again(place: str) -> None:
    async def story() -> None:
        reports = _Reports()
        orchestration = Orchestration(place, reports.take)
        running = asyncio.create_task(orchestration.run())
        other = Orchestrator(place)
        orchestration.issuer_serves()
        assert (await reports.next()).endswith("it refuses: there is one already")
        orchestration.issuer_serves()
        assert (await reports.next()).endswith("it refuses: there is one already")
        other.close()
        running.cancel()

    asyncio.run(story())
