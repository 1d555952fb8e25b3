"""The last good policy set, kept on disk so that a sidecar that restarts beside broken files still decides.

Kept are the source files as they were read; they are parsed again when they are needed. The file is replaced
atomically and synced: a crash leaves the old one or the new one.

INVARIANT (no way back): a set that comes into force is kept before anyone answers by it; where it cannot be kept the
one kept before is taken away, so that an older set does not come back at a restart with what this one takes away.
"""

from __future__ import annotations

import base64
import json
import logging
from typing import TYPE_CHECKING, Final

from authz.policy.document import SourceFile
from authz.sidecar.control.replaced_file import replace_file
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_log = logging.getLogger(__name__)

FILE_NAME: Final = "last-good.json"
MAX_BYTES: Final = 512 * 1024 * 1024


def keep(state: Path, files: Sequence[SourceFile]) -> None:
    """Keep a set that could be used; where the folder cannot be written none is kept, and it is logged."""
    content = [{"path": file.path, "content": base64.b64encode(file.content).decode()} for file in files]
    try:
        replace_file(state / FILE_NAME, json.dumps(content).encode())
    except SidecarError as error:
        # INVARIANT (no way back): without one, a restart beside broken files denies.
        _log.error("the set cannot be kept for a restart: %s", error)
        _forget(state)


def _forget(state: Path) -> None:
    try:
        (state / FILE_NAME).unlink(missing_ok=True)
    except OSError as error:
        _log.error("%s: an older set is still kept here: %s", state / FILE_NAME, error.strerror)


def kept(state: Path) -> tuple[SourceFile, ...] | None:
    """Give the files that were kept last, None where there are none that can be read."""
    path = state / FILE_NAME
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        entries = json.loads(path.read_bytes())
        return tuple(
            SourceFile(path=str(entry["path"]), content=base64.b64decode(entry["content"], validate=True))
            for entry in entries
        )
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
