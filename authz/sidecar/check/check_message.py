"""The part of Envoy's CheckRequest that a check reads, as messages of its own: what is not read is not made.

Generated classes for the whole of AttributeContext cost three times as much, nearly all of it for objects that nobody
looks at. These have the same field numbers (a test holds them to Envoy's own descriptors) and leave as bytes what is
read only when it is asked for: texts, single headers, the entries of context_extensions, and the peer, who is the same
for all calls of a connection.

envoy/service/auth/v3/attribute_context.proto, envoy/config/core/v3/{base,address}.proto,
google/protobuf/timestamp.proto
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field

_PACKAGE: Final = "authz.check"
_BYTES_OF: Final = "bytes of "
#: message -> (field, number, what it is: bytes, a number, or one of these messages; with [] where it repeats;
#: `bytes of` a message gives the bytes of each time that it stands in the wire form, which joined are the message)
FIELDS: Final[dict[str, tuple[tuple[str, int, str], ...]]] = {
    "CheckRequest": (("attributes", 1, "AttributeContext"),),
    "AttributeContext": (
        ("source", 1, "bytes of Peer"),
        ("request", 4, "Request"),
        ("context_extensions", 10, "bytes[]"),
    ),
    "Peer": (("address", 1, "Address"), ("certificate", 5, "bytes")),
    "Address": (("socket_address", 1, "SocketAddress"),),
    "SocketAddress": (("address", 2, "bytes"), ("port_value", 3, "uint32")),
    "Request": (("time", 1, "Timestamp"), ("http", 2, "HttpRequest")),
    "Timestamp": (("seconds", 1, "int64"), ("nanos", 2, "int32")),
    "HttpRequest": (
        ("method", 2, "bytes"),
        ("headers", 3, "bytes[]"),
        ("path", 4, "bytes"),
        ("host", 5, "bytes"),
        ("protocol", 10, "bytes"),
        ("header_map", 13, "HeaderMap"),
    ),
    "HeaderMap": (("headers", 1, "bytes[]"),),
    "UnreadCheckRequest": (("attributes", 1, "UnreadAttributeContext"),),
    "UnreadAttributeContext": (
        ("source", 1, "bytes of Peer"),
        ("request", 4, "UnreadRequest"),
        ("context_extensions", 10, "bytes[]"),
    ),
    "UnreadRequest": (("time", 1, "Timestamp"), ("http", 2, "UnreadHttpRequest")),
    "UnreadHttpRequest": (
        ("headers", 3, "bytes[]"),
        ("protocol", 10, "bytes"),
        ("header_map", 13, "bytes of HeaderMap"),
    ),
    "HeaderValue": (("key", 1, "bytes"), ("value", 2, "bytes"), ("raw_value", 3, "bytes")),
    "Entry": (("key", 1, "bytes"), ("value", 2, "bytes")),
}
_SCALARS: Final = {
    "bytes": Field.TYPE_BYTES,
    "int32": Field.TYPE_INT32,
    "int64": Field.TYPE_INT64,
    "uint32": Field.TYPE_UINT32,
}


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="authz/check.proto", package=_PACKAGE, syntax="proto3")
    for message, fields in FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            # Protocol Buffers, encoding: a message that stands twice is merged, as if its bytes were joined.
            repeated = kind.endswith("[]") or kind.startswith(_BYTES_OF)
            label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=label)
            plain = "bytes" if kind.startswith(_BYTES_OF) else kind.removesuffix("[]")
            if plain in _SCALARS:
                field.type = _SCALARS[plain]
            else:
                field.type = Field.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE}.{plain}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in FIELDS}


_CLASSES: Final = _classes()
#: The check: `CheckRequest.FromString(bytes)`; raises google.protobuf.message.DecodeError.
CheckRequest: Final = _CLASSES["CheckRequest"]
#: The same check, of which as much is left as bytes as can be: who knows those need not read them.
UnreadCheckRequest: Final = _CLASSES["UnreadCheckRequest"]
#: All raw headers.
HeaderMap: Final = _CLASSES["HeaderMap"]
#: Who called, and from where.
Peer: Final = _CLASSES["Peer"]
#: One header of `header_map`.
HeaderValue: Final = _CLASSES["HeaderValue"]
#: One entry of a map of texts: `headers`, `context_extensions`.
Entry: Final = _CLASSES["Entry"]
