"""Running calls: when their connections are drained, and what becomes of those that nobody can ask about."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from authz.decision import Reason
from authz.proxy.listener_file import listeners_file
from authz.sidecar.control import running_calls
from authz.sidecar.control.running_calls import RunningCalls
from authz.sidecar.hold.verdict import Rechecked, Verdict, answer_bytes, question_from
from tests.support.sidecar_specs import draining_sidecar
from tests.unit.sidecar import test_running_message
from tests.unit.sidecar.test_recheck import PATIENCE_S, Worker, serving
from tests.unit.sidecar.test_running_message import SAID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import pytest
    from envoy.data.accesslog.v3.accesslog_pb2 import HTTPAccessLogEntry


@dataclass(slots=True)
class Refusing(Worker):
    """Answers what the test says."""

    verdict: Verdict = field(default_factory=lambda: Verdict(reason=Reason.ALLOWED))

    async def answer(self, question: bytes, _: object) -> bytes:
        asked = question_from(question)
        self.heard += asked
        return answer_bytes(Rechecked(generation=self.generation, verdicts=(self.verdict,) * len(asked)))


@dataclass(slots=True)
class Running:
    """The calls of a sidecar with one worker's socket, and what they did."""

    folder: Path
    worker: Refusing
    patience_s: float
    calls: RunningCalls = field(init=False)
    pages: list[int] = field(default_factory=lambda: [0])
    lost: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.file.write_text(listeners_file(draining_sidecar()))
        self.calls = RunningCalls(
            str(self.file),
            sockets=[self.worker.socket],
            versions=lambda: tuple(self.pages),
            lost_grant=self.lost.append,
            changed=lambda: None,
            patience_s=self.patience_s,
        )

    @property
    def file(self) -> Path:
        return self.folder / "listeners.json"

    def drained(self, listener: str) -> int:
        (found,) = (one for one in json.loads(self.file.read_bytes())["resources"] if one["name"] == listener)
        count: int = found["filter_chains"][0]["metadata"]["filter_metadata"]["authz"]["drained"]
        return count


@contextlib.asynccontextmanager
async def following(*, patience_s: float = PATIENCE_S) -> AsyncIterator[Running]:
    with tempfile.TemporaryDirectory() as folder:
        running = Running(Path(folder), Refusing(f"{folder}/worker"), patience_s)
        task = asyncio.create_task(running.calls.run(lambda: None))
        try:
            yield running
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 files and calls of others have no event
            await asyncio.sleep(0.005)


def entry(*, later_s: float = 0.0, **said: Any) -> HTTPAccessLogEntry:
    """Give an entry of a call that began now, or so much later."""
    one = test_running_message.entry(**said)
    one.common_properties.start_time.FromNanoseconds(time.time_ns() + int(later_s * 1e9))
    return one


def test_a_call_that_is_refused_when_something_changes_is_drained_and_told() -> None:
    async def run() -> None:
        async with following() as running, serving(running.worker):
            running.calls.heard([entry()])
            await until(lambda: len(running.worker.heard) == 1)
            assert running.drained("inbound") == 0
            running.worker.verdict = Verdict(reason=Reason.CLOSED)
            running.pages[0] = 2
            await until(lambda: running.drained("inbound") == 1)
            assert running.drained("outbound") == 0
            assert set(running.lost) == {SAID["decision_id"].encode() + b"closed"}
            running.calls.heard([entry(kind="DownstreamEnd", details="x(filter_chain_is_being_removed)")])
            await until(lambda: running.calls.counts.to_json() == {"drains": 1, "ended_calls": 1, "failed": 0})

    asyncio.run(run())


def test_an_entry_that_comes_after_the_end_of_its_call_begins_nothing() -> None:
    async def run() -> None:
        async with following() as running, serving(running.worker):
            running.worker.verdict = Verdict(reason=Reason.CLOSED)
            running.calls.heard([entry(kind="DownstreamEnd")])
            running.calls.heard([entry()])
            # The next one is asked about after it.
            running.calls.heard([entry(said=SAID | {"decision_id": "ab" * 16}, tags={"direction": "outbound"})])
            await until(lambda: running.drained("outbound") == 1)
            assert running.drained("inbound") == 0
            assert {one[:32] for one in running.lost} == {b"ab" * 16}

    asyncio.run(run())


def test_a_call_that_envoy_ends_by_its_deadline_is_not_drained() -> None:
    async def run() -> None:
        async with following() as running, serving(running.worker):
            running.worker.verdict = Verdict(reason=Reason.CLOSED)
            running.calls.heard([entry(said=SAID | {"cut_after": "3s"}, later_s=-3.5)])
            await until(lambda: len(running.lost) == 1)
            running.calls.heard([entry(said=SAID | {"decision_id": "ab" * 16}, tags={"direction": "outbound"})])
            await until(lambda: running.drained("outbound") == 1)
            assert running.drained("inbound") == 0

    asyncio.run(run())


def test_a_call_with_a_new_end_is_drained_then() -> None:
    async def run() -> None:
        async with following() as running, serving(running.worker):
            ends_ns = time.time_ns() + 400_000_000
            running.worker.verdict = Verdict(reason=Reason.ALLOWED, ends_ns=ends_ns, then=Reason.CLOSED)
            running.calls.heard([entry(said=SAID | {"cut_after": "3600s"})])
            await until(lambda: running.drained("inbound") == 1)
            assert time.time_ns() >= ends_ns

    asyncio.run(run())


def test_an_answer_by_an_older_set_does_not_count() -> None:
    async def run() -> None:
        async with following() as running, serving(running.worker):
            running.calls.heard([entry(later_s=3600)])
            await until(lambda: len(running.worker.heard) == 1)
            running.calls.in_force(2)
            running.worker.verdict = Verdict(reason=Reason.CLOSED)
            await until(lambda: len(running.worker.heard) > 1)
            assert running.drained("inbound") == 0
            running.worker.generation = 2
            running.calls.in_force(2)
            await until(lambda: running.drained("inbound") == 1)

    asyncio.run(run())


def test_where_no_worker_answers_a_call_ends_if_something_has_changed_since_it_began() -> None:
    async def run() -> None:
        async with following(patience_s=0.05) as running:
            running.calls.heard([entry()])
            await until(lambda: running.drained("inbound") == 1)
            assert set(running.lost) == {SAID["decision_id"].encode() + b"internal_error"}

    asyncio.run(run())


def test_where_no_worker_answers_a_call_goes_on_if_nothing_has_changed_since_it_began() -> None:
    async def run() -> None:
        async with following(patience_s=0.05) as running:
            running.calls.heard([entry(later_s=3600)])
            # The next one is given up after it.
            running.calls.heard([entry(said=SAID | {"decision_id": "ab" * 16})])
            await until(lambda: running.drained("inbound") == 1)
            assert {one[:32] for one in running.lost} == {b"ab" * 16}

    asyncio.run(run())


def test_a_call_that_finds_no_room_or_cannot_be_asked_about_is_drained_at_the_next_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running_calls, "MOST_RUNNING", 0)

    async def run() -> None:
        async with following() as running, serving(running.worker):
            running.calls.heard([entry(tags={"direction": "outbound"})])
            running.pages[0] = 2
            await until(lambda: running.drained("outbound") == 1)
            assert running.drained("inbound") == 0
            running.calls.heard([entry(tags={"direction": "?"})])
            running.pages[0] = 4
            await until(lambda: running.drained("outbound") == 2 and running.drained("inbound") == 1)

    asyncio.run(run())


def test_a_drain_that_fails_is_counted_and_tried_until_it_succeeds() -> None:
    async def run() -> None:
        async with following() as running, serving(running.worker):
            content = running.file.read_bytes()
            running.file.write_bytes(b"damaged")
            running.worker.verdict = Verdict(reason=Reason.CLOSED)
            running.calls.heard([entry()])
            await until(lambda: running.calls.counts.failed > 1)
            running.file.write_bytes(content)
            await until(lambda: running.calls.counts.drains == 1)

    asyncio.run(run())


def test_a_call_that_outlives_its_drain_is_counted_and_drained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_calls, "DRAINED_AFTER_S", 0.01)

    async def run() -> None:
        async with following() as running, serving(running.worker):
            running.worker.verdict = Verdict(reason=Reason.CLOSED)
            running.calls.heard([entry()])
            await until(lambda: running.drained("inbound") > 1 and running.calls.counts.failed > 0)

    asyncio.run(run())


def test_a_call_of_which_nothing_is_heard_any_more_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running_calls, "SILENT_S", 0.01)

    async def run() -> None:
        async with following() as running, serving(running.worker):
            for number in range(2):
                running.calls.heard([entry()])
                # It is asked about anew: nobody knew it any more.
                await until(lambda count=number: len(running.worker.heard) > count)  # type: ignore[misc]
                await asyncio.sleep(1.2)

    asyncio.run(run())


def test_a_file_that_cannot_be_changed_is_told_at_the_start() -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            running = Running(Path(folder), Refusing(f"{folder}/worker"), PATIENCE_S)
            running.file.unlink()
            task = asyncio.create_task(running.calls.run(lambda: None))
            await until(lambda: running.calls.counts.failed == 1)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(run())
