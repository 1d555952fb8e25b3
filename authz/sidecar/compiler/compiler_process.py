"""A compiler: a process that makes one set ready, then forks the workers that answer by it whenever it is told to.

It begins as a fork of the template, which has read the program and no policies, and has one thread whenever it forks.
What it has compiled is never changed again, so its workers share its memory. Its end touches none of them.
"""

from __future__ import annotations

import gc
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.sidecar.channel import (
    Channel,
    CompilerRuns,
    ForkWorker,
    SetCompiled,
    SetRefused,
    SetSame,
    StartCompiler,
    channel_from,
    cut,
)
from authz.sidecar.check.worker import run_worker
from authz.sidecar.child_process import fork_for
from authz.sidecar.compiler.apart import result_from_apart, result_in
from authz.sidecar.compiler.compilation import (
    Compiled,
    Refused,
    Same,
    compiled_again,
    compiled_folder,
    compiled_kept,
    no_set,
)
from authz.sidecar.compiler.policy_source import empty_memory
from authz.sidecar.compiler.reader import Reader
from authz.sidecar.errors import SidecarError
from authz.sidecar.in_force import InForce, PolicyInForce

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from authz.sidecar.check.check_server import ServerMaker
    from authz.sidecar.compiler.compilation import Result
    from authz.sidecar.settings import SidecarSettings
    from authz.sidecar.shared_memory import SharedMemory

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What compilers and workers have from the supervisor; `server` makes what speaks HTTP/2."""

    supervisor: int
    settings: SidecarSettings
    shared: SharedMemory
    listeners: tuple[socket.socket, ...]
    server: ServerMaker


def run_template(orders: Channel, inheritance: Inheritance) -> None:
    """Fork a compiler for each order, until the supervisor has gone: what is read of the program is read once."""
    gc.freeze()
    reader = Reader(inheritance.settings, inheritance.shared)
    while (received := orders.receive()) is not None:
        match received:
            case StartCompiler() as job, [end, *source]:
                _fork_compiler(job, [end, *source], orders, inheritance, reader)
            case _, descriptors:
                for descriptor in descriptors:
                    os.close(descriptor)


def _fork_compiler(
    job: StartCompiler, descriptors: list[int], orders: Channel, inheritance: Inheritance, reader: Reader
) -> None:
    end, *source = descriptors

    def run() -> None:
        orders.close()
        _run_compiler(job, channel_from(end), source, inheritance, reader)

    try:
        if _reads_the_folder(job):
            reader.keep_running([orders.fileno(), *descriptors])
        fork_for(inheritance.supervisor, "authz-compiler", run)
    except OSError as error:
        _log.error("a compiler cannot be started: %s", error.strerror)
    for descriptor in descriptors:
        os.close(descriptor)


def _reads_the_folder(job: StartCompiler) -> bool:
    return not job.empty and not job.again


def _run_compiler(
    job: StartCompiler, supervisor: Channel, source: list[int], inheritance: Inheritance, reader: Reader
) -> None:
    supervisor.send(CompilerRuns(pid=os.getpid()))
    settings, clock = inheritance.settings, inheritance.shared.clock.around_ns
    sealed = empty_memory()
    try:
        result = _read_by(reader, job, sealed) if _reads_the_folder(job) else None
        reader.forget()
        if result is None:
            result = result_from_apart(_work(job, source, settings, clock), source=sealed, stands_back=job.serving)
    except SidecarError as error:
        if job.serving:
            raise  # by its end the supervisor knows that it is to be tried again
        faults = (f"{settings.policies}: {error}",)
        result = result_from_apart(
            lambda: compiled_kept(
                settings.policies, service=settings.service, state=settings.state, faults=faults, clock=clock
            ),
            source=sealed,
            stands_back=False,
        )
    if isinstance(result, Same):
        supervisor.send(SetSame())
        return
    if isinstance(result, Refused):
        supervisor.send(SetRefused(faults=tuple(map(cut, result.faults))))
        return
    gc.freeze()
    in_force = InForce()
    in_force.policy = PolicyInForce(index=result.index)
    supervisor.send(_said(result, settings.service), [sealed])
    os.close(sealed)
    _serve_forks(supervisor, in_force, inheritance)


def _read_by(reader: Reader, job: StartCompiler, sealed: int) -> Result | None:
    """Give what the reader makes of the folder; None where it cannot, and the folder is to be read here."""
    memory = empty_memory()
    if not reader.put_result(job, memory=memory, source=sealed):
        os.close(memory)
        return None
    return result_in(memory, stands_back=job.serving)


def _work(
    job: StartCompiler, source: list[int], settings: SidecarSettings, clock: Callable[[], int]
) -> Callable[[], Result]:
    if job.empty:
        return no_set
    if job.again and source:
        return lambda: compiled_again(source[0], service=settings.service, folder=settings.policies, clock=clock)
    return lambda: compiled_folder(
        settings.policies,
        service=settings.service,
        state=settings.state,
        in_force=job.digest,
        serving=job.serving,
        clock=clock,
    )


def _said(compiled: Compiled, service: str) -> SetCompiled:
    index = compiled.index
    return SetCompiled(
        revision=None if index is None else index.revision,
        digest=compiled.digest,
        faults=tuple(map(cut, compiled.faults)),
        renews=index is not None and index.exact_until_ns is not None,
        compiled_ns=compiled.compiled_ns,
        has_service=index is None or index.has_service(service),
        own=compiled.own.as_fields(),
    )


def _serve_forks(supervisor: Channel, in_force: InForce, inheritance: Inheritance) -> None:
    while (received := supervisor.receive()) is not None:
        match received:
            case ForkWorker() as order, _:
                _fork_worker(order, supervisor, in_force, inheritance)
            case _, _:
                pass


def _fork_worker(order: ForkWorker, supervisor: Channel, in_force: InForce, inheritance: Inheritance) -> None:
    cell = inheritance.shared.cells.cells[order.cell]

    def run() -> None:
        supervisor.close()
        # A worker that comes so late that its cell was given to another one is not wanted any more.
        if cell.ticket == order.ticket:
            run_worker(
                inheritance.settings,
                supervisor=inheritance.supervisor,
                shared=inheritance.shared,
                cell=cell,
                listener=inheritance.listeners[order.slot],
                in_force=in_force,
                server=inheritance.server,
            )

    try:
        fork_for(inheritance.supervisor, f"authz-worker-{order.slot + 1}", run)
    except OSError as error:
        _log.error("a worker cannot be started: %s", error.strerror)
