"""The thread in which control's services run: what is handed over, and what ends control."""

from __future__ import annotations

import asyncio
import select
import threading
import time
from typing import TYPE_CHECKING

import pytest

from authz.errors import AuthzError
from authz.sidecar.control import control_services
from authz.sidecar.control.control_services import ControlServices
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

PATIENCE_S = 30


class Service:
    def __init__(self, name: str, work: Callable[[Callable[[], None]], Coroutine[None, None, None]]) -> None:
        self.name = name
        self._work = work

    async def run(self, ready: Callable[[], None]) -> None:
        await self._work(ready)


@pytest.fixture
def services() -> Iterator[ControlServices]:
    made = ControlServices()
    yield made
    made.stop()


async def _for_ever(ready: Callable[[], None]) -> None:
    ready()
    await asyncio.Event().wait()


def test_start_returns_when_every_service_is_ready(services: ControlServices) -> None:
    order: list[str] = []

    async def slow(ready: Callable[[], None]) -> None:
        await asyncio.sleep(0)
        order.append("slow")
        await _for_ever(ready)

    services.add(Service("quick", _for_ever))
    services.add(Service("slow", slow))
    services.start()
    assert order == ["slow"]


def test_what_a_service_hands_over_is_done_by_who_looks_in_its_order(services: ControlServices) -> None:
    done: list[tuple[int, threading.Thread]] = []

    async def gives(ready: Callable[[], None]) -> None:
        for number in range(3):
            services.hand_over(lambda number=number: done.append((number, threading.current_thread())))
        await _for_ever(ready)

    services.add(Service("gives", gives))
    services.start()
    assert done == [(number, threading.current_thread()) for number in range(3)]


def test_handing_over_wakes_who_waits_for_the_bell(services: ControlServices) -> None:
    services.add(Service("idle", _for_ever))
    services.start()
    services.bell.answer()
    services.call(lambda: services.hand_over(lambda: None))
    assert select.select([services.bell.descriptor], [], [], PATIENCE_S)[0]


def test_what_the_main_loop_calls_runs_in_the_services_thread(services: ControlServices) -> None:
    services.add(Service("idle", _for_ever))
    services.start()
    ran: list[str] = []
    rung = threading.Event()
    services.call(lambda: (ran.append(threading.current_thread().name), rung.set()))
    assert rung.wait(PATIENCE_S)
    assert ran == ["services"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (AuthzError("/run/x.sock: cannot listen"), "/run/x.sock: cannot listen"),
        (ValueError("bad"), "frail: a fault of the program: ValueError: bad"),
        (None, "frail: has ended"),
    ],
)
def test_a_service_that_cannot_start_is_an_error_of_the_start(
    services: ControlServices, error: Exception | None, words: str
) -> None:
    async def frail(_ready: Callable[[], None]) -> None:
        if error is not None:
            raise error

    services.add(Service("idle", _for_ever))
    services.add(Service("frail", frail))
    with pytest.raises(SidecarError) as raised:
        services.start()
    assert str(raised.value) == words


def test_a_service_that_ends_later_rings_and_is_an_error_of_the_next_look(services: ControlServices) -> None:
    end = asyncio.Event()

    async def frail(ready: Callable[[], None]) -> None:
        ready()
        await end.wait()
        raise AuthzError("gone")

    services.add(Service("frail", frail))
    services.start()
    services.bell.answer()
    services.call(end.set)
    assert select.select([services.bell.descriptor], [], [], PATIENCE_S)[0]
    with pytest.raises(SidecarError, match="gone"):
        services.look()


def test_the_end_of_one_service_cancels_the_others(services: ControlServices) -> None:
    cancelled = threading.Event()

    async def other(ready: Callable[[], None]) -> None:
        try:
            await _for_ever(ready)
        finally:
            cancelled.set()

    async def frail(_ready: Callable[[], None]) -> None:
        raise AuthzError("gone")

    services.add(Service("other", other))
    services.add(Service("frail", frail))
    with pytest.raises(SidecarError):
        services.start()
    assert cancelled.wait(PATIENCE_S)


def test_a_loop_that_hangs_is_an_error_of_the_next_look(
    services: ControlServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_services, "HUNG_AFTER_S", 0.05)
    go_on = threading.Event()

    async def hangs(ready: Callable[[], None]) -> None:
        ready()
        await asyncio.sleep(0)
        go_on.wait(PATIENCE_S)

    services.add(Service("hangs", hangs))
    try:
        with pytest.raises(SidecarError, match="hung"):
            _start_and_look(services)
    finally:
        go_on.set()


def test_stop_ends_the_services(services: ControlServices) -> None:
    ended = threading.Event()

    async def service(ready: Callable[[], None]) -> None:
        try:
            await _for_ever(ready)
        finally:
            ended.set()

    services.add(Service("service", service))
    services.start()
    services.stop()
    assert ended.wait(PATIENCE_S)


def _start_and_look(services: ControlServices) -> None:
    services.start()
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        services.look()
