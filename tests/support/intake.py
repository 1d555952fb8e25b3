"""A hub's intake for tests: takes batches over HTTP, each once, and adds up what they tell."""

from __future__ import annotations

import asyncio
import gzip
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from authz.records.batch import MAX_BATCH_BYTES, PATH, Batch, batch_from_json

if TYPE_CHECKING:
    import ssl


@dataclass
class Taken:
    """What came: each batch once, in the order in which it came first, and how often any came again."""

    batches: dict[tuple[str, str, int], Batch] = field(default_factory=dict)
    again: int = 0

    @property
    def in_order(self) -> list[Batch]:
        return list(self.batches.values())

    def total(self, name: str) -> int:
        """Add up a number of all flows."""
        return sum(getattr(flow, name) for batch in self.in_order for flow in batch.flows)

    @property
    def joined(self) -> int:
        return sum(flow.durations.total for batch in self.in_order for flow in batch.flows)

    def status(self, name: str) -> int:
        """Give a number of the newest status of each boot, added up."""
        newest = {batch.boot: getattr(batch.status, name) for batch in self.in_order}
        return sum(newest.values())

    @property
    def records(self) -> list[Any]:
        return [record for batch in self.in_order for record in batch.records]


class Intake:
    """Listens in a thread of its own; `answers` are given before 200s, 0 for a connection that is broken off.

    An answer that is lost on its way is a batch that was taken all the same.
    """

    def __init__(self, *, port: int = 0, tls: ssl.SSLContext | None = None, answers: list[int] | None = None) -> None:
        self.taken = Taken()
        self.answers = answers or []
        self.headers: list[dict[str, str]] = []
        self._port = port
        self._tls = tls
        self._loop = asyncio.new_event_loop()
        self._listens = threading.Event()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        return self._port

    async def _serve(self) -> None:
        app = web.Application(client_max_size=MAX_BATCH_BYTES)
        app.router.add_post(PATH, self._take)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port, ssl_context=self._tls)
        await site.start()
        self._port = runner.addresses[0][1]
        self._listens.set()
        await self._end.wait()
        await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.headers.append(dict(request.headers))
        content = await request.read()  # aiohttp has unpacked it
        batch = batch_from_json(gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content)
        answer = self.answers.pop(0) if self.answers else 200
        if answer not in {0, 200}:
            return web.Response(status=answer, text="not now")
        place = batch.sidecar, batch.boot, batch.sequence
        self.taken.again += place in self.taken.batches
        stored = self.taken.batches.setdefault(place, batch) is batch
        if not answer:
            assert request.transport is not None
            request.transport.abort()
        return web.json_response({"stored": stored})

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listens.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()
