"""Policy files on disk: when a folder that changes is a set, and what stands in it.

# INVARIANT (stable): what is given was the folder's whole content at one time: a second listing after reading equals
# the first, and nothing in it changed for 200 ms before.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING, Final

from authz.policy.document import MAX_FILE_BYTES, SourceFile
from authz.policy.errors import Fault, FaultCode, PolicySetFaults, quoted
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.policy_listing import FolderEntry, PolicyFolderError, files_of, folder_listing, policy_files, reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence

#: A folder is used when nothing in it changed for so long.
QUIET_NS: Final = 200_000_000
#: A folder that never comes to rest is an error, not a reason to wait for ever.
MAX_WAIT_S: Final = 10.0


class ReadFiles:
    """Files as they were read last, so that an edit of one of ten thousand reads that one.

    # INVARIANT (at rest): what is not read again is what a listing says the same of, and what nothing had changed for
    200 ms when it was read: whatever changes it later gives it another time of change, which nobody can set back.
    """

    __slots__ = ("_files",)

    def __init__(self) -> None:
        self._files: dict[str, tuple[FolderEntry, SourceFile]] = {}

    def get(self, entry: FolderEntry) -> SourceFile | None:
        """Give a file that is as it was."""
        known = self._files.get(entry.path)
        return known[1] if known is not None and known[0] == entry else None

    def keep(self, entries: Sequence[FolderEntry], files: Sequence[SourceFile], read_ns: int) -> None:
        """Know these, which were read from then on, and no others."""
        self._files = {
            entry.path: (entry, file)
            for entry, file in zip(entries, files, strict=True)
            if max(entry.mtime_ns, entry.ctime_ns) <= read_ns - QUIET_NS
        }


def load_policy_folder(directory: str) -> PolicySet:
    """Read the policy set of a folder; raises PolicyFolderError, or PolicySetFaults for what stands in it."""
    files = read_policy_folder(directory)
    if not files:
        message = "the set has no Mesh: there is no `*.yaml` or `*.yml` file in the folder"
        raise PolicySetFaults([Fault(directory, 1, 1, message, FaultCode.REFERENCE)])
    return parse_policy_set(files)


def read_policy_folder(directory: str, known: ReadFiles | None = None) -> tuple[SourceFile, ...]:
    """Read every policy file below a folder, sorted by path; waits while the folder is being written.

    Files that are `known` are not read again, and those that are read are known afterwards.
    """
    deadline_s = time.monotonic() + MAX_WAIT_S
    while True:
        before = folder_listing(directory)
        read_ns = time.time_ns()
        files = _read(before, known)
        if (rests_ns := QUIET_NS if files is None else _rests_in_ns(before)) > 0:
            time.sleep(rests_ns / 1_000_000_000)
        # Only policy files count here: others may come and go beside them as they like.
        if files is not None and policy_files(directory) == files_of(before):
            if known is not None:
                known.keep(files_of(before), files, read_ns)
            return files
        if time.monotonic() > deadline_s:
            raise PolicyFolderError(f"{directory}: the folder changes all the time; no stable set could be read")


def _rests_in_ns(entries: tuple[FolderEntry, ...]) -> int:
    """Give when the newest change is old enough; a time in the future (a clock that was set back) says nothing."""
    now_ns = time.time_ns()
    newest_ns = max((entry.mtime_ns for entry in entries if entry.mtime_ns <= now_ns), default=0)
    return newest_ns + QUIET_NS - now_ns


def _read(entries: tuple[FolderEntry, ...], known: ReadFiles | None = None) -> tuple[SourceFile, ...] | None:
    """Read the files of a listing; None if one of them has gone meanwhile."""
    files = []
    for entry in entries:
        if not entry.is_file:
            continue
        if known is not None and (file := known.get(entry)) is not None:
            files.append(file)
            continue
        try:
            content = _content(entry.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PolicyFolderError(f"{entry.path}: {reason_of(error)}") from error
        files.append(SourceFile(path=entry.path, content=content))
    return tuple(files)


def _content(path: str) -> bytes:
    """Read a file without ever waiting for it: what was a file when it was listed may be a pipe by now."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:  # noqa: PTH123
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise PolicyFolderError(f"{quoted(path)} is no regular file")
        parts: list[bytes] = []
        left_bytes = MAX_FILE_BYTES + 1
        while left_bytes > 0:
            part = file.read(left_bytes)
            if part is None:  # it is one only by name, such as those of the kernel that deliver events
                raise PolicyFolderError(f"{quoted(path)} is no regular file: reading it would wait")
            if not part:
                break
            parts.append(part)
            left_bytes -= len(part)
        return b"".join(parts)
