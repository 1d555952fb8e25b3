"""Policy files on disk: when a folder that changes is a set, and what stands in it.

# INVARIANT (stable): what is given was the folder's whole content at one time: a second listing after reading equals
# the first, and nothing in it changed for 200 ms before.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Final

from authz.policy.document import MAX_FILE_BYTES, SourceFile
from authz.policy.errors import Fault, FaultCode, PolicySetFaults, quoted
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.policy_listing import FolderEntry, PolicyFolderError, files_of, folder_listing, policy_files, reason_of

#: A folder is used when nothing in it changed for so long.
QUIET_NS: Final = 200_000_000
#: A folder that never comes to rest is an error, not a reason to wait for ever.
MAX_WAIT_S: Final = 10.0


def load_policy_folder(directory: str) -> PolicySet:
    """Read the policy set of a folder; raises PolicyFolderError, or PolicySetFaults for what stands in it."""
    files = read_policy_folder(directory)
    if not files:
        message = "the set has no Mesh: there is no `*.yaml` or `*.yml` file in the folder"
        raise PolicySetFaults([Fault(directory, 1, 1, message, FaultCode.REFERENCE)])
    return parse_policy_set(files)


def read_policy_folder(directory: str) -> tuple[SourceFile, ...]:
    """Read every policy file below a folder, sorted by path; waits while the folder is being written."""
    deadline_s = time.monotonic() + MAX_WAIT_S
    while True:
        before = folder_listing(directory)
        files = _read(before)
        if files is None or not _is_quiet(before):
            time.sleep(QUIET_NS / 1_000_000_000)
        # Only policy files count here: others may come and go beside them as they like.
        if files is not None and policy_files(directory) == files_of(before):
            return files
        if time.monotonic() > deadline_s:
            raise PolicyFolderError(f"{directory}: the folder changes all the time; no stable set could be read")


def _is_quiet(entries: tuple[FolderEntry, ...]) -> bool:
    """Whether the newest change is old enough; a time in the future (a clock that was set back) says nothing."""
    now_ns = time.time_ns()
    return all(not now_ns - QUIET_NS < entry.mtime_ns <= now_ns for entry in entries)


def _read(entries: tuple[FolderEntry, ...]) -> tuple[SourceFile, ...] | None:
    """Read the files of a listing; None if one of them has gone meanwhile."""
    files = []
    for entry in entries:
        if not entry.is_file:
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
