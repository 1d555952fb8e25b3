"""What the processes of a sidecar say to each other: whole messages over a socket pair, with descriptors where needed.

The messages are values; their form on the wire is JSON and never leaves the machine. A channel whose other end has
gone gives None: that is how the end of a process is noticed by those that are not its parent.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: a set's faults are the longest message: at most 51 of them, cut to MAX_TEXT_CHARACTERS
MAX_MESSAGE_BYTES: Final = 160 * 1024
MAX_TEXT_CHARACTERS: Final = 1000
_MAX_DESCRIPTORS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StartCompiler:
    """Supervisor -> template, with the compiler's end of a channel, and the source in force where `again`.

    Compiler -> reader, with the memory for the result, that for its source, and where to say that it is there.

    `again`: compile that source and look at no folder. `empty`: no set at all, so that there is somebody who denies.
    `digest` is the one of the source in force, "" where there is none. `serving`: workers answer already, so that
    faults change nothing and the work is not urgent.
    """

    again: bool
    empty: bool
    serving: bool
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilerRuns:
    """Compiler -> supervisor: which process it is."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSame:
    """Compiler -> supervisor: the folder holds what is in force; it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRefused:
    """Compiler -> supervisor: why what stands in the folder cannot be used; it ends."""

    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetCompiled:
    """Compiler -> supervisor, with the sealed source: it waits for orders to fork workers.

    `revision` is None where it holds no set, and then its workers deny. `faults` say why the folder's own set is not
    the one that was compiled. `renews`: the set has recurring hours, compiled around `compiled_ns`. `own` is what the
    set says of the sidecar's own identity and trust (:meth:`OwnPolicy.as_fields`).
    """

    revision: str | None
    digest: str
    faults: tuple[str, ...]
    renews: bool
    compiled_ns: int
    has_service: bool
    own: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkWorker:
    """Supervisor -> compiler: fork the worker of socket number `slot`, into a cell that is kept for `ticket`."""

    slot: int
    cell: int
    ticket: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlRuns:
    """Control -> supervisor: it has what it needs, and the identity can be read by the workers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlFailed:
    """Control -> supervisor: what it cannot do without."""

    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderChanged:
    """Control -> supervisor: the policy folder may hold something else than before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusNotice:
    """Supervisor -> control: what is to stand in the status file."""

    serial: int
    ready: bool
    revision: str | None
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPolicyNotice:
    """Supervisor -> control: what the set in force says of the sidecar's own identity and trust."""

    own: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityNotice:
    """Control -> supervisor: whether the workload has an identity that can be used now."""

    usable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InForceChanged:
    """Supervisor -> hold, control: what decides is another than before, in workers of this generation or later."""

    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EndControl:
    """Supervisor -> control: nobody answers any more; write the last records, then end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusWritten:
    """Control -> supervisor: that notice stands in the status file."""

    serial: int


Message = (
    StartCompiler
    | CompilerRuns
    | SetSame
    | SetRefused
    | SetCompiled
    | ForkWorker
    | ControlRuns
    | ControlFailed
    | FolderChanged
    | StatusNotice
    | StatusWritten
    | OwnPolicyNotice
    | IdentityNotice
    | EndControl
    | InForceChanged
)
_KINDS: Final[dict[str, type[Message]]] = {
    kind.__name__: kind
    for kind in (
        StartCompiler,
        CompilerRuns,
        SetSame,
        SetRefused,
        SetCompiled,
        ForkWorker,
        ControlRuns,
        ControlFailed,
        FolderChanged,
        StatusNotice,
        StatusWritten,
        OwnPolicyNotice,
        IdentityNotice,
        EndControl,
        InForceChanged,
    )
}


class Channel:
    """One end of a pair; each message is one datagram, kept in order."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        """Give the descriptor, for who waits for several things."""
        return self._end.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> bool:
        """Send a message; False where the other end has gone, or (for an end that does not wait) does not read."""
        values: dict[str, Any] = {field.name: getattr(message, field.name) for field in fields(message)}
        content = json.dumps([type(message).__name__, values]).encode()
        try:
            socket.send_fds(self._end, [content], descriptors)
        except OSError:
            return False
        return True

    def receive(self) -> tuple[Message, list[int]] | None:
        """Take the next message with its descriptors, None at the end; raises BlockingIOError where there is none."""
        try:
            content, descriptors, _, _ = socket.recv_fds(
                self._end, MAX_MESSAGE_BYTES, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return None
        if not content:
            return None
        kind, values = json.loads(content)
        values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return _KINDS[kind](**values), descriptors

    def give(self) -> int:
        """Give the descriptor away; the channel is used no more."""
        return self._end.detach()

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def channel_pair(*, second_waits: bool) -> tuple[Channel, Channel]:
    """Give the two ends of a channel: the first never waits for the other, the second does where it is to."""
    try:
        first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    except OSError as error:
        raise SidecarError(f"no channel can be made: {error.strerror}") from error
    first.setblocking(False)
    second.setblocking(second_waits)
    return Channel(first), Channel(second)


def channel_from(descriptor: int) -> Channel:
    """Take an end over that another process gave away."""
    return Channel(socket.socket(fileno=descriptor))


def cut(text: str) -> str:
    """Give a text as long as a message may carry it."""
    return text if len(text) <= MAX_TEXT_CHARACTERS else text[: MAX_TEXT_CHARACTERS - 1] + "…"
