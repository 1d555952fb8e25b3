"""The process that a sidecar is to whoever started it: it makes the others, watches them, and does nothing else.

It has one thread, reads no policy and no certificate, and imports nothing large. From it come, by fork: the template
(which has read the program, and forks compilers, which fork workers), control and the hold. All are its children; each
is started anew alone. SIGTERM and SIGINT end the sidecar, checks under way are answered and records written; SIGHUP has
the decision log opened anew.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import time
from typing import TYPE_CHECKING, Final

from authz.sidecar.backoff import Backoff
from authz.sidecar.channel import (
    Channel,
    ControlFailed,
    ControlRuns,
    EndControl,
    FolderChanged,
    IdentityNotice,
    InForceChanged,
    OwnPolicyNotice,
    StartCompiler,
    StatusNotice,
    StatusWritten,
    channel_pair,
)
from authz.sidecar.check.native import native_server
from authz.sidecar.child_process import adopt_orphans, fork_child
from authz.sidecar.control.status_file import say_status
from authz.sidecar.control_seen import ControlSeen
from authz.sidecar.errors import SidecarError
from authz.sidecar.generations import Generations
from authz.sidecar.hold.hold_seen import HoldSeen
from authz.sidecar.latest_instant import opened_clock
from authz.sidecar.listening_socket import ListeningSocket, clear, worker_sockets
from authz.sidecar.record_ring import RingConsumer
from authz.sidecar.shared_memory import SharedMemory
from authz.zone_data import zone_data_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authz.sidecar.channel import Message
    from authz.sidecar.check.check_server import ServerMaker
    from authz.sidecar.settings import SidecarSettings

_log = logging.getLogger(__name__)

#: how often heartbeats are looked at
LOOK_S: Final = 0.1
#: how often the sockets are
SOCKETS_S: Final = 1.0
#: how long the status file is waited for before it is said what stands in it
STATUS_PATIENCE_S: Final = 1.0
#: checks under way at the end get so long, and control so long for the last records; together less than who started
#: the sidecar waits before it kills it
WORKERS_END_S: Final = 1.5
CONTROL_END_S: Final = 1.2
#: should control die of its last records, another one writes the rest
_LAST_CONTROLS: Final = 2


def supervise(settings: SidecarSettings, *, load: Callable[[], ServerMaker] = native_server) -> None:
    """Run a sidecar until SIGTERM or SIGINT; `load` gives what makes servers, and is called in another process."""
    listeners: list[ListeningSocket] = []
    try:
        if settings.hold_socket is not None:
            clear(settings.hold_socket)
        listeners.extend(ListeningSocket(path) for path in worker_sockets(settings.socket, settings.workers))
        Supervisor(settings, listeners=listeners, load=load).run()
    finally:
        for listener in listeners:
            listener.close()


class Supervisor:
    """An event loop over signals, channels and time."""

    def __init__(
        self, settings: SidecarSettings, *, listeners: list[ListeningSocket], load: Callable[[], ServerMaker]
    ) -> None:
        self._settings = settings
        self._listeners = listeners
        self._load = load
        self._shared = SharedMemory.for_workers(
            settings.workers,
            ring_bytes=settings.ring_bytes,
            holds=settings.hold_socket is not None,
            clock=opened_clock(settings),
        )
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._ending = self._reopening = False
        self._template: Channel | None = None
        self._template_pid = 0
        self._template_starts = Backoff()
        self._control: Channel | None = None
        self._control_pid = 0
        self._control_starts = Backoff()
        self._control_seen = ControlSeen()
        self._control_has_run = False
        self._hold = None if settings.hold_socket is None else HoldSeen(settings, self._shared)
        self._failure: SidecarError | None = None
        self._status: StatusNotice | None = None
        self._has_decided = False
        #: a workload without a source of its identity is whom the set says it is
        self._has_identity = settings.workload_api is None
        self._own_policy_sent: object = None
        self._in_force_sent = 0
        self._status_sent = self._status_said = 0
        self._status_due_s = 0.0
        self._generations = Generations(
            settings=settings,
            shared=self._shared,
            order=self._order_compiler,
            watch=self._watch,
            unwatch=self._unwatch,
            changed=self._changed,
        )

    def run(self) -> None:
        """Run until told to end; raises SidecarError where it cannot go on."""
        adopt_orphans()
        with self._signals():
            self._selector.register(self._woken, selectors.EVENT_READ, self._take_wakes)
            self._selector.register(self._shared.cells.bell.descriptor, selectors.EVENT_READ, self._take_told)
            look_s = sockets_s = time.monotonic()
            try:
                self._keep_running()
                while not self._ending and self._failure is None:
                    self._wait(max(0.0, look_s - time.monotonic()))
                    if (now_s := time.monotonic()) < look_s:
                        continue
                    # Never sooner, whatever woke it: who is looked at ten times in vain is hung.
                    look_s = now_s + LOOK_S
                    self._look()
                    if now_s - sockets_s >= SOCKETS_S:
                        sockets_s = now_s
                        self._require_sockets()
            finally:
                self._end()
        if self._failure is not None:
            raise self._failure

    # --- events

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        handlers = {
            signal.SIGTERM: self._told_to_end,
            signal.SIGINT: self._told_to_end,
            signal.SIGHUP: self._told_to_reopen,
            signal.SIGCHLD: lambda *_: None,
        }
        replaced = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in replaced.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before)

    def _told_to_end(self, *_: object) -> None:
        self._ending = True

    def _told_to_reopen(self, *_: object) -> None:
        self._reopening = True

    def _wait(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            key.data()
        self._reap()
        if self._hold is not None:
            self._hold.tell(self._generations.number)
        self._tell_in_force()

    def _take_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._woken.recv(4096):
                pass

    def _take_told(self) -> None:
        self._shared.cells.bell.answer()
        self._generations.look_at_phases()

    def _watch(self, channel: Channel, heard: Callable[[], None]) -> None:
        self._selector.register(channel.fileno(), selectors.EVENT_READ, heard)

    def _unwatch(self, channel: Channel) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(channel.fileno())

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
            if pid == self._template_pid:
                self._template_ended(how)
            elif pid == self._control_pid:
                self._control_ended(how)
            elif self._hold is not None and pid == self._hold.pid:
                self._hold.ended(how, expected=self._ending)
            else:
                self._generations.ended(pid, how)

    def _look(self) -> None:
        if self._reopening and self._control_pid:
            self._reopening = False
            os.kill(self._control_pid, signal.SIGHUP)
        self._generations.tick()
        self._look_at_control()
        self._look_at_hold()
        self._keep_running()
        self._tell_own_policy()
        self._tell_status()

    def _look_at_hold(self) -> None:
        if self._hold is None:
            return
        had_listened = self._hold.has_listened
        self._hold.look()
        if self._hold.has_listened and not had_listened and self._status is not None:
            self._changed()

    def _require_sockets(self) -> None:
        for listener in self._listeners:
            if not listener.is_reachable():
                raise SidecarError(f"{listener.path}: the socket was taken away; ending, so that a start makes it anew")

    # --- template and control

    def _keep_running(self) -> None:
        now_s = time.monotonic()
        if not self._control_pid and now_s >= self._control_starts.due_s:
            self._start_control()
        if not self._template_pid and now_s >= self._template_starts.due_s:
            self._start_template()
        if self._hold is not None and not self._ending:
            self._hold.keep_running(self._forget_in_hold)

    def _start_template(self) -> None:
        ours, theirs = channel_pair(second_waits=True)
        supervisor = os.getpid()

        def run() -> None:
            ours.close()
            self._forget_ours()
            gc.disable()  # what is loaded here stays; workers have the collector on again
            from authz.sidecar.compiler.compiler_process import Inheritance, run_template  # noqa: PLC0415 not here

            inheritance = Inheritance(
                supervisor=supervisor,
                settings=self._settings,
                shared=self._shared,
                listeners=tuple(listener.socket for listener in self._listeners),
                server=self._load(),
            )
            run_template(theirs, inheritance)

        self._template_pid = fork_child("authz-template", run)
        theirs.close()
        self._template = ours

    def _template_ended(self, how: str) -> None:
        if not self._ending:
            _log.error("the template of compilers %s; another one takes its place", how)
        self._template_pid = 0
        self._template_starts.ended(time.monotonic())
        if self._template is not None:
            self._template.close()
            self._template = None

    def _order_compiler(self, job: StartCompiler, end: int, source: int | None) -> bool:
        # Workers are to find the identity that control reads, and who cannot start is not to answer before it says so.
        if self._template is None or not self._control_has_run:
            return False
        return self._template.send(job, [end] if source is None else [end, source])

    def _start_control(self) -> None:
        ours, theirs = channel_pair(second_waits=False)
        supervisor = os.getpid()

        def run() -> None:
            ours.close()
            self._forget_ours()
            for listener in self._listeners:
                listener.socket.close()
            from authz.sidecar.control.control_process import run_control  # noqa: PLC0415 not here

            run_control(theirs, pid=supervisor, settings=self._settings, shared=self._shared)

        self._control_pid = fork_child("authz-control", run, outlives=True)
        theirs.close()
        self._control = ours
        self._control_seen.begins(self._shared.control_cell.beats)
        self._watch(ours, self._hear_control)

    def _control_ended(self, how: str) -> None:
        if not self._ending and self._failure is None:
            _log.error("control %s; another one takes its place, the workers go on", how)
        self._hear_control()
        self._control_pid = 0
        self._control_starts.ended(time.monotonic())
        if self._control is not None:
            self._unwatch(self._control)
            self._control.close()
            self._control = None
        self._own_policy_sent = None
        self._in_force_sent = 0
        # What it was told and has not done, its successor is told again.
        self._status_sent = self._status_said

    def _hear_control(self) -> None:
        while self._control is not None:
            try:
                received = self._control.receive()
            except BlockingIOError:
                return
            if received is None:
                self._unwatch(self._control)
                return
            self._take(received[0])

    def _take(self, message: Message) -> None:
        match message:
            case ControlRuns():
                self._control_runs()
            case ControlFailed(why=why):
                if self._control_has_run:
                    _log.error("%s", why)
                else:
                    self._failure = SidecarError(why)
            case FolderChanged():
                self._generations.look()
            case StatusWritten(serial=serial):
                self._say_status(serial)
            case IdentityNotice(usable=usable):
                if usable != self._has_identity:
                    self._has_identity = usable
                    self._changed()
            case _:
                pass

    def _control_runs(self) -> None:
        self._control_has_run = True
        if self._status is not None and self._control is not None:
            self._control.send(self._status)  # a successor is to know what is in force, too
        self._own_policy_sent = None
        self._in_force_sent = 0
        self._tell_own_policy()
        self._generations.look()

    def _look_at_control(self) -> None:
        if self._control_pid and self._control_seen.is_hung(self._shared.control_cell.beats):
            self._control_seen.begins(self._shared.control_cell.beats)
            _log.error("control is hung; it is killed")
            os.kill(self._control_pid, signal.SIGKILL)

    def _forget_in_hold(self) -> None:
        self._forget_ours()
        for listener in self._listeners:
            listener.socket.close()

    def _forget_ours(self) -> None:
        """Close, in a child, what only the supervisor is to hold: others notice its end by that."""
        for key in tuple(self._selector.get_map().values()):
            if key.fileobj not in (self._woken, self._shared.cells.bell.descriptor):
                os.close(key.fd)
        self._selector.close()
        if self._template is not None:
            self._template.close()
        if self._hold is not None:
            self._hold.forget()
        self._woken.close()
        self._wake.close()

    # --- status

    def _changed(self) -> None:
        """Take in that something else is in force, or is said of it."""
        revision = self._generations.revision
        self._status = StatusNotice(
            serial=(0 if self._status is None else self._status.serial) + 1,
            # A long call that comes before there is who holds it is refused.
            ready=revision is not None and self._has_identity and (self._hold is None or self._hold.has_listened),
            revision=revision,
            faults=self._generations.faults,
        )
        self._status_due_s = time.monotonic() + STATUS_PATIENCE_S
        if revision is not None and not self._has_decided:
            self._has_decided = True
            # Sidecars with one revision and different zones may disagree about hours: what they go by is to be seen.
            _log.info(
                "deciding for `%s` on %s, time zones of tzdata %s",
                self._settings.service,
                self._settings.socket,
                zone_data_version(),
            )
        self._tell_own_policy()
        self._tell_status()

    def _tell_in_force(self) -> None:
        number = self._generations.number
        if number != self._in_force_sent and self._control_has_run and self._control is not None:
            self._in_force_sent = number if self._control.send(InForceChanged(generation=number)) else 0

    def _tell_own_policy(self) -> None:
        own = self._generations.own_policy
        if own != self._own_policy_sent and self._control_has_run and self._control is not None:
            self._own_policy_sent = own if self._control.send(OwnPolicyNotice(own=own)) else None

    def _tell_status(self) -> None:
        status = self._status
        if status is None or status.serial == self._status_said or not self._control_has_run:
            return
        if self._status_sent != status.serial and self._control is not None and self._control.send(status):
            self._status_sent = status.serial
        if time.monotonic() >= self._status_due_s:
            self._say_status(status.serial)

    def _say_status(self, serial: int) -> None:
        """Tell who started the sidecar what stands in the status file by now, or would if it could be written."""
        status = self._status
        if status is not None and status.serial == serial != self._status_said:
            self._status_said = serial
            say_status(
                ready=status.ready,
                revision=status.revision,
                stale=bool(status.faults),
                has_identity=self._has_identity,
            )

    # --- the end

    def _end(self) -> None:
        self._ending = True
        for listener in self._listeners:
            listener.close()
        if self._hold is not None:
            self._hold.end()
        self._generations.end()
        self._wait_until(lambda: not self._generations.has_workers, WORKERS_END_S)
        self._generations.kill()
        self._wait_until(lambda: not self._generations.has_workers, LOOK_S)
        for _ in range(_LAST_CONTROLS):
            if not self._control_pid and self._control_has_run and self._has_records():
                self._start_control()
            if self._control is not None:
                self._control.send(EndControl())
                self._wait_until(lambda: not self._control_pid, CONTROL_END_S / _LAST_CONTROLS)
        for pid in filter(None, (self._control_pid, self._template_pid)):
            os.kill(pid, signal.SIGKILL)
        self._wait_until(lambda: not self._control_pid and not self._template_pid, LOOK_S)

    def _has_records(self) -> bool:
        return not all(RingConsumer(memory).is_empty for memory in self._shared.rings)

    def _wait_until(self, done: Callable[[], bool], seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while not done() and (left_s := until_s - time.monotonic()) > 0:
            self._wait(left_s)
