"""Asking again: what held calls would get now, from the workers that decide by the set in force.

When what is in force changes, every held call is asked about, those first that run. Questions go in batches, two at
once to each worker, over connections that are made anew each time: a worker of the set before accepts none any more.

# INVARIANT (asked of the set in force): an answer counts only from a worker of the generation in force when it was
asked for, or of a later one; any other is asked for again. That a call goes on, and until when, counts only where
nothing has changed since it was asked: who answers late takes nothing back that a newer answer has said.
# INVARIANT (fail closed): where no worker answers for `PATIENCE_S`, the calls that wait end, `internal_error`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import grpc

from authz.decision import Reason
from authz.sidecar.errors import HoldError
from authz.sidecar.hold.verdict import RECHECK, answer_from, batches, question_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from authz.sidecar.hold.held_call import HeldCall

_log = logging.getLogger(__name__)

Asked = TypeVar("Asked", bound="HeldCall")

#: a worker that has not answered by then is asked no more; another one is
ANSWER_S: Final = 0.5
#: how long a worker is left alone that has not answered, or answers by another set
_AGAIN_S: Final = 0.01
#: nobody answers for so long: what is held cannot be told to be allowed
PATIENCE_S: Final = 5.0
#: questions under way at once to each worker: while it answers one, the next is there
_AT_ONCE: Final = 2
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 50))


class Rechecks(Generic[Asked]):
    """Asks about calls, one sweep after another; `judged` is told of each call that was judged.

    `ends_unjudged` says of a call that nobody judges whether it ends; without it all of them do. `kind` says what calls
    they are.
    """

    def __init__(
        self,
        sockets: Sequence[str],
        *,
        judged: Callable[[Asked], None],
        patience_s: float = PATIENCE_S,
        kind: str = "held",
        ends_unjudged: Callable[[Asked], bool] | None = None,
    ) -> None:
        self._kind = kind
        self._ends_unjudged = ends_unjudged
        self._sockets = sockets
        self._patience_s = patience_s
        self._judged = judged
        #: the least generation whose answers count
        self.generation = 0
        self._waiting: deque[list[Asked]] = deque()
        self._wanted = asyncio.Event()
        self._answered_s = 0.0
        #: how often all calls were wanted to be asked about
        self._sweep = 0
        self._asked = self._refused = 0

    def ask(self, calls: Iterable[Asked]) -> None:
        """Have these asked about, in this order; those that wait already come first."""
        self._waiting.extend(batches(calls))
        if self._waiting:
            self._wanted.set()

    def ask_all(self, calls: Iterable[Asked]) -> None:
        """Have these asked about, and no others: what waited is among them."""
        self._sweep += 1
        self._waiting.clear()
        self.ask(calls)

    async def run(self) -> None:
        """Ask whenever something is wanted, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            begun_s = self._answered_s = loop.time()
            self._asked = self._refused = 0
            async with asyncio.TaskGroup() as group:
                for socket in self._sockets:
                    group.create_task(self._ask_worker(socket))
            took_ms = (loop.time() - begun_s) * 1000
            if self._asked > 1 or self._refused:
                text = "asked again about %d %s calls: %d are refused by now (%.0f ms)"
                _log.info(text, self._asked, self._kind, self._refused, took_ms)

    async def _ask_worker(self, socket: str) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            async with grpc.aio.insecure_channel(f"unix:{socket}", options=_OPTIONS) as channel:
                ask = channel.unary_unary(RECHECK)
                answers = await asyncio.gather(*(self._ask_on(ask) for _ in range(_AT_ONCE)))
            if all(answers):
                continue
            if loop.time() - self._answered_s > self._patience_s:
                self._give_up()
                return
            await asyncio.sleep(_AGAIN_S)

    async def _ask_on(self, ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]) -> bool:
        """Ask while something waits; False where this connection leads to nobody whose answers count."""
        while self._waiting:
            calls = [call for call in self._waiting.popleft() if call.refusal is None]
            if not calls:
                continue
            generation, sweep = self.generation, self._sweep
            question = question_bytes([call.message for call in calls])
            try:
                rechecked = answer_from(await ask(question, timeout=ANSWER_S))
            except grpc.RpcError:
                rechecked = None
            except HoldError as error:
                _log.error("%s", error)
                rechecked = None
            if rechecked is None or rechecked.generation < generation or len(rechecked.verdicts) != len(calls):
                self._waiting.appendleft(calls)
                return False
            self._answered_s = asyncio.get_running_loop().time()
            for call, verdict in zip(calls, rechecked.verdicts, strict=True):
                if verdict.reason.allows and sweep != self._sweep:
                    continue  # it has been asked about again since
                call.judge(verdict)
                self._refused += call.refusal is not None
                self._judged(call)
            self._asked += len(calls)
        return True

    def _give_up(self) -> None:
        """End what waits: nobody can say that it is still allowed."""
        count = 0
        with contextlib.suppress(IndexError):
            while True:
                for call in self._waiting.popleft():
                    if self._ends_unjudged is None or self._ends_unjudged(call):
                        call.refuse(Reason.INTERNAL_ERROR)
                        count += 1
        if count:
            _log.error("no worker says what %d %s calls would get now; they are cut", count, self._kind)
