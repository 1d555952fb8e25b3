"""From the bytes of a CheckRequest to the question that it asks. The only module that reads Envoy's messages.

What is read is what Envoy says of the call (envoy.service.auth.v3.AttributeContext). With `encode_raw_headers` the
header map holds the bytes as they came, pseudo-headers and repeats included; these win over the string fields, which
Envoy may have altered to be valid UTF-8. Bytes become text by Latin-1, one character a byte, so that nothing is lost
and whatever is no visible ASCII is refused later as malformed.

Nothing is judged here but the form: `direction` is the one claim of `context_extensions` that is read; `service` and
`workload` are kept for comparison with the sidecar's own, `destination` for comparison with what is decided about.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes

from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf.message import DecodeError

from authz.proxy.header_names import AUTHZ_PREFIX, X_AUTHZ_TLS_CIPHER, X_AUTHZ_TLS_VERSION
from authz.request import Direction, TlsVersion
from authz.sidecar.errors import CheckMessageError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Envoy takes at most 60 KiB of request headers, and a certificate rarely has more than 4 KiB.
MAX_MESSAGE_BYTES: Final = 1024 * 1024
#: The most that is decoded of a URL-encoded certificate; the leaf alone is sent.
MAX_CERTIFICATE_BYTES: Final = 256 * 1024

_TLS_VERSIONS: Final = {"TLSv1.2": TlsVersion.TLS_1_2, "TLSv1.3": TlsVersion.TLS_1_3}
_PROTOCOLS: Final = {"HTTP/1.0": "http/1.1", "HTTP/1.1": "http/1.1", "HTTP/2": "http/2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One check as Envoy put it: the call without its caller, the evidence of the caller, and facts for the record.

    `routed_to` is the name of the destination that Envoy's outbound route leads to, "" for nowhere, None where the
    route does not say. `certificate_pem` is the peer's leaf, empty where there is none. `headers` are lower-case names
    with their raw values, in order, without pseudo-headers and without the sidecar's own `x-authz-*`.
    """

    direction: Direction
    claimed_service: str | None
    claimed_workload: str | None
    routed_to: str | None
    certificate_pem: bytes
    address: str
    method: str
    path: str
    host: str
    headers: tuple[tuple[str, bytes], ...]
    request_id: str | None
    protocol: str
    tls: TlsVersion | None
    tls_cipher: str | None


def question_from_bytes(message: bytes) -> Question:
    """Read a CheckRequest; raises CheckMessageError where it is none, or says nothing of its direction."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise CheckMessageError(f"the check has {len(message)} bytes, more than {MAX_MESSAGE_BYTES}")
    try:
        request = external_auth_pb2.CheckRequest.FromString(message)
    except DecodeError as error:
        raise CheckMessageError("the check is no envoy.service.auth.v3.CheckRequest") from error
    attributes = request.attributes
    http = attributes.request.http
    pseudo: dict[str, str] = {}
    own: dict[str, str] = {}
    headers: list[tuple[str, bytes]] = []
    for header in http.header_map.headers:
        name = header.key
        value = header.raw_value or header.value.encode()
        if name.startswith(":"):
            pseudo[name] = value.decode("latin-1")
        elif name.startswith(AUTHZ_PREFIX):
            own[name] = value.decode("latin-1")
        else:
            headers.append((name, value))
    # A sidecar whose Envoy does not send raw headers still decides; repeats are joined by Envoy then.
    headers.extend(
        (name, value.encode()) for name, value in http.headers.items() if not name.startswith((":", AUTHZ_PREFIX))
    )
    source = attributes.source
    return Question(
        direction=_direction(attributes.context_extensions),
        claimed_service=attributes.context_extensions.get("service"),
        claimed_workload=attributes.context_extensions.get("workload"),
        routed_to=attributes.context_extensions.get("destination"),
        certificate_pem=_certificate(source.certificate),
        address=_address(source.address.socket_address),
        method=pseudo.get(":method", http.method),
        path=pseudo.get(":path", http.path),
        host=pseudo.get(":authority", http.host),
        headers=tuple(headers),
        request_id=_first(headers, "x-request-id"),
        protocol=_protocol(http.protocol, headers),
        tls=_TLS_VERSIONS.get(own.get(X_AUTHZ_TLS_VERSION, "")),
        tls_cipher=own.get(X_AUTHZ_TLS_CIPHER) or None,
    )


def _direction(context: Mapping[str, str]) -> Direction:
    claimed = context.get("direction", "")
    try:
        return Direction(claimed)
    except ValueError as error:
        # A route without per-route configuration sends an empty map: a misconfigured listener, never a guess.
        text = f"context_extensions say direction `{claimed[:32]}`, not inbound or outbound"
        raise CheckMessageError(text) from error


def _certificate(encoded: str) -> bytes:
    if len(encoded) > MAX_CERTIFICATE_BYTES:
        raise CheckMessageError(f"the certificate has {len(encoded)} bytes, more than {MAX_CERTIFICATE_BYTES}")
    return unquote_to_bytes(encoded)


def _address(socket_address: external_auth_pb2.AttributeContext) -> str:
    host: str = socket_address.address
    if not host:
        return ""
    return f"[{host}]:{socket_address.port_value}" if ":" in host else f"{host}:{socket_address.port_value}"


def _first(headers: list[tuple[str, bytes]], wanted: str) -> str | None:
    return next((value.decode("latin-1") for name, value in headers if name == wanted), None)


def _protocol(version: str, headers: list[tuple[str, bytes]]) -> str:
    content_type = _first(headers, "content-type") or ""
    if content_type == "application/grpc" or content_type.startswith(("application/grpc+", "application/grpc;")):
        return "grpc"
    if (_first(headers, "upgrade") or "").lower() == "websocket":
        return "websocket"
    return _PROTOCOLS.get(version, "http/1.1")
