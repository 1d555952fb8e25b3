"""Files that are there whole or not at all, whoever is killed when."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from pathlib import Path


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Put a file in place of another, whole or not at all, on disk when this returns."""
    draft = path.with_name(f"{path.name}.draft")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise SidecarError(f"{path}: cannot be written: {error.strerror}") from error
