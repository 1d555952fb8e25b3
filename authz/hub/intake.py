"""Takes batches from sidecars: one thread reads them, one adds them, and only what is on disk is said to be stored.

Whatever has been read when the store is free is added in one transaction, with one sync of the disk: many sidecars cost
little more than one. In between, what was added is tidied up. While the store works it does not hold Python's lock, and
the next batches are read.

# INVARIANT (after the commit): nobody is told that a batch is stored before it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.hub.arrival import Arrival, ArrivalReader
from authz.hub.arrival_time import MAX_AHEAD_S, timed
from authz.hub.errors import ArrivalError, NotItsOwnError, StoreError
from authz.hub.own_side import own_side
from authz.instant import NS_PER_MS, NS_PER_S
from authz.records.batch import MAX_BATCH_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz.hub.own_side import Sender
    from authz.hub.store.store import Store

_log = logging.getLogger(__name__)

#: Batches that wait to be read, and their bytes as they came; more are told to come again. Two from each of 200
#: sidecars, or the 64 largest that there can be.
MAX_WAITING: Final = 400
MAX_WAITING_BYTES: Final = 64 * MAX_BATCH_BYTES
#: batches that were read and wait for the disk
_READ_AHEAD: Final = 32
#: how long after the last batch what it brought is tidied up, if nothing comes
_TIDY_AFTER_S: Final = 0.2
#: how long it waits at most while more comes
_UNTIDY_S: Final = 1.0
#: rows that may wait before intake itself stops for a moment: each question has to read them
_MOST_UNTIDY_ROWS: Final = 10_000
#: a disk that is full may have room again
_AGAIN_S: Final = 1.0
_WINDOW_BITS_OF_GZIP: Final = 31


@dataclass(slots=True, kw_only=True)
class IntakeCounts:
    """What came of what was sent, since the hub started.

    `ahead`: decisions and records that were dated further ahead than clocks may be, and are kept under the time at
    which they came; `too_old`: those that are not added, because what is so old is not kept; `foreign`: those of
    another Service than the sender's, which are not added either.
    """

    batches: int = 0
    duplicates: int = 0
    refused: int = 0
    flows: int = 0
    records: int = 0
    ahead: int = 0
    too_old: int = 0
    foreign: int = 0


@dataclass(slots=True)
class _Waiting:
    content: bytes
    encoding: str
    answered: Callable[[bool | Exception], None]
    sender: Sender | None


@dataclass(frozen=True, slots=True)
class _Read:
    arrival: Arrival
    answered: Callable[[bool | Exception], None]
    ahead: int
    too_old: int
    foreign: int


class Intake:
    """The one writer of a store."""

    def __init__(self, store: Store, taken: Callable[[Sequence[Arrival]], None]) -> None:
        """`taken` is told, on the writing thread, of the batches that were new."""
        self._store = store
        self._taken = taken
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(MAX_WAITING)
        self._waiting_bytes = 0
        self._guard = threading.Lock()
        self._read: queue.Queue[_Read | None] = queue.Queue(_READ_AHEAD)
        self._reader = ArrivalReader()
        self._untidy_rows = 0
        self._tidy_at_s = time.monotonic()
        self.counts = IntakeCounts()
        self._threads = [
            threading.Thread(target=self._read_all, name="intake-read"),
            threading.Thread(target=self._add_all, name="intake"),
        ]

    def start(self) -> None:
        """Begin to take batches."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Take what waits, and end."""
        self._queue.put(None)
        for thread in self._threads:
            thread.join()

    async def take(self, content: bytes, encoding: str = "", sender: Sender | None = None) -> bool:
        """Store a batch and say whether it was new; raises ArrivalError, or StoreError where it has to come again.

        `encoding` is its Content-Encoding. Where the `sender` is proven, a batch of another Service, or of its sidecar,
        is a NotItsOwnError.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def answered(result: bool | Exception) -> None:  # noqa: FBT001 the one thing it is told
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, answer, result)

        self._wait(_Waiting(content, encoding, answered, sender))
        return await answer

    def _wait(self, waiting: _Waiting) -> None:
        with self._guard:
            if self._waiting_bytes and self._waiting_bytes + len(waiting.content) > MAX_WAITING_BYTES:
                raise StoreError("too many batches wait for the disk")
            try:
                self._queue.put_nowait(waiting)
            except queue.Full as error:
                raise StoreError("too many batches wait for the disk") from error
            self._waiting_bytes += len(waiting.content)

    def _read_all(self) -> None:
        while (waiting := self._queue.get()) is not None:
            with self._guard:
                self._waiting_bytes -= len(waiting.content)
            try:
                read = self._read_one(waiting)
            except ArrivalError as error:
                self.counts.refused += 1
                waiting.answered(error)
            except Exception as error:  # noqa: BLE001 the edge of one batch: the thread goes on
                _log.exception("a batch cannot be read: a fault of the program")
                waiting.answered(StoreError(type(error).__name__))
            else:
                self._read.put(read)
        self._read.put(None)

    def _read_one(self, waiting: _Waiting) -> _Read:
        arrival = self._reader.read(unpacked_batch(waiting.content, waiting.encoding))
        sender, foreign = waiting.sender, 0
        if sender is not None:
            # A sidecar has the name of its Service: under another one it would overwrite how that one stands.
            if {arrival.service, arrival.sidecar} != {sender.service}:
                raise NotItsOwnError("a sidecar tells of its own Service only")
            arrival, foreign = own_side(arrival, sender)
        kept = timed(arrival, time.time_ns() // NS_PER_MS, self._store.retention)
        return _Read(kept.arrival, waiting.answered, kept.ahead, kept.too_old, foreign)

    def _add_all(self) -> None:
        while True:
            try:
                first = self._read.get(timeout=_TIDY_AFTER_S)
            except queue.Empty:
                self._tidy()
                continue
            read = self._all_read(first)
            if read is None:
                return
            self._add(read)
            if self._untidy_rows >= _MOST_UNTIDY_ROWS or time.monotonic() - self._tidy_at_s >= _UNTIDY_S:
                self._tidy()

    def _all_read(self, first: _Read | None) -> list[_Read] | None:
        """Give what has been read, None at the end."""
        read: list[_Read] = []
        while first is not None:
            read.append(first)
            try:
                first = self._read.get_nowait()
            except queue.Empty:
                return read
        if read:
            self._read.put(None)
            return read
        return None

    def _add(self, read: list[_Read]) -> None:
        arrivals = [each.arrival for each in read]
        try:
            stored = self._store.add(arrivals, time.time_ns() // NS_PER_MS)
        except Exception as error:  # noqa: BLE001 same; a full disk is told to who sends, and written down
            _log.error("batches cannot be stored: %s", error)
            for each in read:
                each.answered(StoreError("the store takes nothing now"))
            time.sleep(_AGAIN_S)
            return
        new: list[Arrival] = []
        for each, is_new in zip(read, stored, strict=True):
            if is_new:
                new.append(each.arrival)
                self._count_left_out(each)
        self.counts.batches += len(new)
        self.counts.duplicates += len(stored) - len(new)
        for arrival in new:
            self.counts.flows += len(arrival.rows)
            self.counts.records += len(arrival.records)
            self._untidy_rows += len(arrival.rows)
        for each, is_new in zip(read, stored, strict=True):
            each.answered(is_new)
        try:
            self._taken(new)
        except Exception:  # noqa: BLE001 as above
            _log.exception("what was stored cannot be told: a fault of the program")

    def _count_left_out(self, read: _Read) -> None:
        counts, name = self.counts, read.arrival.sidecar
        counts.ahead += read.ahead
        counts.too_old += read.too_old
        counts.foreign += read.foreign
        if read.ahead:
            _log.warning("`%s` dates %d more than %d s ahead: is its clock right?", name, read.ahead, MAX_AHEAD_S)
        if read.too_old:
            _log.warning("`%s` sends %d that are too old to be kept, and are not added", name, read.too_old)
        if read.foreign:
            _log.warning("`%s` tells %d of another Service's calls, which are not added", name, read.foreign)

    def _tidy(self) -> None:
        try:
            while self._store.tidy(time.time_ns() // NS_PER_S) and self._read.empty():
                pass
            self._untidy_rows = 0
            self._tidy_at_s = time.monotonic()
        except StoreError as error:
            _log.error("the store cannot be tidied up: %s", error)
            time.sleep(_AGAIN_S)


def _settle(answer: asyncio.Future[bool], result: bool | Exception) -> None:  # noqa: FBT001 see above
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)


def unpacked_batch(content: bytes, encoding: str) -> bytes:
    """Give the bytes of a batch that came with a Content-Encoding; raises ArrivalError, never more than the limit."""
    if encoding in {"", "identity"}:
        return content
    if encoding != "gzip":
        raise ArrivalError("the content encoding is neither gzip nor identity")
    unpacker = zlib.decompressobj(wbits=_WINDOW_BITS_OF_GZIP)
    try:
        unpacked = unpacker.decompress(content, MAX_BATCH_BYTES + 1)
    except zlib.error as error:
        raise ArrivalError("it is no gzip") from error
    if len(unpacked) > MAX_BATCH_BYTES:
        raise ArrivalError(f"a batch has at most {MAX_BATCH_BYTES} bytes, unpacked")
    if not unpacker.eof or unpacker.unused_data:
        raise ArrivalError("its gzip has no end, or goes on behind it")
    return unpacked
