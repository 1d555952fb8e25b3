"""What processes cost, told by the kernel: CPU, memory, and which of a server's processes holds whose connection."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
#: proc(5), /proc/PID/stat, counted from the field after the name: ppid; utime, stime, cutime, cstime
_PARENT, _TIMES = 1, slice(11, 15)
#: a socket's state in /proc/net/unix
_CONNECTED = "03"
_BETWEEN_LOOKS_S = 0.25


def family(root: int) -> tuple[int, ...]:
    """Give a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[_PARENT]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return tuple(found)


def cpu_s(pids: Iterable[int]) -> float:
    """Give the CPU seconds of processes and of those of their children that have ended."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            ticks += sum(map(int, _stat(pid)[_TIMES]))
    return ticks / CLOCK_TICKS


def rss_mb(pid: int) -> float:
    """Give what a process has in memory, shared pages included."""
    return _memory_mb(pid, "status", "VmRSS")


def own_mb(pids: Iterable[int]) -> float:
    """Give the memory of processes, what several share divided among them (PSS)."""
    return sum(_memory_mb(pid, "smaps_rollup", "Pss") for pid in pids)


def answering(pids: Iterable[int], sockets: Iterable[str]) -> tuple[int, ...]:
    """Give those processes that hold an accepted connection of one of these unix sockets: the ones that answer."""
    wanted = set(sockets)
    rows = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    inodes = {f"socket:[{row[6]}]" for row in rows if len(row) > 7 and row[5] == _CONNECTED and row[7] in wanted}
    return tuple(pid for pid in pids if inodes & _descriptors(pid))


def pin(pids: Iterable[int], core: int) -> None:
    """Let every thread of these processes run on one core."""
    for pid in pids:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread.name), {core})


class MemoryWatch:
    """Remembers the most that a process and its descendants have had together while the context lasts."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)
        self.before_mb = own_mb(family(root))
        self.most_mb = self.before_mb

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_BETWEEN_LOOKS_S):
            self.most_mb = max(self.most_mb, own_mb(family(self._root)))


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _memory_mb(pid: int, file: str, name: str) -> float:
    try:
        text = Path(f"/proc/{pid}/{file}").read_text()
    except OSError:
        return 0.0
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return 0.0 if found is None else int(found[1]) / 1024


def _descriptors(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(each.readlink()))
    return found
