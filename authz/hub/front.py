"""What every answer of the hub has, and the answers that are given before a request has come to its routes.

aiohttp answers by itself what is no HTTP, a head that is too large, and an `Expect` that it does not know: in plain
text, with its own name and version, with bytes of the request, and a traceback in the log for each. Here they are
answers like all others: JSON of the API's form, the same headers, and nothing of what was sent.

https://docs.aiohttp.org/en/stable/web_reference.html#aiohttp.web.Server
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any, Final, cast

from aiohttp import hdrs, http_exceptions, web

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_log = logging.getLogger(__name__)

#: three names of 2,048 characters, each of them encoded as twelve, and what is around them
MAX_LINE_BYTES: Final = 128 * 1024
#: twice what a bearer token may have (MAX_TOKEN_CHARACTERS of access)
MAX_FIELD_BYTES: Final = 8 * 1024
#: https://www.w3.org/TR/CSP3/ : nothing but what this hub serves, and no script or style in the HTML itself
_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "X-Frame-Options": "DENY",
    "Server": "authz",
}


#: of each connection, as aiohttp's RequestHandler takes them
_OPTIONS: Final[dict[str, Any]] = {
    "access_log": None,
    "auto_decompress": False,
    "max_line_size": MAX_LINE_BYTES,
    "max_field_size": MAX_FIELD_BYTES,
}


def fault(status: int, message: str, parameter: str | None) -> web.Response:
    """Give an answer that says what is wrong, in the form of the API."""
    body = json.dumps({"error": message, "parameter": parameter}).encode("ascii")
    return web.Response(status=status, body=body, content_type="application/json")


def with_headers(response: web.StreamResponse) -> web.StreamResponse:
    """Give an answer that was not begun yet the headers that all have."""
    response.headers.update(HEADERS)
    response.headers.setdefault(hdrs.CACHE_CONTROL, "no-store")
    return response


@contextlib.asynccontextmanager
async def runner_of(application: web.Application, *, shutdown_timeout_s: float) -> AsyncIterator[web.BaseRunner]:
    """Give what serves an application, to put sites on."""
    behind = web.AppRunner(application)
    await behind.setup()
    try:
        server = cast("web.Server", behind.server)  # it has one after setup()
        runner = web.ServerRunner(_Front(server), shutdown_timeout=shutdown_timeout_s)
        await runner.setup()
        try:
            yield runner
        finally:
            await runner.cleanup()
    finally:
        await behind.cleanup()


class _Front(web.Server):
    """Hands requests to an application's own server, which has no connections itself."""

    def __init__(self, behind: web.Server) -> None:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await behind.request_handler(request)
            except web.HTTPException as error:  # by aiohttp's own hand: the application's guard lets none through
                return with_headers(fault(error.status, (error.reason or "").lower(), None))

        super().__init__(handle, request_factory=behind.request_factory)

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **_OPTIONS)


class _Connection(web.RequestHandler):
    """One connection; it is closed behind whatever is answered here."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request, or what nothing else has answered."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer is sent already")
        if status >= 500:  # noqa: PLR2004 RFC 9110 15.6
            _log.error("a request cannot be answered: a fault of the program", exc_info=exc)
            response = fault(status, "a fault of the program; the hub's log says more", None)
        else:
            # Whoever sends nonsense must not fill the log.
            _log.debug("no request from %s: %s", request.remote, message)
            response = fault(*_reason(status, exc), None)
        response.force_close()
        return with_headers(response)


def _reason(status: int, error: BaseException | None) -> tuple[int, str]:
    if isinstance(error, http_exceptions.LineTooLong):
        if error.args[1] == MAX_LINE_BYTES:
            return 414, f"the first line of a request has at most {MAX_LINE_BYTES} bytes"
        return 431, f"a header field has at most {MAX_FIELD_BYTES} bytes"
    return status, "it is no request of HTTP/1.1"
