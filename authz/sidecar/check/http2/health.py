"""grpc.health.v1.Health/Check, which a proxy or an orchestrator asks.

https://github.com/grpc/grpc/blob/master/doc/health-checking.md. Its two messages have one field each: reading them here
needs no generated code. `Watch` is not served: clients take UNIMPLEMENTED as "do not watch".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.sidecar.check.http2.grpc import GrpcError, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.check.http2.grpc import Unary

HEALTH_CHECK: Final = "/grpc.health.v1.Health/Check"
#: HealthCheckResponse{status: SERVING} and {status: NOT_SERVING}
SERVING: Final = b"\x08\x01"
NOT_SERVING: Final = b"\x08\x02"
#: a service's name is shorter than this
MAX_REQUEST_BYTES: Final = 1024

#: protobuf's wire type of strings
_LENGTH: Final = 2
#: ten groups of seven bits hold any 64-bit number
_VARINT_BYTES: Final = 10
_SERVICE_FIELD: Final = 1


def health_check(is_serving: Callable[[str], bool | None]) -> Unary:
    """Make the method; `is_serving` is asked with a service's name ("" for all) and gives None where it knows none."""

    def check(message: bytes) -> bytes:
        serving = is_serving(service_asked_for(message))
        if serving is None:
            raise GrpcError(Status.NOT_FOUND, "unknown service")
        return SERVING if serving else NOT_SERVING

    return check


def service_asked_for(message: bytes) -> str:
    """Read a HealthCheckRequest; raises GrpcError where it is none."""
    if len(message) > MAX_REQUEST_BYTES:
        raise GrpcError(Status.RESOURCE_EXHAUSTED, "the message is too large")
    service, at = b"", 0
    while at < len(message):
        key, at = _varint(message, at)
        length = 0
        match key & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                length = 8
            case 2:
                length, at = _varint(message, at)
            case 5:
                length = 4
            case _:
                raise _broken()
        if not key >> 3 or at + length > len(message):
            raise _broken()
        if key == _SERVICE_FIELD << 3 | _LENGTH:
            service = message[at : at + length]
        at += length
    try:
        return service.decode()
    except UnicodeDecodeError:
        raise _broken() from None


def _varint(message: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in range(_VARINT_BYTES):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        number |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:  # noqa: PLR2004 the bit that says that more follow
            return number, at
    raise _broken()


def _broken() -> GrpcError:
    return GrpcError(Status.INTERNAL, "no HealthCheckRequest")
