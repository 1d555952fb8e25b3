"""Who was refused, in a file: one line of JSON for each, and the file before it when it has grown.

DATA/refused.jsonl  DATA/refused.jsonl.1
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

#: some ten thousand refusals; whoever tries on and on fills no disk
MAX_BYTES: Final = 8 * 1024 * 1024


class Refusals:
    """Writes lines; for any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.count = 0

    def write(self, line: bytes) -> None:
        """Append a line; a disk that is full is no reason to answer nobody."""
        with self._lock:
            self.count += 1
            try:
                descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "ab") as file:
                    file.write(line)
                    size = file.tell()
                if size > MAX_BYTES:
                    self._path.replace(self._path.with_name(self._path.name + ".1"))
            except OSError as error:
                _log.error("a refusal cannot be written down: %s", error.strerror)
