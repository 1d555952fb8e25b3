"""Sending an announcement: over https, or to this machine.

No redirect is followed; of an answer only its head is read.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from authz import __version__
from authz.policy.errors import printable
from authz.window_watch.errors import WindowWatchError
from authz.window_watch.signature import signed_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from authz.insight.announcement import Announcement
    from authz.window_watch.signature import Secret

_log = logging.getLogger(__name__)

#: RFC 9110 4.1 recommends 8,000 at least; a longer one is no address that somebody typed
MAX_URL_CHARACTERS: Final = 8192
#: Standard Webhooks: 15 to 30 s for a receiver to answer
TIMEOUT_S: Final = 30.0
#: of an answer's status line and headers; aiohttp's own limits, written down
MAX_ANSWER_LINE_BYTES: Final = 8190
#: no receiver may put us off for longer
MAX_RETRY_AFTER_S: Final = 3600.0
_OK: Final = range(200, 300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an announcement was not taken, and for how long at least the receiver wants to be left alone."""

    why: str
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NotifyUrl:
    """Where announcements go; its path and query may be as secret as a password, and are never shown."""

    _text: str

    @classmethod
    def parse(cls, text: str, *, unsafe_plain_http: bool = False) -> Self:
        """Read a URL; raises WindowWatchError for one that anybody on the way could read or change."""
        if len(text) > MAX_URL_CHARACTERS or not text.isascii() or not text.isprintable() or " " in text:
            raise WindowWatchError("the URL is too long, or has characters that a URL has not; encode them")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise WindowWatchError("it is no URL") from error
        if parts.scheme not in {"https", "http"} or not host:
            raise WindowWatchError("give a URL with a host, such as https://hooks.example/authz")
        if "@" in parts.netloc:
            raise WindowWatchError("no user or password in the URL; sign with --secret-file")
        if parts.fragment or port == 0:
            raise WindowWatchError("no fragment (`#`), and no port 0")
        if parts.scheme == "http" and not _is_this_machine(host):
            if not unsafe_plain_http:
                raise WindowWatchError("http is for this machine only (127.0.0.1, ::1, localhost); give https")
            _log.warning("announcements go over plain http: whoever is on the way reads them, and can drop them")
        # Whoever sends it must read the same host in it.
        if URL(text, encoded=True).host != host:
            raise WindowWatchError("it is no URL")
        return cls(text)

    @property
    def text(self) -> str:
        """The whole URL."""
        return self._text

    def __str__(self) -> str:
        parts = urlsplit(self._text)
        return f"{parts.scheme}://{parts.netloc}/..."

    def __repr__(self) -> str:
        return f"NotifyUrl({self})"


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Webhook:
    """Sends announcements to one URL, one at a time."""

    def __init__(self, url: NotifyUrl, secrets: Sequence[Secret], *, clock_s: Callable[[], int]) -> None:
        self._url = url
        self._secrets = tuple(secrets)
        self._clock_s = clock_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(limit=1),
            max_line_size=MAX_ANSWER_LINE_BYTES,
            max_field_size=MAX_ANSWER_LINE_BYTES,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, announcement: Announcement) -> Refusal | None:
        """Send it once; None when it was taken (2xx), else why it was not."""
        if self._session is None:
            raise WindowWatchError("the webhook is not open")
        body = announcement.body.encode()
        headers = {
            "content-type": "application/json",
            "user-agent": f"authz/{__version__}",
            **signed_headers(announcement.id, body, self._clock_s(), self._secrets),
        }
        url = URL(self._url.text, encoded=True)
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
                if answer.status in _OK:
                    return None
                return Refusal(why=f"status {answer.status}", retry_after_s=_retry_after_s(answer.headers))
        except TimeoutError:
            return Refusal(why=f"no answer within {TIMEOUT_S:.0f} s")
        except (aiohttp.ClientError, OSError, ValueError, asyncio.IncompleteReadError) as error:
            return Refusal(why=_reason(error))


def _retry_after_s(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    # RFC 9110 10.2.3: seconds; the other form, a date, says little between clocks that differ.
    if not (value.isascii() and value.isdigit() and len(value) < len("100000000")):
        return 0.0
    return min(float(value), MAX_RETRY_AFTER_S)


def _reason(error: Exception) -> str:
    """Say why no answer came, without the URL, which may be secret."""
    cause = getattr(error, "os_error", error)
    number = getattr(cause, "errno", None)
    # asyncio has `Connect call failed` and the address in the place of what the system says; numbers of TLS are others.
    if isinstance(number, int) and number in errno.errorcode and not isinstance(cause, ssl.SSLError):
        return os.strerror(number).lower()
    text = getattr(cause, "strerror", None) or type(error).__name__
    return printable(str(text))[:200]
