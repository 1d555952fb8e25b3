"""Sends batches to the hub: in their order, one at a time, again and again until the hub has them.

At least once is all that is promised here; the hub knows a batch again by (sidecar, boot, sequence). A batch that the
hub refuses for good is set aside and counted; whatever else goes wrong is tried again, later and later.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp

from authz.errors import AuthzError
from authz.federation.endpoint_tls import web_context
from authz.sidecar.control.hub_address import MAX_TOKEN_BYTES
from authz.sidecar.control.hub_tls import hub_context
from authz.sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.identity.held_svid import HeldSvid
    from authz.identity.trust import Trust
    from authz.sidecar.control.hub_address import HubAddress
    from authz.sidecar.control.spool import Spool, SpooledBatch

_log = logging.getLogger(__name__)

#: a hub that has not answered by then is asked again: a batch of 8 MiB is stored in less than a second
ANSWER_S: Final = 30.0
CONNECT_S: Final = 5.0
#: the first and the longest pause after a failure; each is drawn between half of it and all
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 30.0
#: nothing waits for longer than this until it is looked for again
LOOK_S: Final = 5.0
_LOG_INTERVAL_S: Final = 30.0
_OK: Final = 200
#: RFC 9110 15.5: the batch itself is at fault. Everything else (who may send, where to, how much at once) may change.
REFUSED_FOR_GOOD: Final = frozenset({400, 413, 415, 422})
_MAX_REASON_CHARS: Final = 300
_HEADERS: Final = {"Content-Type": "application/json", "Content-Encoding": "gzip", "User-Agent": "picoseg"}


def nobody() -> tuple[None, None]:
    """Stand for the identity of a sidecar that has no source of one: its hub is known by its host's name."""
    return None, None


class Shipper:
    """`identity` gives the SVID and the trust of now, asked for each connection; `refused` has a batch set aside.

    `refused` and what it calls run elsewhere; the batch is gone from the spool when `wake` is called next.
    """

    name = "hub"

    def __init__(
        self,
        address: HubAddress,
        spool: Spool,
        *,
        identity: Callable[[], tuple[HeldSvid | None, Trust | None]],
        token_file: str | None,
        refused: Callable[[SpooledBatch], None],
    ) -> None:
        self._address = address
        self._spool = spool
        self._identity = identity
        self._token_file = token_file
        self._refused = refused
        self._more = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None
        self._session_of: object = None
        self._failures = 0
        self._said, self._said_s = "", -_LOG_INTERVAL_S
        #: batches that the hub has taken
        self.shipped = 0
        #: batches that it refused for good
        self.set_aside = 0
        #: when it took one last, of a clock that only goes on; None where it never has
        self.shipped_s: float | None = None

    def wake(self) -> None:
        """Say that there is another batch: called in the loop."""
        self._more.set()

    async def run(self, ready: Callable[[], None]) -> None:
        """Ship until cancelled."""
        ready()
        try:
            while True:
                self._more.clear()
                batch = self._spool.next()
                if batch is None:
                    await self._wait(LOOK_S)
                elif await self._ship(batch):
                    self._failures = 0
                else:
                    self._failures += 1
                    longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self._failures, 16))
                    await asyncio.sleep(longest_s * random.uniform(0.5, 1))  # noqa: S311 no secret
        finally:
            await self._close()

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._more.wait()
        except TimeoutError:
            pass

    async def _ship(self, batch: SpooledBatch) -> bool:
        content = self._spool.read(batch)
        if content is None:
            await self._set_aside(batch, "it cannot be read")
            return True
        try:
            session = await self._connected()
            headers = {**_HEADERS, **self._token()}
            async with session.post(self._address.batches, data=content, headers=headers, allow_redirects=False) as got:
                status, said = got.status, (await got.content.read(_MAX_REASON_CHARS)).decode("utf-8", "replace")
        except (aiohttp.ClientError, ssl.SSLError, OSError, TimeoutError, ValueError, AuthzError) as error:
            self._say(_reason(error))
            await self._close()
            return False
        if status == _OK:
            self._spool.remove(batch)
            self.shipped += 1
            self.shipped_s = time.monotonic()
            return True
        if status in REFUSED_FOR_GOOD:
            await self._set_aside(batch, f"status {status}: {_printable(said)}")
            return True
        self._say(f"it answers with status {status}: {_printable(said)}")
        return False

    async def _set_aside(self, batch: SpooledBatch, why: str) -> None:
        self.set_aside += 1
        _log.error("hub %s: batch %d is refused for good: %s", self._address.url, batch.sequence, why)
        self._refused(batch)
        while self._spool.next() == batch:
            await self._wait(LOOK_S)
            self._more.clear()

    async def _connected(self) -> aiohttp.ClientSession:
        held, trust = self._identity()
        session = self._session
        if session is not None and self._session_of == (held, trust):
            return session
        await self._close()
        connector = aiohttp.TCPConnector(limit=1, ssl=self._tls(held, trust))
        self._session = session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        self._session_of = held, trust
        return session

    def _tls(self, held: HeldSvid | None, trust: Trust | None) -> ssl.SSLContext | bool:
        if not self._address.is_encrypted:
            return True
        if self._identity is nobody:
            return web_context(None)
        if held is None or trust is None:
            raise SidecarError("this sidecar has no SVID yet, or none any more")
        return hub_context(held, trust)

    def _token(self) -> dict[str, str]:
        """Give the header of the token, read anew each time: it may be replaced."""
        if self._token_file is None:
            return {}
        with Path(self._token_file).open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES + 1).strip()
        if not token or len(token) > MAX_TOKEN_BYTES or not token.isascii() or b"\n" in token:
            raise SidecarError(f"{self._token_file}: holds no token of one line")
        return {"Authorization": f"Bearer {token.decode('ascii')}"}

    async def _close(self) -> None:
        if self._session is not None:
            await self._session.close()
        self._session = None

    def _say(self, why: str) -> None:
        now_s = time.monotonic()
        if why != self._said or now_s - self._said_s >= _LOG_INTERVAL_S:
            self._said, self._said_s = why, now_s
            _log.warning("hub %s: %s; %d batches wait", self._address.url, why, len(self._spool))


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return _printable(str(error)) or type(error).__name__


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)[:_MAX_REASON_CHARS].strip()
