"""The messages and methods of the SPIFFE Workload API, built as protobuf descriptors in code.

Names and field numbers are the standard's (SPIFFE Workload API 5.1 and 6.1). They stand in a descriptor pool of their
own: another client in the same process (py-spiffe) registers messages of the same names, and the default pool takes
each name once. A message of that pool and one of ours are different classes with the same bytes.

Only shapes are decided here. A message that parses may hold anything: who reads it judges it.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Workload_API.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, struct_pb2
from google.protobuf.message import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping, MutableSequence
    from typing import Any

#: The service has no package (Workload API 3).
SERVICE: Final = "SpiffeWorkloadAPI"
#: Every call carries this metadata, or it is refused as InvalidArgument (Workload Endpoint 3).
SECURITY_HEADER: Final = ("workload.spiffe.io", "true")

_FILE: Final = "picoseg/spiffe_workload_api.proto"
_STRUCT: Final = "google.protobuf.Struct"
_STRING: Final = descriptor_pb2.FieldDescriptorProto.TYPE_STRING
_BYTES: Final = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
_MESSAGE: Final = descriptor_pb2.FieldDescriptorProto.TYPE_MESSAGE
_ONE: Final = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
_MANY: Final = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED

#: message -> its fields in the order of their numbers, from 1: name and type, where `[x]` is many of x, and `{}` is a
#: map of string to bytes
_SHAPES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "X509SVIDRequest": (),
    "X509SVIDResponse": (("svids", "[X509SVID]"), ("crl", "[bytes]"), ("federated_bundles", "{}")),
    "X509SVID": (
        ("spiffe_id", "string"),
        ("x509_svid", "bytes"),
        ("x509_svid_key", "bytes"),
        ("bundle", "bytes"),
        ("hint", "string"),
    ),
    "X509BundlesRequest": (),
    "X509BundlesResponse": (("crl", "[bytes]"), ("bundles", "{}")),
    "JWTSVIDRequest": (("audience", "[string]"), ("spiffe_id", "string")),
    "JWTSVIDResponse": (("svids", "[JWTSVID]"),),
    "JWTSVID": (("spiffe_id", "string"), ("svid", "string"), ("hint", "string")),
    "JWTBundlesRequest": (),
    "JWTBundlesResponse": (("bundles", "{}"),),
    "ValidateJWTSVIDRequest": (("audience", "string"), ("svid", "string")),
    "ValidateJWTSVIDResponse": (("spiffe_id", "string"), ("claims", _STRUCT)),
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=_FILE, syntax="proto3", dependency=[struct_pb2.DESCRIPTOR.name])
    for name, fields in _SHAPES.items():
        message = file.message_type.add(name=name)
        for number, (field, shape) in enumerate(fields, start=1):
            _add_field(message, field, number, shape)
    return file


def _add_field(message: descriptor_pb2.DescriptorProto, name: str, number: int, shape: str) -> None:
    field = message.field.add(name=name, number=number, label=_ONE)
    if shape == "{}":
        # A map is many entries of a message of its own, named after the field.
        entry = message.nested_type.add(name="".join(word.capitalize() for word in name.split("_")) + "Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, label=_ONE, type=_STRING)
        entry.field.add(name="value", number=2, label=_ONE, type=_BYTES)
        field.type, field.type_name, field.label = _MESSAGE, f".{message.name}.{entry.name}", _MANY
        return
    if shape.startswith("["):
        field.label, shape = _MANY, shape[1:-1]
    match shape:
        case "string":
            field.type = _STRING
        case "bytes":
            field.type = _BYTES
        case _:
            field.type, field.type_name = _MESSAGE, f".{shape}"


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_file().SerializeToString())
    return pool


if TYPE_CHECKING:

    class X509SVIDRequest(Message):
        """Asks for the X.509-SVIDs of whoever asks."""

    class X509SVID(Message):
        """One X.509-SVID: chain (DER, concatenated, leaf first), its key (PKCS#8 DER), its trust domain's bundle."""

        spiffe_id: str
        x509_svid: bytes
        x509_svid_key: bytes
        bundle: bytes
        hint: str

        def __init__(
            self,
            *,
            spiffe_id: str = ...,
            x509_svid: bytes = ...,
            x509_svid_key: bytes = ...,
            bundle: bytes = ...,
            hint: str = ...,
        ) -> None: ...

    class X509SVIDResponse(Message):
        """All X.509-SVIDs of a workload, and the bundles of foreign trust domains by their SPIFFE IDs."""

        svids: MutableSequence[X509SVID]
        crl: MutableSequence[bytes]
        federated_bundles: MutableMapping[str, bytes]

        def __init__(
            self,
            *,
            svids: Iterable[X509SVID] = ...,
            crl: Iterable[bytes] = ...,
            federated_bundles: Mapping[str, bytes] = ...,
        ) -> None: ...

    class X509BundlesRequest(Message):
        """Asks for the X.509 bundles that a workload may use."""

    class X509BundlesResponse(Message):
        """X.509 bundles (DER, concatenated) by the SPIFFE IDs of their trust domains."""

        crl: MutableSequence[bytes]
        bundles: MutableMapping[str, bytes]

        def __init__(self, *, crl: Iterable[bytes] = ..., bundles: Mapping[str, bytes] = ...) -> None: ...

    class JWTSVIDRequest(Message):
        """Asks for JWT-SVIDs for an audience, of one SPIFFE ID or (where it is empty) of all."""

        spiffe_id: str

        audience: MutableSequence[str]

        def __init__(self, *, audience: Iterable[str] = ..., spiffe_id: str = ...) -> None: ...

    class JWTSVID(Message):
        """One JWT-SVID in JWS compact serialization."""

        spiffe_id: str
        svid: str
        hint: str

        def __init__(self, *, spiffe_id: str = ..., svid: str = ..., hint: str = ...) -> None: ...

    class JWTSVIDResponse(Message):
        """The JWT-SVIDs that were asked for."""

        svids: MutableSequence[JWTSVID]

        def __init__(self, *, svids: Iterable[JWTSVID] = ...) -> None: ...

    class JWTBundlesRequest(Message):
        """Asks for the JWT bundles that a workload may use."""

    class JWTBundlesResponse(Message):
        """JWT bundles (JWK sets) by the SPIFFE IDs of their trust domains."""

        bundles: MutableMapping[str, bytes]

        def __init__(self, *, bundles: Mapping[str, bytes] = ...) -> None: ...

    class ValidateJWTSVIDRequest(Message):
        """Asks whether a JWT-SVID is good for an audience."""

        audience: str
        svid: str

        def __init__(self, *, audience: str = ..., svid: str = ...) -> None: ...

    class ValidateJWTSVIDResponse(Message):
        """Whose a JWT-SVID is, with its claims."""

        spiffe_id: str

        claims: struct_pb2.Struct

        def __init__(self, *, spiffe_id: str = ..., claims: Mapping[str, Any] | struct_pb2.Struct = ...) -> None: ...

else:
    _POOL = _pool()
    # The classes are the module's, under the names above.
    globals().update({name: message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name)) for name in _SHAPES})


_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method(Generic[_Request, _Response]):
    """One method of the service: what it takes, what it gives, and whether it gives a stream of it."""

    name: str
    request: type[_Request]
    response: type[_Response]
    streams: bool

    @property
    def path(self) -> str:
        """The method as gRPC names it on the wire."""
        return f"/{SERVICE}/{self.name}"


FETCH_X509_SVID: Final = Method(name="FetchX509SVID", request=X509SVIDRequest, response=X509SVIDResponse, streams=True)
FETCH_X509_BUNDLES: Final = Method(
    name="FetchX509Bundles", request=X509BundlesRequest, response=X509BundlesResponse, streams=True
)
FETCH_JWT_SVID: Final = Method(name="FetchJWTSVID", request=JWTSVIDRequest, response=JWTSVIDResponse, streams=False)
FETCH_JWT_BUNDLES: Final = Method(
    name="FetchJWTBundles", request=JWTBundlesRequest, response=JWTBundlesResponse, streams=True
)
VALIDATE_JWT_SVID: Final = Method(
    name="ValidateJWTSVID", request=ValidateJWTSVIDRequest, response=ValidateJWTSVIDResponse, streams=False
)
