"""Sends flows and kept records to an OpenTelemetry collector, by OTLP over HTTP; what it does not take is counted.

A copy for those who have such a collector already: the hub's own way is another one, and does not wait for this. What
waits here is in memory, bounded, and ends with control.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Final

import aiohttp
from yarl import URL

from authz.errors import AuthzError
from authz.sidecar.control.otlp_message import logs_message, metrics_message
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from authz.records.flow import Flow

_log = logging.getLogger(__name__)

#: messages that wait: some minutes of a busy sidecar's
MOST_WAITING: Final = 64
ANSWER_S: Final = 10.0
#: OTLP over HTTP, "Failures": what may be sent again
RETRYABLE: Final = frozenset({429, 502, 503, 504})
TRIES: Final = 4
_PAUSE_S: Final = 0.5
_LOG_INTERVAL_S: Final = 60.0
_HEADERS: Final = {"Content-Type": "application/x-protobuf", "User-Agent": "picoseg"}


class OtlpExport:
    """`told` is called by control's main loop, everything else runs in the loop of its services."""

    name = "otlp"

    def __init__(self, endpoint: str, *, service: str) -> None:
        try:
            url = URL(endpoint)
        except ValueError as error:
            raise SidecarError(
                f"--otlp-endpoint `{endpoint[:120]}`: give a URL such as http://127.0.0.1:4318"
            ) from error
        if url.scheme not in {"http", "https"} or not url.host:
            raise SidecarError(f"--otlp-endpoint `{endpoint[:120]}`: give a URL such as http://127.0.0.1:4318")
        self._url = url
        self._service = service
        # A deque's append and popleft are atomic.
        self._waiting: deque[tuple[str, Sequence[Flow], Sequence[bytes]]] = deque()
        self._said_s = -_LOG_INTERVAL_S
        #: messages that found no room, or that the collector did not take
        self.lost = 0
        self.sent = 0

    def told(self, flows: Sequence[Flow], lines: Sequence[bytes]) -> None:
        """Take what was counted and what was kept, each once: called by control's main loop."""
        for path, some_flows, some_lines in (("v1/metrics", flows, ()), ("v1/logs", (), lines)):
            if not some_flows and not some_lines:
                continue
            if len(self._waiting) >= MOST_WAITING:
                self.lost += 1
            else:
                self._waiting.append((path, some_flows, some_lines))

    async def run(self, ready: Callable[[], None]) -> None:
        """Send until cancelled."""
        ready()
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        async with aiohttp.ClientSession(
            timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        ) as session:
            while True:
                if not self._waiting:
                    await asyncio.sleep(_PAUSE_S)
                    continue
                path, flows, lines = self._waiting.popleft()
                try:
                    message = (
                        metrics_message(flows, service=self._service)
                        if flows
                        else logs_message(lines, service=self._service)
                    )
                except (AuthzError, ValueError) as error:
                    self._lose(f"a message cannot be written: {error}")
                    continue
                await self._send(session, path, message)

    async def _send(self, session: aiohttp.ClientSession, path: str, message: bytes) -> None:
        why = ""
        for tried in range(TRIES):
            try:
                async with session.post(self._url / path, data=message, headers=_HEADERS, allow_redirects=False) as got:
                    status = got.status
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                why = str(error) or type(error).__name__
            else:
                if 200 <= status < 300:  # noqa: PLR2004 RFC 9110 15.3
                    self.sent += 1
                    return
                why = f"it answers with status {status}"
                if status not in RETRYABLE:
                    break
            await asyncio.sleep(_PAUSE_S * 2**tried * random.uniform(0.5, 1))  # noqa: S311 no secret
        self._lose(why)

    def _lose(self, why: str) -> None:
        self.lost += 1
        if time.monotonic() - self._said_s >= _LOG_INTERVAL_S:
            self._said_s = time.monotonic()
            shown = "".join(each if each.isprintable() else " " for each in why)[:300]
            _log.warning("otlp %s: %s; %d messages lost so far", self._url, shown, self.lost)
