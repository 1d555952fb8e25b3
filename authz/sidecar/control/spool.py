"""Batches on disk until the hub has them: whole or not at all, fsynced, bounded, in the order of their sequence.

    STATE/spool/<boot>-<sequence>-<decisions>-<allow|deny>.json.gz

A file's content is what is sent. Its name says which batch it is, how many decisions its flows count, and whether it
may be dropped: those that tell of allowed calls only may, the oldest first, and how many decisions went with them is
counted to the last one (:mod:`authz.sidecar.control.record_journal`). Those that tell of a deny never are: where they
fill the spool, it takes nothing more.

Written by control's main loop, read and emptied by the shipper in its services' loop: a lock guards the list.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from authz.sidecar.control.record_journal import RecordJournal

FOLDER: Final = "spool"
_NAME: Final = re.compile(
    r"(?P<boot>[0-9a-f]{32})-(?P<sequence>[0-9]{12})-(?P<decisions>[0-9]+)-(?P<kind>allow|deny)\.json\.gz", re.ASCII
)
_DRAFT: Final = "draft"
_DROPPED: Final = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledBatch:
    """A batch on disk; `decisions` are those that its flows count."""

    boot: str
    sequence: int
    decisions: int
    has_denies: bool
    size_bytes: int

    @property
    def name(self) -> str:
        """What its file is called."""
        kind = "deny" if self.has_denies else "allow"
        return f"{self.boot}-{self.sequence:012d}-{self.decisions}-{kind}.json.gz"


class Spool:
    """The folder; `journal` keeps count of what is dropped. Raises SidecarError where there can be none."""

    def __init__(self, state: Path, *, journal: RecordJournal, max_bytes: int) -> None:
        self._folder = state / FOLDER
        self._journal = journal
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._batches: list[SpooledBatch] = []
        #: the batch that is being sent: it is not dropped
        self._sending: str | None = None
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = sorted(entry.name for entry in self._folder.iterdir())
        except OSError as error:
            raise SidecarError(f"{self._folder}: there can be no spool: {error.strerror}") from error
        self._finish_drop(names)
        for name in names:
            found = _NAME.fullmatch(name)
            if found is not None:
                with contextlib.suppress(OSError):
                    self._batches.append(
                        SpooledBatch(
                            boot=found["boot"],
                            sequence=int(found["sequence"]),
                            decisions=int(found["decisions"]),
                            has_denies=found["kind"] == "deny",
                            size_bytes=(self._folder / name).stat().st_size,
                        )
                    )
            elif name == _DRAFT:
                self._unlink(name)

    @property
    def batches(self) -> tuple[SpooledBatch, ...]:
        """What waits, the oldest first."""
        with self._lock:
            return tuple(self._batches)

    @property
    def size_bytes(self) -> int:
        """What the batches have together."""
        with self._lock:
            return sum(batch.size_bytes for batch in self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    # --- control's main loop

    def put(self, written: Sequence[tuple[SpooledBatch, bytes]]) -> None:
        """Write batches, all of them or none; raises SidecarError where there is no room.

        They are on disk when this returns. Nobody sends them before `offer`.
        """
        self._make_room(sum(batch.size_bytes for batch, _ in written))
        put: list[str] = []
        try:
            for batch, content in written:
                self._write(batch.name, content)
                put.append(batch.name)
            self._sync()
        except OSError as error:
            for name in (*put, _DRAFT):
                self._unlink(name)
            raise SidecarError(f"{self._folder}: no batch can be written: {error.strerror}") from error

    def offer(self, batches: Sequence[SpooledBatch]) -> None:
        """Have batches sent that were put."""
        with self._lock:
            self._batches.extend(batches)

    def has_all(self, boot: str, first: int, last: int) -> bool:
        """Say whether these batches stand here, and take them away where some are missing."""
        with self._lock:
            found = [batch for batch in self._batches if batch.boot == boot and first <= batch.sequence <= last]
        if len(found) == last - first + 1:
            return True
        for batch in found:
            self.remove(batch)
        return False

    def _make_room(self, wanted_bytes: int) -> None:
        while True:
            with self._lock:
                used = sum(batch.size_bytes for batch in self._batches)
                if used + wanted_bytes <= self._max_bytes:
                    return
                droppable = next(
                    (batch for batch in self._batches if not batch.has_denies and batch.name != self._sending), None
                )
                if droppable is not None:
                    self._batches.remove(droppable)
            if droppable is None:
                raise SidecarError(f"{self._folder}: full: {used} of {self._max_bytes} bytes")
            self._drop(droppable)

    def _drop(self, batch: SpooledBatch) -> None:
        # A successor finds by the name whether it was: see _finish_drop.
        self._journal.begin_drop(batch.decisions)
        try:
            (self._folder / batch.name).rename(self._folder / _DROPPED)
        except OSError:
            self._journal.end_drop(dropped=False)
            return
        self._journal.end_drop(dropped=True)
        self._unlink(_DROPPED)

    def _finish_drop(self, names: Sequence[str]) -> None:
        if self._journal.drops:
            self._journal.end_drop(dropped=_DROPPED in names)
        self._unlink(_DROPPED)

    def _write(self, name: str, content: bytes) -> None:
        draft = self._folder / _DRAFT
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self._folder / name)

    def _sync(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # --- the shipper

    def next(self) -> SpooledBatch | None:
        """Give the oldest batch, which is not dropped from now on until another one is asked for."""
        with self._lock:
            batch = self._batches[0] if self._batches else None
            self._sending = None if batch is None else batch.name
        return batch

    def read(self, batch: SpooledBatch) -> bytes | None:
        """Give what is sent, None where it cannot be read."""
        try:
            return (self._folder / batch.name).read_bytes()
        except OSError:
            return None

    def remove(self, batch: SpooledBatch) -> None:
        """Forget a batch that the hub has."""
        self._unlink(batch.name)
        with self._lock, contextlib.suppress(ValueError):
            self._batches.remove(batch)

    def set_aside(self, batch: SpooledBatch) -> None:
        """Keep the newest batch that the hub refused for good as `refused`, for who looks into why."""
        with contextlib.suppress(OSError):
            (self._folder / batch.name).rename(self._folder / "refused.json.gz")
        self.remove(batch)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._folder / name).unlink(missing_ok=True)
