"""Asking again: whose answers count, and what becomes of calls that nobody says anything about."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import grpc

from authz.decision import Reason
from authz.sidecar.hold.held_call import HeldCall
from authz.sidecar.hold.notice import Notice
from authz.sidecar.hold.recheck import Rechecks
from authz.sidecar.hold.verdict import MOST_AT_ONCE, RECHECK, Rechecked, Verdict, answer_bytes, question_from

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: a bound for what must happen, never a measure
PATIENCE_S = 30.0


@dataclass(slots=True)
class Worker:
    """Answers rechecks on a socket, by a generation that the test sets."""

    socket: str
    generation: int = 1
    #: answers with a verdict fewer than there were questions
    miscounts: bool = False
    heard: list[bytes] = field(default_factory=list)

    async def answer(self, question: bytes, context: object) -> bytes:  # noqa: ARG002 what gRPC gives
        asked = question_from(question)
        self.heard += asked
        verdicts = tuple(Verdict(reason=Reason.CLOSED if b"closed" in each else Reason.ALLOWED) for each in asked)
        said = Rechecked(generation=self.generation, verdicts=verdicts[self.miscounts :])
        self.generation += self.generation < 3
        self.miscounts = False
        return answer_bytes(said)


Served = TypeVar("Served", bound=Worker)


@contextlib.asynccontextmanager
async def serving(worker: Served) -> AsyncIterator[Served]:
    server = grpc.aio.server()
    _, service, method = RECHECK.split("/")
    handler = grpc.unary_unary_rpc_method_handler(worker.answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.add_insecure_port(f"unix:{worker.socket}")
    await server.start()
    try:
        yield worker
    finally:
        await server.stop(None)


def call(text: bytes, number: int = 0) -> HeldCall:
    notice = Notice(decision_id=b"%032x" % number, generation=1, checked_ns=0, ends_ns=None, message=text)
    return HeldCall(notice, 0.0)


async def judged(sockets: list[str], calls: list[HeldCall], *, generation: int = 0) -> list[HeldCall]:
    """Ask about calls; gives them in the order in which they were judged."""
    seen: list[HeldCall] = []
    done = asyncio.Event()

    def saw(one: HeldCall) -> None:
        seen.append(one)
        if len(seen) == len(calls):
            done.set()

    rechecks = Rechecks(sockets, judged=saw)
    rechecks.generation = generation
    running = asyncio.get_running_loop().create_task(rechecks.run())
    rechecks.ask_all(calls)
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()
    running.cancel()
    return seen


def test_an_answer_by_an_older_set_does_not_count_and_is_asked_for_again() -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with serving(Worker(f"{folder}/w")) as worker:
                seen = await judged([worker.socket], [call(b"closed")], generation=3)
                assert worker.heard == [b"closed"] * 3
                assert [each.refusal for each in seen] == [Reason.CLOSED]

    asyncio.run(run())


def test_an_answer_that_says_too_little_is_asked_for_again() -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with serving(Worker(f"{folder}/w", miscounts=True)) as worker:
                seen = await judged([worker.socket], [call(b"closed"), call(b"open", 1)])
                assert [each.refusal for each in seen] == [Reason.CLOSED, None]

    asyncio.run(run())


def test_every_call_is_asked_about_by_whoever_is_there() -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with serving(Worker(f"{folder}/w")) as worker:
                calls = [call(b"closed" if number % 3 else b"open", number) for number in range(1000)]
                # Nobody is behind the first socket.
                seen = await judged([f"{folder}/gone", worker.socket], calls)
                assert {each.decision_id for each in seen} == {each.decision_id for each in calls}
                assert all((each.refusal is None) == (each.message == b"open") for each in calls)

    asyncio.run(run())


class Late(Worker):
    """Answers its first two questions when it is told to, without an end; every other one at once, with an end."""

    def __init__(self, socket: str) -> None:
        super().__init__(socket)
        self.go_on = asyncio.Event(), asyncio.Event()
        self.both_asked = asyncio.Event()

    async def answer(self, question: bytes, context: object) -> bytes:  # noqa: ARG002 what gRPC gives
        place, count = len(self.heard), len(question_from(question))
        self.heard.append(question)
        if place >= len(self.go_on):
            verdict = Verdict(reason=Reason.ALLOWED, ends_ns=900, then=Reason.CLOSED)
        else:
            if place:
                self.both_asked.set()
            await self.go_on[place].wait()
            verdict = Verdict(reason=Reason.ALLOWED)
        return answer_bytes(Rechecked(generation=1, verdicts=(verdict,) * count))


def test_an_answer_that_comes_late_takes_no_sooner_end_back() -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with serving(Late(f"{folder}/w")) as worker, asyncio.timeout(PATIENCE_S):
                seen = asyncio.Queue[HeldCall]()
                rechecks = Rechecks([worker.socket], judged=seen.put_nowait)
                calls = [call(b"open", number) for number in range(2 * MOST_AT_ONCE)]
                other = call(b"other", len(calls))
                running = asyncio.get_running_loop().create_task(rechecks.run())
                rechecks.ask_all(calls)
                await worker.both_asked.wait()
                rechecks.ask_all(calls)
                worker.go_on[1].set()
                while await seen.get() is not calls[-1]:
                    pass
                worker.go_on[0].set()
                # Asked when the late answer has come.
                rechecks.ask([other])
                while await seen.get() is not other:
                    pass
                assert {each.new_end for each in calls} == {(900, Reason.CLOSED)}
                running.cancel()

    asyncio.run(run())


def test_calls_that_nobody_says_anything_about_end() -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            calls = [call(b"open", number) for number in range(100)]
            ended, count = asyncio.Event(), iter(range(len(calls) - 1, -1, -1))
            for each in calls:
                each.claim(lambda _: None if next(count) else ended.set())
            rechecks = Rechecks([f"{folder}/gone"], judged=lambda _: None, patience_s=0.1)
            running = asyncio.get_running_loop().create_task(rechecks.run())
            rechecks.ask_all(calls)
            async with asyncio.timeout(PATIENCE_S):
                await ended.wait()
            running.cancel()
            assert {each.refusal for each in calls} == {Reason.INTERNAL_ERROR}

    asyncio.run(run())
