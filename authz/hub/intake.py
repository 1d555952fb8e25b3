"""Takes batches from sidecars: one thread reads and adds them, and only what is on disk is said to be stored.

Whatever waits when the store is free is added in one transaction, with one sync of the disk: many sidecars cost little
more than one. In between, what was added is tidied up.

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

#: batches that wait for the disk: 64 times 8 MiB at worst; more are told to come again
MAX_WAITING: Final = 64
#: how long after the last batch what it brought is tidied up, if nothing comes
_TIDY_AFTER_S: Final = 0.2
#: how long it waits at most while more comes
_UNTIDY_S: Final = 1.0
#: rows that may wait before intake itself stops for a moment: each question has to read them
_MOST_UNTIDY_ROWS: Final = 50_000
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
    answered: Callable[[bool | Exception], None]
    service: str | None


class Intake:
    """The one writer of a store."""

    def __init__(self, store: Store, taken: Callable[[Sequence[Arrival]], None]) -> None:
        """`taken` is told, on the writing thread, of the batches that were new."""
        self._store = store
        self._taken = taken
        self._queue: queue.Queue[_Waiting | None] = queue.Queue(MAX_WAITING)
        self._reader = ArrivalReader()
        self._untidy_rows = 0
        self._tidy_at_s = time.monotonic()
        self.counts = IntakeCounts()
        self._thread = threading.Thread(target=self._run, name="intake")

    def start(self) -> None:
        """Begin to take batches."""
        self._thread.start()

    def stop(self) -> None:
        """Take what waits, and end."""
        self._queue.put(None)
        self._thread.join()

    async def take(self, content: bytes, service: str | None = None) -> bool:
        """Store a batch and say whether it was new; raises ArrivalError, or StoreError where it has to come again.

        Where the sender is known to be one `service`, a batch of another one, or of its sidecar, is a NotItsOwnError.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def answered(result: bool | Exception) -> None:  # noqa: FBT001 the one thing it is told
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, answer, result)

        try:
            self._queue.put_nowait(_Waiting(content, answered, service))
        except queue.Full as error:
            raise StoreError("too many batches wait for the disk") from error
        return await answer

    def _run(self) -> None:
        while True:
            try:
                first = self._queue.get(timeout=_TIDY_AFTER_S)
            except queue.Empty:
                self._tidy()
                continue
            waiting = self._all_waiting(first)
            if waiting is None:
                return
            self._add(waiting)
            if self._untidy_rows >= _MOST_UNTIDY_ROWS or time.monotonic() - self._tidy_at_s >= _UNTIDY_S:
                self._tidy()

    def _all_waiting(self, first: _Waiting | None) -> list[_Waiting] | None:
        """Give what waits, None at the end."""
        waiting: list[_Waiting] = []
        while first is not None:
            waiting.append(first)
            try:
                first = self._queue.get_nowait()
            except queue.Empty:
                return waiting
        if waiting:
            self._queue.put(None)
            return waiting
        return None

    def _add(self, waiting: list[_Waiting]) -> None:
        good: list[_Waiting] = []
        arrivals: list[Arrival] = []
        for each in waiting:
            try:
                arrivals.append(self._read(each))
                good.append(each)
            except ArrivalError as error:
                self.counts.refused += 1
                each.answered(error)
            except Exception as error:  # noqa: BLE001 the edge of one batch: the thread goes on
                _log.exception("a batch cannot be read: a fault of the program")
                each.answered(StoreError(type(error).__name__))
        if not good:
            return
        try:
            stored = self._store.add(arrivals, time.time_ns() // NS_PER_MS)
        except Exception as error:  # noqa: BLE001 same; a full disk is told to who sends, and written down
            _log.error("batches cannot be stored: %s", error)
            for each in good:
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
        for each, is_new in zip(good, stored, strict=True):
            each.answered(is_new)
        try:
            self._taken(new)
        except Exception:  # noqa: BLE001 as above
            _log.exception("what was stored cannot be told: a fault of the program")

    def _read(self, waiting: _Waiting) -> Arrival:
        arrival = self._reader.read(waiting.content)
        # A sidecar has the name of its Service: under another one it would overwrite how that one stands.
        if waiting.service is not None and {arrival.service, arrival.sidecar} != {waiting.service}:
            raise NotItsOwnError("a sidecar tells of its own Service only")
        return arrival

    def _tidy(self) -> None:
        try:
            while self._store.tidy(time.time_ns() // NS_PER_S) and self._queue.empty():
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
