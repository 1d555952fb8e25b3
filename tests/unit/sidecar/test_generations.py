"""Which set takes over: compilers and workers are played by the test, which says what each of them would say."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from authz.sidecar.channel import Channel, ForkWorker, SetCompiled, SetRefused, StartCompiler, channel_from
from authz.sidecar.generations import FIRST_SET_PATIENCE_S, MOST_GIVEN_UP, Generations
from authz.sidecar.settings import SidecarSettings
from authz.sidecar.shared_memory import SharedMemory
from authz.sidecar.worker_cells import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class PlayedCompilers:
    """Takes the supervisor's orders, and answers them when the test says so."""

    def __init__(self, workers: int) -> None:
        settings = SidecarSettings(service="a", policies="p", socket="s", workers=workers)
        self.shared = SharedMemory.for_workers(workers, ring_bytes=4096)
        self.jobs: list[tuple[StartCompiler, Channel]] = []
        self.heard: dict[int, Callable[[], None]] = {}
        self.workers: list[subprocess.Popen[bytes]] = []
        self.generations = Generations(
            settings=settings,
            shared=self.shared,
            order=self._ordered,
            watch=self._watch,
            unwatch=lambda channel: self.heard.pop(channel.fileno(), None),
            changed=lambda: None,
        )

    def _ordered(self, job: StartCompiler, descriptor: int, _source: int | None) -> bool:
        self.jobs.append((job, channel_from(os.dup(descriptor))))
        return True

    def _watch(self, channel: Channel, hear: Callable[[], None]) -> None:
        self.heard[channel.fileno()] = hear

    def compiled(self, compiler: Channel, revision: str | None) -> None:
        compiler.send(
            SetCompiled(revision=revision, digest="d", faults=(), renews=False, compiled_ns=0, has_service=True, own={})
        )
        for hear in tuple(self.heard.values()):
            hear()

    def serve(self, compiler: Channel) -> None:
        """Have the worker that a compiler was told to fork accept connections."""
        received = compiler.receive()
        assert received is not None
        order = received[0]
        assert isinstance(order, ForkWorker)
        worker = subprocess.Popen(["sleep", "600"])
        self.workers.append(worker)
        cell = self.shared.cells.cells[order.cell]
        cell.own(worker.pid)
        cell.enter(Phase.SERVING)

    def close(self) -> None:
        self.generations.end()
        for worker in self.workers:
            worker.kill()
            worker.wait()
        for _, compiler in self.jobs:
            compiler.close()


@pytest.fixture
def played() -> Iterator[PlayedCompilers]:
    made = PlayedCompilers(workers=1)
    yield made
    made.close()


def test_a_first_set_that_is_ready_at_the_same_time_as_the_stopgap_stays_in_force(played: PlayedCompilers) -> None:
    generations = played.generations
    generations.look()
    generations._began_s -= 2 * FIRST_SET_PATIENCE_S
    generations.tick()
    (first, real), (second, stopgap) = played.jobs
    assert (first.empty, second.empty) == (False, True)
    played.compiled(stopgap, None)
    played.compiled(real, "r1")
    for compiler in (real, stopgap):
        played.serve(compiler)
    generations.look_at_phases()
    assert generations.revision == "r1"
    generations.look_at_phases()
    assert generations.revision == "r1"
    assert played.workers[0].poll() is None, "who serves the set was not told to end"
    assert played.workers[1].wait(30) != 0


def test_what_is_being_made_is_given_up_for_a_later_edit_and_not_for_ever(played: PlayedCompilers) -> None:
    generations = played.generations
    for _ in range(MOST_GIVEN_UP + 3):
        generations.look()
    assert len(played.jobs) == 1 + MOST_GIVEN_UP
    for job, compiler in played.jobs[:-1]:
        assert not job.empty
        assert not compiler.send(SetRefused(faults=())), "nobody hears what was given up"
    played.compiled(played.jobs[-1][1], "r1")
    played.serve(played.jobs[-1][1])
    generations.look_at_phases()
    assert generations.revision == "r1"
    assert len(played.jobs) == 2 + MOST_GIVEN_UP, "what changed meanwhile is looked at"
