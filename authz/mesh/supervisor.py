"""The process that a mesh is: it starts everything, keeps it running, renews certificates, and leaves nothing behind.

It holds the state directory's lock and the mesh's ports for its whole life. Start: apps, sidecars and stand-ins, as
many at once as this machine has room for; each Service's Envoy when its sidecar serves. Stop, by SIGINT, SIGTERM,
SIGHUP or the end of who holds its leash: Envoys first, so that nothing is let in any more, then apps, then sidecars,
which write the last records.

It has one thread, and imports nothing that starts another: its children are forked from it.

# INVARIANT (nothing is left): however the mesh ends while this process lives, its children, sockets, keys and
# temporary folder have gone before the lock is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from authz.errors import AuthzError
from authz.mesh.authorities import wall_clock
from authz.mesh.errors import MeshError, cause
from authz.mesh.kept_running import KeptRunning
from authz.mesh.layout import require_names
from authz.mesh.mesh_log import MeshLog
from authz.mesh.orchestration import Orchestration
from authz.mesh.ports import ReservedPorts
from authz.mesh.preparation import PreparedMesh, ServicePrograms, prepare
from authz.mesh.process_mark import mark_of
from authz.mesh.state import MeshState, Role, RunningProcess
from authz.mesh.state_directory import StateDirectory, make_runtime_directory
from authz.policy_folder import load_policy_folder

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Never

    from authz.mesh.background import Leash
    from authz.mesh.child import Child, Program
    from authz.mesh.mesh_log import Listener
    from authz.mesh.settings import MeshSettings
    from authz.policy.policy_set import PolicySet

#: How often certificates are looked at; half of an SVID's life is thirty times longer.
RENEWAL_LOOK_S: Final = 60.0
#: Processes that come and go together make one record.
_WRITE_AFTER_S = 0.01
#: A start is mostly work for the processor: more at once than this only makes the first one later.
_STARTS_AT_ONCE = 1 + (os.cpu_count() or 1)
#: enough for thousands of connections in each Envoy, little enough for who walks all descriptors
_FILES = 65_536
_ENVOY_GRACE_S, _APP_GRACE_S, _SIDECAR_GRACE_S = 2.0, 1.0, 3.0


def supervise(
    settings: MeshSettings, listener: Listener, *, leash: Leash | None = None, takes_output: bool = False
) -> bool:
    """Run a mesh until it is told to stop, and give whether it was ready; raises AuthzError if it cannot come up.

    `takes_output` sends the process's own output to the mesh's log, for one that has no terminal.
    """
    return asyncio.run(_supervise(settings, listener, leash=leash, takes_output=takes_output))


async def _supervise(settings: MeshSettings, listener: Listener, *, leash: Leash | None, takes_output: bool) -> bool:
    stopping = _stopping(leash)
    _raise_file_limit()
    began = time.monotonic()
    policy_set = load_policy_folder(settings.policies)
    require_names(policy_set, settings.only)
    directory = StateDirectory(settings.state)
    with directory.locked(), contextlib.ExitStack() as held:
        if directory.clean():
            listener.progress("an earlier mesh had left processes behind; they are stopped")
        held.callback(directory.clean)
        directory.make_folders(accept_clock=settings.accept_clock)
        listener = held.enter_context(MeshLog(directory.logs / "mesh.log", listener, takes_output=takes_output))
        ports = held.enter_context(ReservedPorts())
        runtime_directory = make_runtime_directory()
        held.callback(shutil.rmtree, runtime_directory, ignore_errors=True)
        mesh = Supervisor(
            directory=directory, runtime_directory=runtime_directory, policies=settings.policies, listener=listener
        )
        mesh.write_state()
        listener.progress(_what_there_is(policy_set, settings.policies))
        prepared = prepare(
            policy_set,
            policies=settings.policies,
            only=settings.only,
            directory=directory,
            runtime_directory=runtime_directory,
            ports=ports,
            unsafe_clock_file=settings.unsafe_clock_file,
            with_hub=settings.hub,
        )
        try:
            served = await _unless(stopping, mesh.start(prepared))
            if served:
                listener.ready(
                    f"ready after {time.monotonic() - began:.1f} s; "
                    "its listeners are on 127.0.0.1, so any user of this machine may speak as any Service"
                )
                await _unless(stopping, mesh.keep(prepared))
        finally:
            listener.progress("stopping")
            await mesh.stop()
            listener.progress("stopped")
        return served


class Supervisor:
    """The processes of one mesh, and the record of them in the state directory."""

    def __init__(self, *, directory: StateDirectory, runtime_directory: str, policies: str, listener: Listener) -> None:
        own = mark_of(os.getpid())
        if own is None:
            raise MeshError("this process cannot see itself in /proc")
        self._directory = directory
        self._listener = listener
        self._state = MeshState(
            supervisor=own,
            policies=policies,
            runtime_directory=runtime_directory,
            laid_out=False,
            services=(),
            third_parties=(),
            processes=(),
        )
        self._kept: list[KeptRunning] = []
        self._keepers: list[asyncio.Task[Never]] = []
        self._count = self._served = 0
        self._gate = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._write_soon: asyncio.TimerHandle | None = None
        self._orchestration: Orchestration | None = None

    async def start(self, prepared: PreparedMesh) -> None:
        """Start everything and wait until it serves; raises MeshStartError for the first that does not."""
        self._state = replace(
            self._state,
            laid_out=True,
            services=prepared.services,
            third_parties=prepared.third_parties,
            hub=prepared.hub_url,
        )
        self._changed()
        self._count = len(prepared.service_programs) + len(prepared.stand_ins)
        self._orchestration = Orchestration(prepared.orchestrator_socket, self._listener.progress)
        await self._start(prepared.issuer)
        self._keepers.append(asyncio.create_task(self._orchestration.run()))
        if prepared.hub is not None:
            await self._start(prepared.hub)
            self._listener.progress(f"the hub shows who talks to whom: {prepared.hub_url}/")
        services = [self._start_service(one) for one in prepared.service_programs]
        stand_ins = [self._start_stand_in(one) for one in prepared.stand_ins]
        await _all(services + stand_ins)
        self.write_state()  # before anyone is told to look

    async def keep(self, prepared: PreparedMesh) -> None:
        """Keep everything running and its certificates fresh until the state directory has been removed."""
        renewal = asyncio.create_task(self._renew(prepared))
        try:
            waited_for: list[asyncio.Task[Any]] = [renewal, *self._keepers]
            ended, _ = await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()  # a keeper never ends; if it has, it raises what is a fault of the program
        finally:
            renewal.cancel()

    async def stop(self) -> None:
        """Stop everything, in order, whatever state it is in, and wait until it has gone."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for roles, grace_s in (
            ({Role.ENVOY}, _ENVOY_GRACE_S),
            ({Role.APP, Role.STAND_IN}, _APP_GRACE_S),
            ({Role.SIDECAR}, _SIDECAR_GRACE_S),
            ({Role.ISSUER, Role.HUB}, _SIDECAR_GRACE_S),
        ):
            await asyncio.gather(*(one.stop(grace_s=grace_s) for one in self._kept if one.program.role in roles))
        if self._write_soon is not None:
            self._write_soon.cancel()

    def write_state(self) -> None:
        """Put the record of the mesh into the state directory."""
        if self._write_soon is not None:
            self._write_soon.cancel()
            self._write_soon = None
        processes = tuple(
            RunningProcess(of=one.program.of, role=Role(one.program.role), mark=one.mark, ready=one.ready)
            for one in self._kept
        )
        self._state = replace(self._state, processes=processes)
        try:
            self._directory.write(self._state)
        except OSError as error:
            # A full disk is no reason to stop what runs.
            self._listener.progress(f"the record of the mesh cannot be written: {cause(error)}")

    async def _start_service(self, programs: ServicePrograms) -> None:
        await _all([self._start(programs.sidecar), self._start(programs.app)])
        await self._start(programs.envoy)
        self._serves(programs.envoy.of)

    async def _start_stand_in(self, program: Program) -> None:
        await self._start(program)
        self._serves(program.of)

    async def _start(self, program: Program) -> None:
        kept = KeptRunning(
            program, gate=self._gate, report=self._listener.progress, changed=self._changed, started=self._has_started
        )
        self._kept.append(kept)
        await kept.start()
        self._keepers.append(asyncio.create_task(kept.keep()))

    def _has_started(self, child: Child) -> None:
        if self._orchestration is not None:
            self._orchestration.started(child)

    def _serves(self, name: str) -> None:
        self._served += 1
        self._listener.progress(f"{name} serves ({self._served} of {self._count})")

    def _changed(self) -> None:
        if self._orchestration is not None and any(one.ready for one in self._kept if one.program.role is Role.ISSUER):
            self._orchestration.issuer_serves()
        if self._write_soon is None:
            self._write_soon = asyncio.get_running_loop().call_later(_WRITE_AFTER_S, self.write_state)

    async def _renew(self, prepared: PreparedMesh) -> None:
        while True:
            # Looked at by the wall clock: a machine that slept has aged certificates too.
            await asyncio.sleep(RENEWAL_LOOK_S)
            if not self._directory.is_there():
                self._listener.progress("the state directory has been removed")
                return
            try:
                renewed = prepared.authorities.renew(wall_clock())
            except (AuthzError, OSError) as error:
                self._listener.progress(f"certificates could not be renewed, tried again in a minute: {error}")
                continue
            if renewed:
                self._listener.progress(f"{renewed} X.509-SVIDs are renewed")


async def _all(awaited: list[Coroutine[Any, Any, None]]) -> None:
    """Run all at once; the first error ends the others and is raised, without the group that it came in."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in awaited:
                group.create_task(one)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors


async def _unless(stopping: asyncio.Event, awaited: Coroutine[Any, Any, None]) -> bool:
    """Await something unless the mesh is told to stop before; give whether it came to its end."""
    stop = asyncio.create_task(stopping.wait())
    task = asyncio.create_task(awaited)
    waited_for: list[asyncio.Task[Any]] = [stop, task]
    try:
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        for one in waited_for:
            one.cancel()
        await asyncio.gather(*waited_for, return_exceptions=True)


def _stopping(leash: Leash | None) -> asyncio.Event:
    """Give the event that says that the mesh is to stop."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1)
            loop.add_signal_handler(number, stopping.set)
    if leash is not None:
        leash.watch(loop, stopping.set)
    return stopping


def _raise_file_limit() -> None:
    """Let this process and its children, Envoys with two descriptors a connection, open as many files as they may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _what_there_is(policy_set: PolicySet, policies: str) -> str:
    services = _counted(len(policy_set.services), "Service", "Services")
    third_parties = _counted(len(policy_set.third_parties), "ThirdParty", "ThirdParties")
    return f"{services} and {third_parties} in `{policies}`, revision {policy_set.revision[:12]}"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
