"""The hub's HTTP: intake, API, events and page, and everything that every request goes through first.

In this order: whether the Host is one of ours and the Origin the same (a page of somebody else's, or a name that was
bound to our address, gets nothing), who asks, how often, and whether that role may. What is refused is written down.
No request but the intake of sidecars changes anything.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import logging
import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp import hdrs, web

from authz.errors import AuthzError
from authz.hub.access import ANYBODY, Access, Asker, refusal_line
from authz.hub.errors import ArrivalError, NotItsOwnError, ParameterError, StoreError, UnknownError
from authz.hub.front import HEADERS, fault, with_headers
from authz.hub.openapi import API, openapi_document
from authz.hub.operation import Role
from authz.hub.operations import OPERATIONS, STREAM
from authz.hub.own_side import Sender
from authz.hub.tls import HubTls, now
from authz.instant import rfc3339_from_ns
from authz.records.batch import MAX_BATCH_BYTES, PATH

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from authz.hub.answering import Answering
    from authz.hub.events import Events
    from authz.hub.intake import Intake
    from authz.hub.operation import Operation
    from authz.hub.refusals import Refusals

_log = logging.getLogger(__name__)

#: the names of the page's files
_FILE: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._/-]{0,200}")
_PAGES: Final = Path(__file__).parent / "pages"
#: of files of the page: what an editor or a packer may leave beside them is not served
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
#: a comment in a stream of events, so that whoever is between does not end it
_KEEP_ALIVE_S: Final = 15.0
#: questions of one asker: a page asks a dozen at once, and every few seconds
RATE_A_SECOND: Final = 50.0
BURST: Final = 200.0
_MOST_ASKERS: Final = 10_000
_LOOPBACK_NAMES: Final = frozenset({"localhost", "ip6-localhost"})

_ASKER: Final = web.RequestKey("asker", Asker)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class HubServer:
    """Serves one hub; `application` is for an aiohttp runner."""

    def __init__(
        self,
        *,
        answering: Answering,
        intake: Intake,
        events: Events,
        access: Access | None,
        tls: HubTls | None,
        refusals: Refusals,
        metrics: Callable[[], bytes],
    ) -> None:
        self._answering = answering
        self._intake = intake
        self._events = events
        self._access = access
        self._tls = tls
        self._refusals = refusals
        self._metrics = metrics
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._document = json.dumps(openapi_document()).encode()
        self._ended = False

    def application(self) -> web.Application:
        """Give the routes, each behind the checks."""
        application = web.Application(middlewares=[self._guard], client_max_size=MAX_BATCH_BYTES)
        router = application.router
        router.add_post(PATH, self._take)
        for operation in OPERATIONS:
            handler = self._stream if operation is STREAM else self._handler(operation)
            # A HEAD of what never ends would wait for nothing, and hold the place of one that listens.
            router.add_get(API + operation.path, handler, allow_head=operation is not STREAM)
        router.add_get(f"{API}/openapi.json", self._openapi)
        router.add_get("/metrics", self._metrics_text)
        router.add_get("/healthz", self._health)
        router.add_get("/", self._page)
        router.add_get("/page/{file:.+}", self._page)
        return application

    def end(self) -> None:
        """Let go of those who listen."""
        self._ended = True
        self._events.end()

    # --- what every request goes through --------------------------------------------------------------------------

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        response: web.StreamResponse
        try:
            self._require_own_host(request)
            request[_ASKER] = self._require_role(request)
            response = await handler(request)
        except _RefusedError as refused:
            response = refused.response
        except web.HTTPException as error:
            response = fault(error.status, (error.reason or "").lower(), None)
            if hdrs.ALLOW in error.headers:
                response.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:  # noqa: BLE001 the edge of one request
            _log.exception("a request cannot be answered: a fault of the program")
            response = fault(500, "a fault of the program; the hub's log says more", None)
        return response if response.prepared else with_headers(response)

    def _require_own_host(self, request: web.Request) -> None:
        """Refuse a Host that is not ours (DNS rebinding), and whatever another site's page has sent."""
        host = (request.headers.get(hdrs.HOST) or "").lower()
        if not self._is_own(host):
            raise _RefusedError(
                fault(421, "the Host is none of this hub's; `hosts` of the access file names them", None)
            )
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is not None and origin.lower() != f"{request.scheme}://{host}":
            raise _RefusedError(fault(403, "pages of other origins may not ask", None))
        site = request.headers.get("Sec-Fetch-Site", "none")
        # A link on another page may lead to the page itself; nothing else may be used by one.
        if site not in {"none", "same-origin"} and request.path != "/":
            raise _RefusedError(fault(403, "pages of other origins may not ask", None))

    def _is_own(self, host: str) -> bool:
        if self._access is not None and host in self._access.hosts:
            return True
        name, _, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
        if not name or not port.isdigit():
            name = host
        if self._access is not None and name in self._access.hosts:
            return True
        # An address is bound to nothing else: only names can be.
        return name in _LOOPBACK_NAMES or _is_address(name.strip("[]"))

    def _require_role(self, request: web.Request) -> Asker:
        wanted = _role_of(request)
        asker = self._asker(request)
        if wanted is None:
            return asker or Asker(name="(nobody)", role=Role.NOBODY)
        if asker is None:
            # Whoever guesses tokens is slowed like everybody, before a line is written down.
            self._require_turn(request, "(nobody)")
            self._refuse(request, "(nobody)", "no token, no identity")
            response = fault(401, "say who asks: a bearer token, or a client certificate", None)
            response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="authz hub"'
            raise _RefusedError(response)
        allowed = asker.role is Role.ADMIN or (
            asker.role is Role.SIDECAR if wanted is Role.SIDECAR else asker.role >= wanted
        )
        if not allowed:
            self._require_turn(request, asker.name)
            self._refuse(request, asker.name, f"role {asker.role.name.lower()}, {wanted.name.lower()} is needed")
            raise _RefusedError(fault(403, f"the role `{wanted.name.lower()}` is needed", None))
        if wanted is not Role.SIDECAR:
            self._require_turn(request, asker.name)
        return asker

    def _require_turn(self, request: web.Request, who: str) -> None:
        if not self._has_turn(f"{who} {request.remote or ''}"):
            response = fault(429, f"more than {RATE_A_SECOND:.0f} questions a second", None)
            response.headers[hdrs.RETRY_AFTER] = "1"
            raise _RefusedError(response)

    def _asker(self, request: web.Request) -> Asker | None:
        if self._access is None:
            return ANYBODY
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if scheme.lower() == "bearer" and token:
            return self._access.of_token(token.strip())
        connection = None if request.transport is None else request.transport.get_extra_info("ssl_object")
        if self._tls is None or connection is None:
            return None
        try:
            identity = self._tls.identity(connection, now())
        except AuthzError as error:
            self._refuse(request, "(nobody)", f"certificate not proven: {error}")
            return None
        if identity is None:
            return None
        return self._access.of_identity(identity) or Asker(name=str(identity), role=Role.NOBODY, identity=identity)

    def _has_turn(self, who: str) -> bool:
        now_s = time.monotonic()
        bucket = self._buckets.get(who)
        if bucket is None:
            bucket = self._buckets[who] = _Bucket(BURST, now_s)
            if len(self._buckets) > _MOST_ASKERS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(who)
        bucket.tokens = min(BURST, bucket.tokens + (now_s - bucket.at_s) * RATE_A_SECOND)
        bucket.at_s = now_s
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def _refuse(self, request: web.Request, who: str, why: str) -> None:
        at = rfc3339_from_ns(time.time_ns())
        self._refusals.write(
            refusal_line(
                time=at, who=who, address=request.remote or "", method=request.method, path=request.path, why=why
            )
        )

    # --- what is served ------------------------------------------------------------------------------------------

    async def _take(self, request: web.Request) -> web.Response:
        try:
            content = await request.read()
            encoding = request.headers.get(hdrs.CONTENT_ENCODING, "").lower()
            stored = await self._intake.take(content, encoding, self._sender(request[_ASKER]))
        except web.HTTPRequestEntityTooLarge:
            return fault(413, f"a batch has at most {MAX_BATCH_BYTES} bytes", None)
        except NotItsOwnError as error:
            self._refuse(request, request[_ASKER].name, str(error))
            return fault(403, str(error), None)
        except ArrivalError as error:
            return fault(400, str(error), None)
        except StoreError as error:
            response = fault(503, str(error), None)
            response.headers[hdrs.RETRY_AFTER] = "1"
            return response
        return _json({"stored": stored})

    def _sender(self, asker: Asker) -> Sender | None:
        """Give who a sidecar is by its SPIFFE ID, where the policies say; None where nobody can tell."""
        known = self._answering.followed.now
        if known is None or asker.identity is None or asker.role is Role.ADMIN:
            return None
        owner_of = known.index.identity_owner
        return Sender(service=owner_of(asker.identity) or "(nobody)", identity=asker.identity, owner_of=owner_of)

    def _handler(self, operation: Operation) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            now_ns = time.time_ns()
            try:
                values = operation.values(request.match_info, list(request.query.items()), now_ns)
                content = await asyncio.to_thread(self._answer, operation, values, now_ns, request[_ASKER].role)
            except ParameterError as error:
                return fault(400, str(error), error.parameter)
            except UnknownError as error:
                return fault(404, str(error), error.parameter)
            except StoreError as error:
                _log.error("the store cannot be asked: %s", error)
                return fault(503, "the store does not answer now", None)
            return web.Response(body=content, content_type="application/json")

        return answer

    def _answer(self, operation: Operation, values: dict[str, Any], now_ns: int, role: Role) -> bytes:
        answer = self._answering.answer(operation.name, values, now_ns)
        return json.dumps(operation.shown(answer, role), separators=(",", ":")).encode("ascii")

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        try:
            values = STREAM.values(request.match_info, list(request.query.items()), time.time_ns())
        except ParameterError as error:
            return fault(400, str(error), error.parameter)
        listener = None if self._ended else self._events.listen(values["events"])
        if listener is None:
            return fault(503, "too many listen already", None)
        response = web.StreamResponse(
            headers={**HEADERS, hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store"}
        )
        try:
            await response.prepare(request)
            await response.write(b": these events are told as they happen\n\n")
            number = 0
            while True:
                try:
                    event = await asyncio.wait_for(listener.next(), _KEEP_ALIVE_S)
                except TimeoutError:
                    await response.write(b": nothing new\n\n")
                    continue
                if event is None:
                    break
                number += 1
                await response.write(event.to_bytes(number))
            await response.write_eof()
        except ConnectionError:
            # Who listened has gone: a tab that was closed is nothing to report.
            _log.debug("a listener has gone")
        finally:
            self._events.leave(listener)
        return response

    async def _openapi(self, _: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type="application/json")

    async def _metrics_text(self, _: web.Request) -> web.Response:
        content = await asyncio.to_thread(self._metrics)
        return web.Response(body=content, headers={hdrs.CONTENT_TYPE: "text/plain; version=0.0.4; charset=utf-8"})

    async def _health(self, _: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _page(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info.get("file", "index.html")
        path = (_PAGES / name).resolve() if _FILE.fullmatch(name) else _PAGES
        kind = _TYPES.get(path.suffix)
        if kind is None or not path.is_relative_to(_PAGES.resolve()) or not path.is_file():
            return fault(404, "there is no such file", None)
        content = await asyncio.to_thread(path.read_bytes)
        tag = hashlib.sha256(content).hexdigest()[:32]
        # Asked about each time, and sent where it is another one: a page is never made of two versions of the hub.
        headers = {hdrs.CACHE_CONTROL: "no-cache", hdrs.ETAG: f'"{tag}"'}
        known = request.if_none_match or ()
        if any(each.value in {tag, "*"} for each in known):
            return web.Response(status=304, headers=headers)
        return web.Response(body=content, headers={**headers, hdrs.CONTENT_TYPE: kind})


class _RefusedError(AuthzError):
    """A request that goes no further."""

    def __init__(self, response: web.Response) -> None:
        super().__init__()
        self.response = response


def _role_of(request: web.Request) -> Role | None:
    """Give the role that a request needs, None where anybody may: the page itself, and whether the hub lives."""
    resource = request.match_info.route.resource
    path = "" if resource is None else resource.canonical
    if path == PATH:
        return Role.SIDECAR
    for operation in OPERATIONS:
        if path == API + operation.path:
            return operation.role
    return None if path in {"/", "/page/{file}", "/healthz", f"{API}/openapi.json"} else Role.VIEWER


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _json(value: Any) -> web.Response:
    return web.Response(body=json.dumps(value).encode("ascii"), content_type="application/json")
