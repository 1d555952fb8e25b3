"""Policy files are replaced as a whole or not at all, and only if nobody else has changed them meanwhile.

A link stays one, and what it leads to is replaced; the file keeps its mode and its owner.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from authz.policy.errors import PolicyError, printable

if TYPE_CHECKING:
    from authz.policy.document import SourceFile


class PolicyFileError(PolicyError):
    """A policy file cannot be replaced; it is as it was."""


def replace_policy_file(file: SourceFile, content: bytes) -> None:
    """Put a new content in place of a file's, on disk when this returns; raises PolicyFileError."""
    target = Path(file.path).resolve()
    # The name begins with a dot: nobody who reads the folder meanwhile takes it for a policy.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        if target.read_bytes() != file.content:
            raise PolicyFileError(f"{printable(file.path)}: the file was changed meanwhile; run it again")
        with temporary.open("xb") as new:
            facts, own = target.stat(), os.fstat(new.fileno())
            if (facts.st_uid, facts.st_gid) != (own.st_uid, own.st_gid):
                os.fchown(new.fileno(), facts.st_uid, facts.st_gid)
            os.fchmod(new.fileno(), facts.st_mode & 0o7777)
            new.write(content)
            new.flush()
            os.fsync(new.fileno())
        temporary.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise PolicyFileError(
            f"{printable(file.path)}: {(error.strerror or 'it cannot be written').lower()}"
        ) from error
    finally:  # also where Ctrl-C ends it
        with contextlib.suppress(OSError):
            temporary.unlink()


def _sync(folder: Path) -> None:
    """Have the new name on disk; what has no folders to sync is left to its own ways."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
