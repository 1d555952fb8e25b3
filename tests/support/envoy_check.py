"""A CheckRequest read through Envoy's own generated classes, field by field: what the reader of checks is held to."""

from __future__ import annotations

from typing import Any

from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf.message import DecodeError

OWN_PREFIX = "x-authz-"


def as_envoy_says(request: external_auth_pb2.CheckRequest) -> dict[str, Any]:
    """Give what a question should say, by the field's names in the proto files."""
    attributes = request.attributes
    http = attributes.request.http
    every = [(header.key, header.raw_value or header.value.encode()) for header in http.header_map.headers]
    pseudo = dict(every)
    joined = [(name, value.encode()) for name, value in http.headers.items() if not name.startswith((":", OWN_PREFIX))]
    address = attributes.source.address.socket_address
    return {
        "method": pseudo.get(":method", http.method.encode()).decode("latin-1"),
        "path": pseudo.get(":path", http.path.encode()).decode("latin-1"),
        "host": pseudo.get(":authority", http.host.encode()).decode("latin-1"),
        "headers": [each for each in every if not each[0].startswith((":", OWN_PREFIX))] + sorted(joined),
        "certificate": attributes.source.certificate.encode(),
        "port": address.port_value,
        "context": dict(attributes.context_extensions),
    }


def parsed(message: bytes) -> external_auth_pb2.CheckRequest | None:
    """Give the message as Envoy's classes read it, None where they do not."""
    try:
        return external_auth_pb2.CheckRequest.FromString(message)
    except DecodeError:
        return None
