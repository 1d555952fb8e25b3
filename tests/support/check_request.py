"""CheckRequests as a real Envoy sends them, built by hand for tests that need no Envoy."""

from __future__ import annotations

from urllib.parse import quote

from envoy.service.auth.v3 import external_auth_pb2

#: where every call comes from
ADDRESS = "127.0.0.1:40404"
DEFAULT_HEADERS = ((":method", b"GET"), (":path", b"/items/42"), (":authority", b"catalog"))


def check_request(
    *,
    direction: str | None = "inbound",
    headers: tuple[tuple[str, bytes], ...] = (),
    method: str = "GET",
    path: str = "/items/42",
    host: str = "catalog",
    certificate_pem: bytes = b"",
    extensions: dict[str, str] | None = None,
    protocol: str = "HTTP/1.1",
) -> external_auth_pb2.CheckRequest:
    request = external_auth_pb2.CheckRequest()
    attributes = request.attributes
    if direction is not None:
        attributes.context_extensions["direction"] = direction
    attributes.context_extensions.update(extensions or {})
    address, _, port = ADDRESS.rpartition(":")
    attributes.source.address.socket_address.address = address
    attributes.source.address.socket_address.port_value = int(port)
    attributes.source.certificate = quote(certificate_pem.decode("ascii"))
    http = attributes.request.http
    http.method, http.host, http.protocol = method, host, protocol
    pseudo = ((":method", method.encode()), (":path", path.encode("latin-1")), (":authority", host.encode("latin-1")))
    for name, value in (*pseudo, *headers):
        header = http.header_map.headers.add()
        header.key, header.raw_value = name, value
    return request
