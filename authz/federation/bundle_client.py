"""Asks a bundle endpoint for the bundle of a trust domain: one GET over TLS, nothing remembered from call to call.

Whatever the server does takes a bounded time and a bounded room. No cookie, password, proxy of the environment or
compression has any part in it. A redirect is followed for this one fetch, if where it leads is a bundle endpoint's URL
and the server there proves the same (SPIFFE Federation 5.2.1.4, 5.2.2.4, 7.5.1); the next fetch begins at the
configured URL again, also after a redirect that calls itself permanent.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Federation.md
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from authz.federation.endpoint_tls import spiffe_context, web_context
from authz.federation.endpoint_url import endpoint_url, redirected_url
from authz.federation.errors import FederationError
from authz.identity.bundle import MAX_BUNDLE_BYTES
from authz.identity.errors import quoted

if TYPE_CHECKING:
    from pathlib import Path

    from yarl import URL

    from authz.federation.relationship import Endpoint
    from authz.identity.trust import Trust

#: A bundle for a continent away takes a second or two; who is slower is asked again later.
FETCH_S: Final = 20.0
CONNECT_S: Final = 10.0
#: RFC 9110 15.4: loops must be noticed; a CDN redirects once.
MAX_REDIRECTS: Final = 3

_OK: Final = 200
# RFC 9110 15.4: these say where the same thing is to be had by GET; 300 and 304 do not.
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_HEADERS: Final = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "picoseg"}
_MAX_REASON_CHARACTERS: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleClient:
    """`web_roots` is a PEM file of the authorities of `https_web`, None for those that the machine trusts."""

    web_roots: Path | None = None
    fetch_s: float = FETCH_S

    async def fetch(self, endpoint: Endpoint, trust: Trust) -> bytes:
        """Give the document that the endpoint serves, unread; raises FederationError.

        `trust` holds what is known of the server's trust domain, and is used with `https_spiffe` alone.
        """
        if endpoint.server is None:
            # Reading some hundred authorities takes tens of milliseconds.
            context = await asyncio.to_thread(web_context, self.web_roots)
        else:
            context = spiffe_context(endpoint.server, trust)
        url = endpoint_url(endpoint.url)
        try:
            async with asyncio.timeout(self.fetch_s), _session(context) as session:
                return await _document(session, url)
        except TimeoutError as exc:
            raise FederationError(f"{quoted(endpoint.url)}: no bundle within {self.fetch_s:g} s") from exc
        except (aiohttp.ClientError, ssl.SSLError, OSError, ValueError) as exc:
            raise FederationError(f"{quoted(endpoint.url)}: {_reason(exc)}") from exc


def _session(context: ssl.SSLContext) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, force_close=True, limit=1, use_dns_cache=False),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=_HEADERS,
        auto_decompress=False,
        trust_env=False,
    )


async def _document(session: aiohttp.ClientSession, url: URL) -> bytes:
    for _ in range(MAX_REDIRECTS + 1):
        async with session.get(url, allow_redirects=False) as response:
            if response.status not in _REDIRECTS:
                return await _content(response)
            locations = response.headers.getall("Location", [])
        if len(locations) != 1:
            raise FederationError(f"{quoted(str(url))}: a redirect without a place to go to")
        url = redirected_url(url, locations[0])
    raise FederationError(f"{quoted(str(url))}: more than {MAX_REDIRECTS} redirects")


async def _content(response: aiohttp.ClientResponse) -> bytes:
    """Read the answer; its content type is not asked for, because the standard only recommends one (5.2.1.3)."""
    shown = quoted(str(response.url))
    if response.status != _OK:
        raise FederationError(f"{shown}: the endpoint answers with status {response.status}")
    parts: list[bytes] = []
    size_bytes = 0
    async for part in response.content.iter_any():
        size_bytes += len(part)
        if size_bytes > MAX_BUNDLE_BYTES:
            raise FederationError(f"{shown}: the bundle has more than {MAX_BUNDLE_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _reason(error: Exception) -> str:
    """Say on one line, printable and short, why a connection came to nothing: the peer may have chosen the words."""
    cause: BaseException = error
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError):
        cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    text = str(cause.strerror or cause) if isinstance(cause, OSError) else str(cause)
    shown = "".join(each if each.isprintable() else " " for each in text)[:_MAX_REASON_CHARACTERS].strip()
    return shown or type(error).__name__
