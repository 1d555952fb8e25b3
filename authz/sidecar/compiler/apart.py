"""Compiling in a process of its own, which ends with it: what it needed is given back, and what it made comes densely.

Reading 10,000 policies leaves 100 MB of holes behind in the process that did it, and workers that are forked from it
would have them too. An index that is written down and read again by a fresh process takes 14 MB.
"""

from __future__ import annotations

import gc
import os
import pickle
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from authz.sidecar.child_process import fork_child
from authz.sidecar.compiler.compilation import Compiled
from authz.sidecar.compiler.policy_source import empty_memory, seal_source
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.compiler.compilation import Result

T = TypeVar("T")

#: how far back it stands while workers answer by the set before
_NICE: Final = 10


def result_from_apart(work: Callable[[], Result], *, source: int, stands_back: bool) -> Result:
    """Do some work apart and give its result, whose files are in `source` then; raises SidecarError where it dies."""
    memory = empty_memory()
    put_from_apart(work, memory=memory, source=source, stands_back=stands_back)
    return result_in(memory, stands_back=stands_back)


def put_from_apart(work: Callable[[], Result], *, memory: int, source: int, stands_back: bool) -> None:
    """Do some work apart and have its result in `memory`, its files in `source`; raises SidecarError where it dies."""
    pid = fork_apart(lambda: put_result(work(), memory=memory, source=source), stands_back=stands_back)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise SidecarError(f"compiling {f'was ended by signal {-code}' if code < 0 else 'failed'}")


def fork_apart(work: Callable[[], None], *, stands_back: bool) -> int:
    """Fork a process that does some work and ends; gives its pid."""

    def run() -> None:
        if stands_back:
            os.nice(_NICE)
        work()

    return fork_child("authz-compile", run)


def put_result(result: Result, *, memory: int, source: int) -> None:
    """Write a result down for another process, its files apart from it."""
    if isinstance(result, Compiled):
        seal_source(result.files, source)
        result = replace(result, files=())
    with open(memory, "wb", closefd=False) as file:
        pickle.dump(result, file, pickle.HIGHEST_PROTOCOL)


def result_in(memory: int, *, stands_back: bool) -> Result:
    """Read a result that another process has written down, and give its memory back."""
    try:
        return standing_back(lambda: _read(memory)) if stands_back else _read(memory)
    finally:
        os.close(memory)


def _read(memory: int) -> Result:
    # What is read are values without cycles, and all of them stay.
    gc.disable()
    with open(memory, "rb", closefd=False) as file:
        file.seek(0)
        result: Result = pickle.load(file)  # noqa: S301 written a moment ago, by ourselves, into memory without a name
    return result


def standing_back(work: Callable[[], T]) -> T:
    """Do some work at a lower priority, and come back at the own one.

    A process cannot take its own niceness back, and the workers that it forks next must not have it. Linux keeps one
    for each thread: the work is done in one that has ended when this returns.
    """
    results: list[T] = []

    def run() -> None:
        os.nice(_NICE)
        results.append(work())

    thread = threading.Thread(target=run, name="read")
    thread.start()
    thread.join()
    if not results:
        raise SidecarError("what was read cannot be used")
    return results.pop()
