"""The hub as a process: opens its store, follows the policies, serves until it is told to stop.

It says that it is ready when it listens (:mod:`authz.notify`). On SIGTERM and SIGINT it takes what has been sent, lets
listeners go and ends; on kill -9 nothing that it has acknowledged is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import ipaddress
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from authz.hub.access import MAX_FILE_BYTES, Access
from authz.hub.answering import Answering
from authz.hub.errors import HubError
from authz.hub.events import Event, Events
from authz.hub.front import runner_of
from authz.hub.happened import Happened
from authz.hub.intake import Intake
from authz.hub.known_policies import KnownPolicies
from authz.hub.known_series import KnownSeries
from authz.hub.metrics import HubMetrics
from authz.hub.refusals import Refusals
from authz.hub.server import HubServer
from authz.hub.store.sqlite import SqliteStore
from authz.hub.tls import HubTls
from authz.hub.window_stages import WindowStages
from authz.instant import NS_PER_MS, rfc3339_from_ns
from authz.notify import notify

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from authz.hub.arrival import Arrival
    from authz.hub.known_policies import KeptRevision, Known
    from authz.hub.settings import HubSettings
    from authz.hub.store.store import Store

_log = logging.getLogger(__name__)

#: open answers get so long when the hub ends
_GRACE_S: Final = 2.0
_BACKLOG: Final = 512
_LOOK_AT_WINDOWS_S: Final = 0.5
#: for how long a thread that reads batches keeps another from answering a request (Python's own choice: 5 ms)
_SWITCH_S: Final = 0.0005
#: objects that are made, and not let go, before it is looked for circles among them (Python's own choice: 700)
_MADE: Final = 20_000


def run(settings: HubSettings) -> None:
    """Serve until SIGTERM or SIGINT; raises HubError where it cannot be started."""
    sys.setswitchinterval(_SWITCH_S)
    with contextlib.ExitStack() as held:
        access = None if settings.access is None else _access(settings.access)
        _require_loopback(settings, access)
        _lock(settings.data, held)
        # A store of an earlier version may take minutes to become one of this: a signal ends that at once, and loses
        # nothing.
        store = open_store(settings)
        held.callback(store.close)
        asyncio.run(_serve(settings, access, store))


async def _serve(settings: HubSettings, access: Access | None, store: Store) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    following, tls = _identity(settings)
    with contextlib.ExitStack() as held:
        if following is not None:
            held.callback(following.cancel)
        if tls is not None and not await _has_identity(tls, following, stop):
            return
        policies = KnownPolicies(folder=settings.policies, kept=settings.data / "revisions")
        await asyncio.to_thread(policies.load)
        events = Events()
        happened = Happened(*_seen_before(store))

        def taken(arrivals: Sequence[Arrival]) -> None:
            told = list(happened.events(arrivals, listened=len(events) > 0))
            if told:
                loop.call_soon_threadsafe(events.tell, iter(told))

        intake = Intake(store, taken)
        answering = Answering(store, policies, intake.counts, KnownSeries(store))
        refusals = Refusals(settings.data / "refused.jsonl")
        metrics = HubMetrics(
            lambda: answering.status({}, time.time_ns()), intake.counts, lambda: len(events), lambda: refusals.count
        )
        server = HubServer(
            answering=answering,
            intake=intake,
            events=events,
            access=access,
            tls=tls,
            refusals=refusals,
            metrics=metrics.text,
        )
        intake.start()
        held.callback(intake.stop)
        async with runner_of(server.application(), shutdown_timeout_s=_GRACE_S) as runner:
            try:
                site = web.TCPSite(
                    runner,
                    settings.host,
                    settings.port,
                    backlog=_BACKLOG,
                    reuse_address=True,
                    reuse_port=settings.reuse_port,
                    ssl_context=None if tls is None else tls.context,
                )
                await _start(site, settings)
                # A map makes ten thousand objects, and none of them in a circle: the collector is not to look through
                # all that the program has loaded in the middle of one.
                gc.freeze()
                gc.set_threshold(_MADE, *gc.get_threshold()[1:])
                _log.info("serves %s", settings.url("http" if tls is None else "https", _port(runner)))
                notify("READY=1")
                await _until(stop, policies, events, following)
                notify("STOPPING=1")
            finally:
                server.end()


def _identity(settings: HubSettings) -> tuple[asyncio.Task[None] | None, HubTls | None]:
    """Begin to follow the hub's SVID, where it has one."""
    if settings.identity_directory is None and settings.workload_api is None:
        return None, None
    tls = HubTls(directory=settings.identity_directory, workload_api=settings.workload_api)
    return asyncio.create_task(tls.follow()), tls


async def _has_identity(tls: HubTls, following: asyncio.Task[None] | None, stop: asyncio.Event) -> bool:
    """Wait for the first SVID; False where the hub is told to stop before, raises HubError where there will be none."""
    tasks = [asyncio.create_task(tls.ready.wait()), asyncio.create_task(stop.wait())]
    try:
        waited: set[asyncio.Task[Any]] = {*tasks, *(() if following is None else (following,))}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if following is not None and following.done():
            following.result()
        return tls.ready.is_set()
    finally:
        for task in tasks:
            task.cancel()


async def _until(
    stop: asyncio.Event, policies: KnownPolicies, events: Events, following: asyncio.Task[None] | None
) -> None:
    async def changed(known: Known, kept: KeptRevision) -> None:
        data = {
            "revision": known.revision,
            "previous": kept.previous,
            "sidecar": None,
            "time": rfc3339_from_ns(kept.first_ms * NS_PER_MS),
        }
        events.tell(iter([Event(kind="revision", data=data)]))

    # None of them but the first ends by itself: one that does has failed, and so has the hub.
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(stop.wait())]
    if policies.folder is not None:
        tasks.append(asyncio.create_task(policies.run(changed)))
        tasks.append(asyncio.create_task(_tell_of_windows(policies, events)))
    if following is not None:
        tasks.append(following)
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _tell_of_windows(policies: KnownPolicies, events: Events) -> None:
    stages = WindowStages()
    while True:
        events.tell(stages.events(policies.now, time.time_ns()))
        # By the wall clock: a machine that slept has windows that have closed.
        await asyncio.sleep(_LOOK_AT_WINDOWS_S)


def open_store(settings: HubSettings) -> Store:
    """Open the store that the settings name; raises HubError."""
    if settings.store is None:
        return SqliteStore(settings.data, settings.retention, _log.info)
    try:
        from authz.hub.store.clickhouse import ClickHouseStore  # noqa: PLC0415 its driver is there where it is used
    except ImportError as error:
        raise HubError("--store: clickhouse-connect is not installed; `pip install 'picoseg[clickhouse]'`") from error
    # Each of its tries would be a warning before the one line that says what is wrong.
    for driver in ("urllib3", "clickhouse_connect"):
        logging.getLogger(driver).setLevel(logging.ERROR)
    return ClickHouseStore(settings.store, settings.retention, _log.info)


def _seen_before(store: Store) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    edges = store.rows("SELECT DISTINCT source, target FROM series WHERE first_s IS NOT NULL", {})
    revisions = store.rows("SELECT sidecar, revision FROM sidecars WHERE revision IS NOT NULL", {})
    return [(source, target) for source, target in edges], [(sidecar, revision) for sidecar, revision in revisions]


def _access(path: Path) -> Access:
    try:
        with path.open("rb") as file:
            return Access.from_json(file.read(MAX_FILE_BYTES + 1))
    except OSError as error:
        raise HubError(f"--access: {path}: {(error.strerror or 'it cannot be read').lower()}") from error
    except HubError as error:
        raise HubError(f"--access: {path}: {error}") from error


def _require_loopback(settings: HubSettings, access: Access | None) -> None:
    """Refuse to show everything to everybody: without --access there is nobody to tell from anybody else."""
    try:
        loopback = settings.host == "localhost" or ipaddress.ip_address(settings.host).is_loopback
    except ValueError as error:
        raise HubError(f"--listen: `{settings.host}` is no address; give one such as 127.0.0.1:8800") from error
    if access is None and not loopback:
        raise HubError(f"--listen: `{settings.host}`: give --access to listen where other machines can ask")


def _lock(data: Path, held: contextlib.ExitStack) -> None:
    """Hold the data folder: two hubs on one store would each think that they are alone."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        held.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise HubError(f"--data: `{data}`: another hub uses it") from error
    except OSError as error:
        raise HubError(f"--data: `{data}`: {(error.strerror or 'it cannot be used').lower()}") from error


async def _start(site: web.TCPSite, settings: HubSettings) -> None:
    try:
        await site.start()
    except OSError as error:
        raise HubError(
            f"--listen: `{settings.host}:{settings.port}`: {(os.strerror(error.errno or 0)).lower()}"
        ) from error


def _port(runner: web.BaseRunner) -> int:
    (address, *_) = runner.addresses
    port: int = address[1]
    return port
