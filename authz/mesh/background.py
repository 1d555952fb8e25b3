"""A mesh without a terminal: how its supervisor is started as a daemon, and how it says that it is ready.

The starter holds one end of a socket pair, the supervisor the other. Over it the supervisor reports one JSON object a
line: progress, then ready or failed. Until it is ready, and for a leashed mesh for its whole life, the end of the
starter's end stops it: whatever starts a mesh and is killed leaves none behind.

The supervisor keeps the current folder, because policy folders are named relative to it, and has a session of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from authz.errors import AuthzError
from authz.mesh.errors import MeshStartError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from authz.mesh.settings import MeshSettings

_PROGRESS, _READY, _FAILED = "progress", "ready", "failed"
#: faults of a large policy set are many lines
_MAX_REPORT_BYTES: Final = 4 * 1024 * 1024


class Leash:
    """The supervisor's end: it reports there, and notices when nobody holds the other end any more."""

    def __init__(self, end: socket.socket, *, for_life: bool) -> None:
        self._end: socket.socket | None = end
        self._for_life = for_life
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, loop: asyncio.AbstractEventLoop, let_go: Callable[[], object]) -> None:
        """Call `let_go` when the starter has gone."""
        if self._end is not None:
            self._loop = loop
            loop.add_reader(self._end, self._hear, let_go)

    def progress(self, text: str) -> None:
        """Report what has happened, while somebody waits for the mesh to be ready."""
        self._send(_PROGRESS, text)

    def ready(self, text: str) -> None:
        """Report that everything serves; nobody reads what comes after."""
        self._send(_READY, text)
        if self._end is None:
            return
        if self._for_life:
            with contextlib.suppress(OSError):
                self._end.shutdown(socket.SHUT_WR)
        else:
            self._unwatch()
            self._end.close()
            self._end = None

    def failed(self, text: str) -> None:
        """Report why there is no mesh."""
        self._send(_FAILED, text)

    def _hear(self, let_go: Callable[[], object]) -> None:
        try:
            said = b"" if self._end is None else self._end.recv(1)
        except OSError:
            said = b""
        if not said:
            self._unwatch()
            let_go()

    def _unwatch(self) -> None:
        if self._loop is not None and self._end is not None:
            self._loop.remove_reader(self._end)

    def _send(self, kind: str, text: str) -> None:
        with contextlib.suppress(OSError):
            if self._end is not None:
                self._end.sendall(json.dumps({"kind": kind, "text": text}).encode() + b"\n")


def start_in_background(
    settings: MeshSettings, *, for_life: bool, report: Callable[[str], None]
) -> socket.socket | None:
    """Start a mesh as a daemon and wait until it is ready; raises MeshStartError that says why it is not.

    With `for_life` the mesh stops when the socket that is given back is closed, or its holder ends.
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            _spawn(settings, theirs.fileno(), for_life=for_life)
        _wait(ours, report)
    except BaseException:
        # Let go of the leash and see the mesh out: it closes its end when everything has gone.
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_WR)
            while ours.recv(65536):
                pass
        ours.close()
        raise
    if for_life:
        return ours
    ours.close()
    return None


def _spawn(settings: MeshSettings, leash: int, *, for_life: bool) -> None:
    arguments = ["--policies", settings.policies, "--leash", str(leash), *(["--for-life"] if for_life else [])]
    if settings.state is not None:
        arguments += ["--state", settings.state]
    for name in settings.only:
        arguments += ["--only", name]
    if settings.unsafe_clock_file is not None:
        arguments += ["--unsafe-clock-file", settings.unsafe_clock_file]
    if settings.accept_clock:
        arguments += ["--accept-clock"]
    if not settings.hub:
        arguments.append("--no-hub")
    # This process ends at once: the daemon is its child, and nobody's to wait for.
    spawned = subprocess.run(  # noqa: S603 our own program, no shell
        [sys.executable, "-P", "-m", "authz.mesh.background", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=(leash,),
        check=False,
    )
    if spawned.returncode:
        last = spawned.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise MeshStartError(f"the mesh's supervisor cannot be started: {last}")


def _wait(ours: socket.socket, report: Callable[[str], None]) -> None:
    for line in _lines(ours):
        message = json.loads(line)
        report(message["text"]) if message["kind"] != _FAILED else None
        if message["kind"] == _READY:
            return
        if message["kind"] == _FAILED:
            raise MeshStartError(message["text"])
    raise MeshStartError("the mesh's supervisor has ended without a word")


def _lines(ours: socket.socket) -> Iterator[bytes]:
    received = b""
    while data := ours.recv(65536):
        received += data
        *lines, received = received.split(b"\n")
        yield from lines
        if len(received) > _MAX_REPORT_BYTES:
            return


def main() -> None:
    """Run a mesh's supervisor as a daemon: `python -m authz.mesh.background`, started by `start_in_background`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--policies", required=True)
    parser.add_argument("--state")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--unsafe-clock-file")
    parser.add_argument("--accept-clock", action="store_true")
    parser.add_argument("--no-hub", action="store_true")
    parser.add_argument("--leash", required=True, type=int)
    parser.add_argument("--for-life", action="store_true")
    given = parser.parse_args()
    if os.fork():
        os._exit(0)  # no session leader: the daemon can never get a terminal
    # The starter reads the error output of this module's first lines, up to here.
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 a device, no path
        os.dup2(nowhere.fileno(), 2)
    with socket.socket(fileno=given.leash) as end:
        leash = Leash(end, for_life=given.for_life)
        os.set_inheritable(given.leash, False)
        try:
            from authz.mesh.settings import MeshSettings  # noqa: PLC0415 the starter waits until here
            from authz.mesh.supervisor import supervise  # noqa: PLC0415 as above

            settings = MeshSettings(
                policies=given.policies,
                state=given.state,
                only=tuple(given.only),
                unsafe_clock_file=given.unsafe_clock_file,
                accept_clock=given.accept_clock,
                hub=not given.no_hub,
            )
            supervise(settings, leash, leash=leash, takes_output=True)
        except AuthzError as error:
            leash.failed(str(error))
        except Exception as error:
            leash.failed(f"a fault of the program: {type(error).__name__}: {error}")
            raise


if __name__ == "__main__":
    main()
