"""Policy files on disk: which files below a folder are a set, and when a folder that changes is one.

# INVARIANT (stable): what is given was the folder's whole content at one time: a second listing after reading equals
# the first, and nothing in it changed for 200 ms before.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass
from typing import Final

from authz.policy.document import MAX_FILE_BYTES, MAX_SET_BYTES, SourceFile
from authz.policy.errors import Fault, FaultCode, PolicyError, PolicySetFaults, quoted
from authz.policy.policy_set import MAX_FILES, PolicySet, parse_policy_set

SUFFIXES: Final = (".yaml", ".yml")
#: A folder is used when nothing in it changed for so long.
QUIET_NS: Final = 200_000_000
#: A folder that never comes to rest is an error, not a reason to wait for ever.
MAX_WAIT_S: Final = 10.0
#: Folders within folders; deeper ones are a loop of links.
MAX_DEPTH: Final = 32


class PolicyFolderError(PolicyError):
    """A policy folder cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderEntry:
    """What a listing says of one file or folder: whatever is done to a file changes some of it."""

    path: str
    is_file: bool
    size_bytes: int
    mtime_ns: int
    inode: int


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
        before = _listing(directory)
        files = _read(before)
        if files is None or not _is_quiet(before):
            time.sleep(QUIET_NS / 1_000_000_000)
        # Only policy files count here: others may come and go beside them as they like.
        if files is not None and policy_files(directory) == _files(before):
            return files
        if time.monotonic() > deadline_s:
            raise PolicyFolderError(f"{directory}: the folder changes all the time; no stable set could be read")


def policy_files(directory: str) -> tuple[FolderEntry, ...]:
    """List the policy files below a folder, sorted by path, without reading them; raises PolicyFolderError."""
    return _files(_listing(directory))


def _files(entries: tuple[FolderEntry, ...]) -> tuple[FolderEntry, ...]:
    return tuple(entry for entry in entries if entry.is_file)


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
            raise PolicyFolderError(f"{entry.path}: {_reason(error)}") from error
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


def _listing(directory: str) -> tuple[FolderEntry, ...]:
    entries: list[FolderEntry] = []
    _list_into(entries, directory, 0)
    if sum(min(entry.size_bytes, MAX_FILE_BYTES) for entry in entries if entry.is_file) > MAX_SET_BYTES:
        raise PolicyFolderError(f"{directory}: more than {MAX_SET_BYTES} bytes of policies")
    return tuple(sorted(entries, key=lambda entry: entry.path))


def _list_into(entries: list[FolderEntry], directory: str, depth: int) -> None:
    try:
        # A folder's own time tells of files that have gone a moment ago.
        status = os.stat(directory)  # noqa: PTH116 a Path would be made and thrown away for each of 100,000 files
        entries.append(_entry(directory, status))
        with os.scandir(directory) as found:
            names = sorted(entry.name for entry in found)
    except FileNotFoundError as error:
        if depth:
            return  # it has gone since its parent was listed: the second listing will differ
        raise PolicyFolderError(f"{directory}: there is no such folder") from error
    except NotADirectoryError as error:
        raise PolicyFolderError(f"{directory}: a file; give the folder that the whole set is in") from error
    except OSError as error:
        raise PolicyFolderError(f"{directory}: {_reason(error)}") from error
    for name in names:
        if name.startswith("."):
            continue
        path = f"{directory.rstrip('/') or '/'}/{name}" if directory != "." else name
        _add(entries, path, name, depth)


def _add(entries: list[FolderEntry], path: str, name: str, depth: int) -> None:
    """Add a file, or what is in a folder; links to files are followed, links to folders are not."""
    try:
        if stat.S_ISDIR(os.lstat(path).st_mode):
            if depth >= MAX_DEPTH:
                raise PolicyFolderError(f"{path}: folders within more than {MAX_DEPTH} folders")
            _list_into(entries, path, depth + 1)
            return
        if not name.endswith(SUFFIXES):
            return
        status = os.stat(path)  # noqa: PTH116 same
    except FileNotFoundError as error:
        if os.path.islink(path):  # noqa: PTH114 same
            raise PolicyFolderError(f"{path}: a link to a file that is not there") from error
        return
    except OSError as error:
        raise PolicyFolderError(f"{path}: {_reason(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        if stat.S_ISDIR(status.st_mode):
            return
        raise PolicyFolderError(f"{quoted(path)} is no regular file")
    if len(entries) >= MAX_FILES:
        raise PolicyFolderError(f"{path}: more than {MAX_FILES} policy files")
    entries.append(_entry(path, status))


def _entry(path: str, status: os.stat_result) -> FolderEntry:
    return FolderEntry(
        path=path,
        is_file=stat.S_ISREG(status.st_mode),
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        inode=status.st_ino,
    )


def _reason(error: OSError) -> str:
    return (error.strerror or "it cannot be read").lower()
