"""What happens, to whom it is told: events for those who listen now, with a bounded queue for each.

A listener that is too slow is let go: it comes back and asks for what it missed.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: what `GET /stream` tells of
KINDS: Final = ("deny", "edge", "window", "revision", "anomaly")
MAX_LISTENERS: Final = 100
#: of one listener; a second of denials at a rate that nobody reads
MAX_QUEUED: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, with the JSON that tells of it."""

    kind: str
    data: dict[str, Any]

    def to_bytes(self, number: int) -> bytes:
        """Write it as a server-sent event; JSON in ASCII has no line ends.

        https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
        """
        return f"id: {number}\nevent: {self.kind}\ndata: {json.dumps(self.data, separators=(',', ':'))}\n\n".encode()


class Listener:
    """One who listens, to some kinds of events."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(MAX_QUEUED)

    async def next(self) -> Event | None:
        """Give the next event, None where there will be no more."""
        return await self._queue.get()

    def tell(self, event: Event) -> bool:
        """Hand over an event; False where the listener is too slow."""
        if event.kind not in self._kinds:
            return True
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self.end()
            return False
        return True

    def end(self) -> None:
        """Let the listener go, whatever it has not read yet."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)


class Events:
    """Everybody who listens; belongs to one event loop."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()

    def __len__(self) -> int:
        return len(self._listeners)

    def listen(self, kinds: frozenset[str]) -> Listener | None:
        """Begin to listen; None where too many do."""
        if len(self._listeners) >= MAX_LISTENERS:
            return None
        listener = Listener(kinds)
        self._listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """Stop listening."""
        self._listeners.discard(listener)

    def tell(self, events: Iterator[Event]) -> None:
        """Tell everybody."""
        for event in events:
            for listener in tuple(self._listeners):
                if not listener.tell(event):
                    self._listeners.discard(listener)

    def end(self) -> None:
        """Let everybody go."""
        for listener in tuple(self._listeners):
            listener.end()
        self._listeners.clear()
