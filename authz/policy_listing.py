"""Which files below a folder are policies, without reading them: what is read of it, and watched for changes.

Loads nothing of what reads policies: who only watches a folder stays small.
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from authz.policy.document import MAX_FILE_BYTES, MAX_FILES, MAX_SET_BYTES
from authz.policy.errors import PolicyError, quoted

SUFFIXES: Final = (".yaml", ".yml")
#: Folders within folders; deeper ones are a loop of links.
MAX_DEPTH: Final = 32


class PolicyFolderError(PolicyError):
    """A policy folder cannot be read."""


class FolderEntry(NamedTuple):
    """What a listing says of one file or folder: whatever is done to a file changes some of it.

    Nobody can set `ctime_ns` back, as `mtime_ns` can be. A tuple, as thousands are made and compared for each edit.
    """

    path: str
    is_file: bool
    size_bytes: int
    mtime_ns: int
    ctime_ns: int
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
    if depth > MAX_DEPTH:
        raise PolicyFolderError(f"{directory}: folders within more than {MAX_DEPTH} folders")
    above = "" if directory == "." else f"{directory.rstrip('/') or '/'}/"
    for name, is_folder in _names_in(entries, directory, depth):
        if name.startswith("."):
            continue
        if is_folder:
            _list_into(entries, above + name, depth + 1)
        elif name.endswith(SUFFIXES):
            _add(entries, above + name)


def _names_in(entries: list[FolderEntry], directory: str, depth: int) -> list[tuple[str, bool]]:
    """Add a folder; give the names in it in their order, and whether they are folders', but not links to any."""
    try:
        # A folder's own time tells of files that have gone a moment ago.
        status = os.stat(directory)  # noqa: PTH116 a Path would be made and thrown away for each of 100,000 files
        entries.append(_entry(directory, status))
        with os.scandir(directory) as found:
            # Most file systems say with a name whether it is a folder's.
            return sorted((each.name, each.is_dir(follow_symlinks=False)) for each in found)
    except (FileNotFoundError, NotADirectoryError) as error:
        if depth:
            return []  # it has gone since its parent was listed: the second listing will differ
        if isinstance(error, FileNotFoundError):
            raise PolicyFolderError(f"{directory}: there is no such folder") from error
        raise PolicyFolderError(f"{directory}: a file; give the folder that the whole set is in") from error
    except OSError as error:
        raise PolicyFolderError(f"{directory}: {reason_of(error)}") from error


def _add(entries: list[FolderEntry], path: str) -> None:
    """Add a file; links to files are followed, links to folders are not."""
    try:
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
        ctime_ns=status.st_ctime_ns,
        inode=status.st_ino,
    )


def reason_of(error: OSError) -> str:
    """Say why the system refused."""
    return (error.strerror or "it cannot be read").lower()
