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
from authz.hub.errors import ArrivalError, NotItsOwnError, StoreError
from authz.instant import NS_PER_MS, NS_PER_S
from authz.records.batch import MAX_BATCH_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    """What came of what was sent, since the hub started."""

    batches: int = 0
    duplicates: int = 0
    refused: int = 0
    flows: int = 0
    records: int = 0


@dataclass(slots=True)
class _Waiting:
    content: bytes
    encoding: str
    answered: Callable[[bool | Exception], None]
    service: str | None


@dataclass(frozen=True, slots=True)
class _Read:
    arrival: Arrival
    answered: Callable[[bool | Exception], None]


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

    async def take(self, content: bytes, encoding: str = "", service: str | None = None) -> bool:
        """Store a batch and say whether it was new; raises ArrivalError, or StoreError where it has to come again.

        `encoding` is its Content-Encoding. Where the sender is known to be one `service`, a batch of another one, or of
        its sidecar, is a NotItsOwnError.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def answered(result: bool | Exception) -> None:  # noqa: FBT001 the one thing it is told
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, answer, result)

        self._wait(_Waiting(content, encoding, answered, service))
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
                read = _Read(self._arrival(waiting), waiting.answered)
            except ArrivalError as error:
                self.counts.refused += 1
                waiting.answered(error)
            except Exception as error:  # noqa: BLE001 the edge of one batch: the thread goes on
                _log.exception("a batch cannot be read: a fault of the program")
                waiting.answered(StoreError(type(error).__name__))
            else:
                self._read.put(read)
        self._read.put(None)

    def _arrival(self, waiting: _Waiting) -> Arrival:
        arrival = self._reader.read(unpacked_batch(waiting.content, waiting.encoding))
        # A sidecar has the name of its Service: under another one it would overwrite how that one stands.
        if waiting.service is not None and {arrival.service, arrival.sidecar} != {waiting.service}:
            raise NotItsOwnError("a sidecar tells of its own Service only")
        return arrival

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
        new = [arrival for arrival, is_new in zip(arrivals, stored, strict=True) if is_new]
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
