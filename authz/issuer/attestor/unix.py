"""What the kernel says of a process: its user and group when it connected, and the program that it runs.

`uid` and `gid` are those of the moment at which it connected. `path` and `sha256` are those of the program that runs
now, read through one descriptor of /proc/PID/exe, so that both are of the same file. A path counts only if that very
file stands there in our own file system: a process in another mount namespace may give its program any path it likes.

`path` and `sha256` say which program a user runs. They are no wall between programs of the same user, who may start one
with a library of his own, or trace it: for that, give each workload a user, and name it.

# INVARIANT (one process): facts are read while the peer's pidfd is held, and count only if the peer lives afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import stat
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.issuer.errors import AttestationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from authz.issuer.registration import Registration
    from authz.policy.evidence_fields import UnixProcess
    from authz.workload_api.peer import Peer

#: the largest programs that are linked into one file have a few hundred MiB
MAX_PROGRAM_BYTES: Final = 2 * 1024 * 1024 * 1024
#: programs whose digests are remembered
_MAX_REMEMBERED: Final = 256
_PART_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class _FileState:
    """Whatever is done to a file's content changes some of it: the kernel sets `ctime_ns` and nobody else can."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int


class UnixAttestor:
    """Attests processes by `attest: [{unix: ...}]`; digests are remembered as long as their file is the same."""

    def __init__(self, *, proc: str = "/proc") -> None:
        self._proc = proc
        self._digests: OrderedDict[_FileState, str] = OrderedDict()
        # One at a time: whoever starts large programs delays others' first digests, and nothing else.
        self._hashing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sha256")

    @property
    def name(self) -> str:
        """What it is called in records."""
        return "unix"

    async def services(self, peer: Peer, candidates: Sequence[Registration]) -> frozenset[str]:
        """Give the candidates one of whose `unix` entries holds in every field."""
        found: set[str] = set()
        program: _Program | None = None
        for registration in candidates:
            for selector in (each.unix for each in registration.attest if each.unix is not None):
                # The cheap fields first: nobody has a program read for him whose user is another one anyway.
                if selector.uid not in {None, peer.uid} or selector.gid not in {None, peer.gid}:
                    continue
                if selector.path is not None or selector.sha256 is not None:
                    program = program or self._program(peer)
                    if not await self._runs(program, selector):
                        continue
                found.add(registration.service)
                break
        # INVARIANT (one process). A peer without a pid has told nothing that was read from /proc.
        if program is not None and not peer.lives():
            raise AttestationError("the process has ended")
        return frozenset(found)

    def _program(self, peer: Peer) -> _Program:
        if not peer.pid:
            raise AttestationError("the process is in another pid namespace, so its program cannot be known")
        try:
            return _Program(f"{self._proc}/{peer.pid}/exe")
        except FileNotFoundError as error:
            raise AttestationError("the process has ended") from error
        except OSError as error:
            raise AttestationError(
                f"its program cannot be seen ({(error.strerror or '').lower()}): the issuer needs to be root, to have"
                " CAP_SYS_PTRACE, or to be the same user"
            ) from error

    async def _runs(self, program: _Program, selector: UnixProcess) -> bool:
        if selector.path is not None and not program.is_at(selector.path):
            return False
        return selector.sha256 is None or selector.sha256.lower() == await self._digest(program)

    async def _digest(self, program: _Program) -> str:
        state = program.state()
        known = self._digests.get(state)
        if known is not None:
            self._digests.move_to_end(state)
            return known
        if state.size_bytes > MAX_PROGRAM_BYTES:
            raise AttestationError(f"its program has more than {MAX_PROGRAM_BYTES} bytes")
        try:
            digest = await asyncio.get_running_loop().run_in_executor(self._hashing, program.sha256)
        except OSError as error:
            raise AttestationError(f"its program cannot be read: {(error.strerror or '').lower()}") from error
        if program.state() != state:
            raise AttestationError("its program changed while it was read")
        self._digests[state] = digest
        while len(self._digests) > _MAX_REMEMBERED:
            self._digests.popitem(last=False)
        return digest


class _Program:
    """The file that a process runs, by one descriptor that neither an exec nor a rename can change."""

    def __init__(self, link: str) -> None:
        # O_PATH: a program may be executable and not readable; which file it is can be told all the same.
        self._fd = os.open(link, os.O_PATH | os.O_CLOEXEC)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._fd)

    def is_at(self, path: str) -> bool:
        """Whether the kernel knows this file by this path, and this very file stands there for us, too."""
        if os.readlink(f"/proc/self/fd/{self._fd}") != path:  # noqa: PTH115 beside its open
            return False
        try:
            there = os.stat(path)  # noqa: PTH116 beside its fstat
        except OSError:
            return False
        mine = os.fstat(self._fd)
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def state(self) -> _FileState:
        """Say which file it is, and in which state."""
        found = os.fstat(self._fd)
        return _FileState(
            device=found.st_dev,
            inode=found.st_ino,
            size_bytes=found.st_size,
            mtime_ns=found.st_mtime_ns,
            ctime_ns=found.st_ctime_ns,
        )

    def sha256(self) -> str:
        """Give the digest of its content, in hex; raises OSError."""
        digest = hashlib.sha256()
        for part in self._parts():
            digest.update(part)
        return digest.hexdigest()

    def _parts(self) -> Iterator[bytes]:
        # The same file, opened for reading: the link leads to the descriptor's file, whatever its name is by now.
        with open(  # noqa: PTH123 a descriptor
            os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0
        ) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(0, "no regular file")
            while part := file.read(_PART_BYTES):
                yield part
