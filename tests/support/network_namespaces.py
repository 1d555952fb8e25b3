"""Two networks of our own, joined by a cable: a machine inside, and everything else outside. Linux, and root, only.

The calling thread enters a namespace, and whatever it opens or starts there stays there. Both end with the process that
holds them, and the cable with them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLONE_NEWNET: Final = 0x40000000  # sched.h
_CABLE: Final = ("inside0", "outside0")

NEEDS_ROOT: Final = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None,
    reason="network namespaces need root, and the programs ip and unshare",
)


class Namespace:
    """A network namespace, with a process in it that does nothing else than to keep it."""

    def __init__(self) -> None:
        # `cat` ends with this process, which holds the other end of its input.
        self._keeper = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo there; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == b"there\n", "no network namespace"
        self.pid = self._keeper.pid
        with self.entered():
            _ip("link set lo up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[Self]:
        """Be in it, in this thread."""
        with Path("/proc/thread-self/ns/net").open() as before, Path(f"/proc/{self.pid}/ns/net").open() as there:
            _enter(there.fileno())
            try:
                yield self
            finally:
                _enter(before.fileno())

    def close(self) -> None:
        self._keeper.communicate()


class InsideAndOutside:
    """`inside` has one address of each version, on a cable to `outside`, which is the way to everywhere."""

    ADDRESSES: Final = ("198.51.100.2", "2001:db8:ffff::2")

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.inside, self.outside = Namespace(), Namespace()
            stack.callback(self.inside.close)
            stack.callback(self.outside.close)
            _ip(
                f"link add {_CABLE[0]} netns {self.inside.pid} type veth peer name {_CABLE[1]} netns {self.outside.pid}"
            )
            for namespace, device, host in ((self.outside, _CABLE[1], 1), (self.inside, _CABLE[0], 2)):
                with namespace.entered():
                    _ip(f"link set {device} up")
                    _ip(f"address add 198.51.100.{host}/24 dev {device}")
                    _ip(f"-6 address add 2001:db8:ffff::{host}/64 dev {device} nodad")
            with self.inside.entered():
                _ip("route add default via 198.51.100.1")
                _ip("-6 route add default via 2001:db8:ffff::1")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def give(namespace: Namespace, address: str) -> None:
    """Give a namespace one more address."""
    with namespace.entered():
        if ":" in address:
            _ip(f"-6 address add {address}/128 dev lo nodad")
        else:
            _ip(f"address add {address}/32 dev lo")


def _ip(words: str) -> None:
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {words}: {done.stderr}"


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
