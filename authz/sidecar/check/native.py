"""The ext_authz service on our own HTTP/2: what a worker serves unless it is told otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.sidecar.hold.verdict import RECHECK

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.sidecar.check.check_server import Answer, CheckServer, ServerMaker

CHECK: Final = "/envoy.service.auth.v3.Authorization/Check"


def native_server() -> ServerMaker:
    """Load what is needed, and give what makes servers."""
    from authz.sidecar.check.http2.grpc import Service  # noqa: PLC0415 the supervisor knows of it and does not load it
    from authz.sidecar.check.http2.health import HEALTH_CHECK, health_check  # noqa: PLC0415 same
    from authz.sidecar.check.http2.server import Http2Server  # noqa: PLC0415 same
    from authz.sidecar.check.question import MAX_MESSAGE_BYTES  # noqa: PLC0415 same

    def make(answer: Answer, recheck: Answer, failed: Callable[[Exception], None]) -> CheckServer:
        methods = {CHECK: answer, RECHECK: recheck, HEALTH_CHECK: health_check(_serves)}
        return Http2Server(Service(methods, max_message_bytes=MAX_MESSAGE_BYTES), failed=failed)

    return make


def _serves(service: str) -> bool | None:
    return True if service in {"", "envoy.service.auth.v3.Authorization"} else None
