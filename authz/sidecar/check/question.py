"""From the bytes of a CheckRequest to the question that it asks.

What is read is what Envoy says of the call (envoy.service.auth.v3.AttributeContext). With `encode_raw_headers` the
header map holds the bytes as they came, pseudo-headers and repeats included; these win over the string fields, which
Envoy may have altered to be valid UTF-8. Bytes become text by Latin-1, one character a byte, so that nothing is lost
and whatever is no visible ASCII is refused later as malformed.

Nothing is judged here but the form: `direction` and `callers` are the claims of `context_extensions` that are read;
`service` and `workload` are kept for comparison with the sidecar's own, `destination` for comparison with what is
decided about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError

from authz.instant import NS_PER_S
from authz.policy.evaluation import CONNECT
from authz.request import Call, Direction, TlsVersion
from authz.sidecar.check.check_message import CheckRequest, Entry, Peer
from authz.sidecar.check.wire_headers import HeaderMemo, WireHeaders
from authz.sidecar.errors import CheckMessageError

#: Envoy takes at most 60 KiB of request headers, and a certificate rarely has more than 4 KiB.
MAX_MESSAGE_BYTES: Final = 1024 * 1024
#: What `callers` says of a door for callers without SPIFFE IDs; of any other door it says nothing.
CERTIFICATES: Final = "certificates"
#: What `held` says of a chain that only held calls come in by.
HELD_ALL: Final = "all"
#: The most that is taken of a URL-encoded certificate; the leaf alone is sent.
MAX_CERTIFICATE_BYTES: Final = 256 * 1024

#: Envoy's text -> the version, and its text in records
_TLS_VERSIONS: Final[dict[str, tuple[TlsVersion | None, str | None]]] = {
    "TLSv1.2": (TlsVersion.TLS_1_2, str(TlsVersion.TLS_1_2)),
    "TLSv1.3": (TlsVersion.TLS_1_3, str(TlsVersion.TLS_1_3)),
}
_NO_TLS: Final = (None, None)
_HTTP_1: Final = "http/1.1"
_GRPC: Final = "grpc"
#: What is asked by these over HTTP/2 hardly ever has a body, and the check cannot see whether it has (RFC 9110 9.3).
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"})
_PROTOCOLS: Final = {b"HTTP/1.0": _HTTP_1, b"HTTP/1.1": _HTTP_1, b"HTTP/2": "http/2"}
#: Routes have few contexts: one for each direction and destination.
_MOST_CONTEXTS: Final = 1024
_LONGEST_CONTEXT_BYTES: Final = 2048
#: Envoy keeps far fewer connections open to one workload; at most 8 MiB, the certificates included.
_MOST_CALLERS: Final = 1024
_LONGEST_CALLER_BYTES: Final = 4096


class Context(NamedTuple):
    """What the route that the call took says of itself.

    `destination` is the name of the destination that an outbound route leads to, "" for nowhere, None where the route
    does not say. `certificates`: the call came in where callers without SPIFFE IDs do, and nobody with one. `held`: it
    came in where every call is held.
    """

    direction: Direction
    service: str | None
    workload: str | None
    destination: str | None
    certificates: bool = False
    held: bool = False


class Caller(NamedTuple):
    """What Envoy says of the other end of a connection: the same for all of its calls."""

    certificate: bytes
    address: str


@dataclass(slots=True, kw_only=True, eq=False)
class Question(Call):
    """One check as Envoy put it: a call, the evidence of its caller, and facts for the record.

    Who calls (`caller`, `serial`, `presenter`) is not known yet: whoever judges the evidence fills it in, once. It is
    one value all the way, because each further one would cost as much as a look-up of a policy.

    `certificate` is the peer's leaf as Envoy sends it, PEM in URL encoding, empty where there is none. `headers` are
    lower-case names with their raw values, in order, without pseudo-headers and without the sidecar's own `x-authz-*`.
    """

    context: Context
    certificate: bytes
    request_id: str | None
    protocol: str
    tls_version: str | None
    tls_cipher: str | None
    #: whether there is an `authorization` header
    has_authorization: bool
    #: what the caller said in `grpc-timeout`, None where it said nothing
    timeout: str | None = None
    #: whether it may last: an upgrade, gRPC, events, a request that is long or of unknown length
    may_last: bool = False
    #: when Envoy began to serve the request, by the wall clock, in nanoseconds since the epoch; 0 where it does not say
    started_ns: int = 0
    #: the last instant at which what proves the caller is valid, None where nothing ends; filled in with `caller`
    proof_ends_ns: int | None = None


class QuestionReader:
    """Reads the checks of a Service's sidecar; remembers what is the same in many of them, bounded. For one thread."""

    __slots__ = ("_callers", "_contexts", "_memo", "_service")

    def __init__(self, service: str = "") -> None:
        self._service = service
        self._memo = HeaderMemo()
        self._contexts: dict[tuple[bytes, ...], Context] = {}
        self._callers: dict[bytes, Caller] = {}

    def question(self, message: bytes) -> Question:
        """Read a CheckRequest; raises CheckMessageError where it is none, or says nothing of its direction."""
        if len(message) > MAX_MESSAGE_BYTES:
            raise CheckMessageError(f"the check has {len(message)} bytes, more than {MAX_MESSAGE_BYTES}")
        try:
            attributes = CheckRequest.FromString(message).attributes
        except DecodeError as error:
            raise CheckMessageError("the check is no envoy.service.auth.v3.CheckRequest") from error
        request = attributes.request
        http = request.http
        source = attributes.source[:]
        peer = source[0] if len(source) == 1 else b"".join(source)
        certificate, address = self._callers.get(peer) or self._caller(peer)
        entries = tuple(attributes.context_extensions[:])
        headers = WireHeaders(self._memo, http.header_map.headers[:], http.headers[:])
        (
            method, path, host, content_type, upgrade, authorization, request_id, tls_version, tls_cipher, timeout,
            lasts, length, _,
        ) = headers.asked_for()  # fmt: skip
        context = self._contexts.get(entries) or self._context(entries)
        tls, version = _NO_TLS if tls_version is None else _TLS_VERSIONS.get(tls_version, _NO_TLS)
        # Written field by field: a class that is called with keywords gets a dictionary of them each time.
        question = Question.__new__(Question)
        question.direction = context.direction
        question.service = self._service
        question.caller = question.serial = question.third_party = question.presenter = None
        question.method = http.method.decode("latin-1") if method is None else method
        question.path = http.path.decode("latin-1") if path is None else path
        question.host = http.host.decode("latin-1") if host is None else host
        question.headers = headers
        question.tls = tls
        question.address = address
        question.context = context
        question.certificate = certificate
        question.request_id = request_id
        if content_type is None and upgrade is None:
            question.protocol = _PROTOCOLS.get(http.protocol, _HTTP_1)
        else:
            question.protocol = protocol_of(http.protocol, content_type, upgrade)
        question.tls_version = version
        question.tls_cipher = tls_cipher or None
        question.has_authorization = authorization is not None
        question.timeout = timeout
        question.may_last = (
            lasts is not None
            or upgrade is not None
            or question.protocol == _GRPC
            # A request over HTTP/1 that says nothing of its length has no body (RFC 9112 6.3).
            or (length is None and question.protocol != _HTTP_1 and question.method not in _WITHOUT_BODY)
            or question.method == CONNECT
        )
        began = request.time
        question.started_ns = began.seconds * NS_PER_S + began.nanos
        question.proof_ends_ns = None
        return question

    def _caller(self, encoded: bytes) -> Caller:
        try:
            peer = Peer.FromString(encoded)
        except DecodeError as error:
            raise CheckMessageError("the source of the check is none") from error
        certificate: bytes = peer.certificate
        if len(certificate) > MAX_CERTIFICATE_BYTES:
            raise CheckMessageError(f"the certificate has {len(certificate)} bytes, more than {MAX_CERTIFICATE_BYTES}")
        at = peer.address.socket_address
        caller = Caller(certificate, _address(at.address.decode("latin-1"), at.port_value))
        if len(encoded) <= _LONGEST_CALLER_BYTES:
            if len(self._callers) >= _MOST_CALLERS:
                self._callers.clear()
            self._callers[encoded] = caller
        return caller

    def _context(self, entries: tuple[bytes, ...]) -> Context:
        context = _context(entries)
        if len(self._contexts) >= _MOST_CONTEXTS:
            self._contexts.clear()
        if sum(map(len, entries)) <= _LONGEST_CONTEXT_BYTES:
            self._contexts[entries] = context
        return context


def _context(entries: tuple[bytes, ...]) -> Context:
    said: dict[str, str] = {}
    try:
        for each in entries:
            entry = Entry.FromString(each)
            said[entry.key.decode()] = entry.value.decode()
    except (DecodeError, UnicodeDecodeError) as error:
        raise CheckMessageError("the check's context_extensions are no map of texts") from error
    claimed = said.get("direction", "")
    try:
        direction = Direction(claimed)
    except ValueError as error:
        # A route without per-route configuration sends an empty map: a misconfigured listener, never a guess.
        text = f"context_extensions say direction `{claimed[:32]}`, not inbound or outbound"
        raise CheckMessageError(text) from error
    callers = said.get("callers")
    if callers not in {None, CERTIFICATES}:
        raise CheckMessageError(f"context_extensions say callers `{str(callers)[:32]}`, not `{CERTIFICATES}`")
    held = said.get("held")
    if held not in {None, HELD_ALL}:
        raise CheckMessageError(f"context_extensions say held `{str(held)[:32]}`, not `{HELD_ALL}`")
    return Context(
        direction,
        said.get("service"),
        said.get("workload"),
        said.get("destination"),
        callers == CERTIFICATES,
        held == HELD_ALL,
    )


def _address(host: str, port: int) -> str:
    if not host:
        return ""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def protocol_of(version: bytes, content_type: str | None, upgrade: str | None) -> str:
    """Give the name that records have for what is spoken: HTTP's version, and the headers where there are such."""
    if content_type is not None and (
        content_type == "application/grpc" or content_type.startswith(("application/grpc+", "application/grpc;"))
    ):
        return _GRPC
    if upgrade is not None and upgrade.lower() == "websocket":
        return "websocket"
    return _PROTOCOLS.get(version, _HTTP_1)
