"""What control does over gRPC, in one thread of its own with an asyncio loop: servers for Envoy, clients of sources.

Control's main loop stays what it is: it never waits for a connection. The two talk by handing over short functions: a
service gives the main loop what it has found out (`hand_over`), the main loop gives a service what it was told
(`call`). Nobody holds a lock while the other works.

Started only where a flag needs it. grpcio is imported by the services themselves, in control, after its fork: the
supervisor, the template and the workers never load it, and nobody forks from a process that has its threads.

INVARIANT (no half a control): a service that ends, or a loop that hangs, ends control as a whole, and the supervisor
starts another one. Envoy keeps its secrets meanwhile, and connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from authz.errors import AuthzError
from authz.sidecar.doorbell import Doorbell
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)

#: how often the loop says that it runs
BEAT_S: Final = 0.5
#: one that has not said so for this long is hung; less than the supervisor's own patience with control
HUNG_AFTER_S: Final = 8.0
#: services are to be ready within this time, or control cannot start; what has to wait longer says that it is ready
START_PATIENCE_S: Final = 10.0
#: what is under way at the end gets so long
END_PATIENCE_S: Final = 0.5


class ControlService(Protocol):
    """Something that runs in the loop for as long as control does."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled; `ready` is called once it can be relied on, within START_PATIENCE_S.

        Raises an AuthzError where it cannot do its work at all: that ends control.
        """


class ControlServices:
    """The thread, its loop and the services in it; all methods but the services' own are for the main loop."""

    def __init__(self) -> None:
        #: rung when something was handed over, or when a service has failed
        self.bell = Doorbell()
        self._services: list[ControlService] = []
        self._handed_over: deque[Callable[[], None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._not_ready: set[str] = set()
        self._failure: str | None = None
        self._beat_s = time.monotonic()
        self._end = asyncio.Event()

    def add(self, service: ControlService) -> None:
        """Have a service run, from `start` on."""
        self._services.append(service)

    def start(self) -> None:
        """Start the thread, and return when all services are ready; raises SidecarError where one cannot be."""
        self._not_ready = {service.name for service in self._services}
        self._beat_s = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=[self._loop], name="services", daemon=True)
        self._thread.start()
        if not self._started.wait(START_PATIENCE_S):
            raise SidecarError(f"{', '.join(sorted(self._not_ready))}: not ready within {START_PATIENCE_S:.0f} s")
        self.look()

    def look(self) -> None:
        """Do what was handed over; raises SidecarError where a service has failed or the loop hangs."""
        while self._handed_over:
            self._handed_over.popleft()()
        if self._failure is not None:
            raise SidecarError(self._failure)
        if time.monotonic() - self._beat_s > HUNG_AFTER_S:
            raise SidecarError("the loop of control's services is hung")

    def hand_over(self, work: Callable[[], None]) -> None:
        """Have the main loop do something soon: called by services. What is handed over is done in its order."""
        self._handed_over.append(work)
        self.bell.ring()

    def call(self, work: Callable[[], None]) -> None:
        """Have the services' loop do something soon: called by the main loop."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whom it would have told
                self._loop.call_soon_threadsafe(work)

    def stop(self) -> None:
        """End the services; returns when they have ended, or after END_PATIENCE_S."""
        if self._thread is not None:
            self.call(self._end.set)
            self._thread.join(END_PATIENCE_S)

    # --- in the thread

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._serve(loop))
        except Exception as error:  # noqa: BLE001 the edge of a thread: its end is control's, with a word why
            self._fail(f"a fault of the program: {type(error).__name__}: {error}")
        finally:
            self._started.set()
            loop.close()

    async def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        tasks = [loop.create_task(self._one(service), name=service.name) for service in self._services]
        if not tasks:
            self._started.set()
        self._beat(loop)
        ended = loop.create_task(self._end.wait())
        await asyncio.wait([*tasks, ended], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, ended):
            task.cancel()
        await asyncio.gather(*tasks, ended, return_exceptions=True)

    async def _one(self, service: ControlService) -> None:
        def ready() -> None:
            self._not_ready.discard(service.name)
            if not self._not_ready:
                self._started.set()

        try:
            await service.run(ready)
        except AuthzError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 a service's fault ends control, with a word why
            self._fail(f"{service.name}: a fault of the program: {type(error).__name__}: {error}")
        else:
            self._fail(f"{service.name}: has ended")

    def _fail(self, why: str) -> None:
        self._failure = self._failure or why
        self._started.set()
        self.bell.ring()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._beat_s = time.monotonic()
        loop.call_later(BEAT_S, self._beat, loop)
