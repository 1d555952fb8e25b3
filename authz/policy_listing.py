"""Which files below a folder are policies, without reading them: what is read of it, and watched for changes.

Loads nothing of what reads policies: who only watches a folder stays small.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Final

from authz.policy.document import MAX_FILE_BYTES, MAX_FILES, MAX_SET_BYTES
from authz.policy.errors import PolicyError, quoted

SUFFIXES: Final = (".yaml", ".yml")
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


def policy_files(directory: str) -> tuple[FolderEntry, ...]:
    """List the policy files below a folder, sorted by path, without reading them; raises PolicyFolderError."""
    return files_of(folder_listing(directory))


def files_of(entries: tuple[FolderEntry, ...]) -> tuple[FolderEntry, ...]:
    """Give the files of a listing."""
    return tuple(entry for entry in entries if entry.is_file)


def folder_listing(directory: str) -> tuple[FolderEntry, ...]:
    """List policy files and the folders that they are in, sorted by path; raises PolicyFolderError."""
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
        raise PolicyFolderError(f"{directory}: {reason_of(error)}") from error
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
        raise PolicyFolderError(f"{path}: {reason_of(error)}") from error
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


def reason_of(error: OSError) -> str:
    """Say why the system refused."""
    return (error.strerror or "it cannot be read").lower()
