"""A decision as the process that answers hands it over: some hundred bytes, packed in a microsecond, read elsewhere.

What differs from call to call stands apart from what many calls have in common, its *kind*, which is packed once and
then only copied. Who reads records knows a kind again by its bytes.

What a caller sent is cut and never trusted: the path is kept only for denies and where no route matched, without its
query; headers and bodies never.

Both ends are the same program on the same machine, and the bytes never leave it: marshal is the fastest form that the
standard library has. What carries them guards them by a checksum; marshal is no form for bytes of others.
"""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, Final, TypeAlias

from authz.request import Direction

if TYPE_CHECKING:
    from authz.decision import Decision
    from authz.request import Call

#: Python 3.11 runs code of its own for each member that is read from an Enum; this one is read for every call.
_INBOUND: Final = Direction.INBOUND
MAX_PATH_BYTES: Final = 256
#: A host name has at most 253 characters (RFC 1035 2.3.4), and a port; a method is a short token.
MAX_HOST_BYTES: Final = 260
MAX_METHOD_BYTES: Final = 64
MAX_REQUEST_ID_BYTES: Final = 128
#: kinds that are kept packed: a workload has some hundred, of some hundred bytes
_MOST_KINDS: Final = 2048

_Kind: TypeAlias = (
    "tuple[bool, str, str | None, str | None, str, str, Decision, str, str | None, str | None, str | None]"
)


class DecisionPacker:
    """Packs decisions, each kind of them once; for one thread, and bounded."""

    __slots__ = ("_kinds",)

    def __init__(self) -> None:
        self._kinds: dict[_Kind, bytes] = {}

    def packed(
        self,
        *,
        decision_id: bytes,
        time_ns: int,
        call: Call,
        caller: str | None,
        decision: Decision,
        request_id: str | None,
        protocol: str,
        tls_version: str | None,
        tls_cipher: str | None,
        peer_serial: str | None,
        check_us: int,
    ) -> bytes:
        """Pack what the record of a decision needs.

        `decision_id` has 32 bytes of ASCII; `caller` is the text of the call's caller.
        """
        presenter = call.presenter
        kind = (
            call.direction is _INBOUND,
            call.service,
            caller,
            None if presenter is None else str(presenter),
            call.host[:MAX_HOST_BYTES],
            call.method[:MAX_METHOD_BYTES],
            decision,
            protocol,
            tls_version,
            tls_cipher,
            peer_serial,
        )
        return marshal.dumps(
            (
                decision_id,
                time_ns,
                None if request_id is None else request_id[:MAX_REQUEST_ID_BYTES],
                call.address,
                # It is not told where a route stands for it.
                None
                if decision.route is not None and decision.reason.allows
                else call.path.partition("?")[0][:MAX_PATH_BYTES],
                check_us,
                self._kinds.get(kind) or self._packed_kind(kind),
            ),
        )

    def _packed_kind(self, kind: _Kind) -> bytes:
        packed = _packed_kind(kind)
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        self._kinds[kind] = packed
        return packed


def repeated(packed: bytes) -> tuple[str | None, bytes]:
    """Give what is the same in all records of a check that is asked again: its path, and its kind."""
    _, _, _, _, path, _, kind = marshal.loads(packed)  # noqa: S302 its own program's bytes
    return path, kind


def packed_again(  # noqa: PLR0917 it is called for every check, and keywords would cost more than it does
    decision_id: bytes, time_ns: int, request_id: str, address: str, path: str | None, check_us: int, kind: bytes
) -> bytes:
    """Pack what `DecisionPacker.packed` does, where path and kind are known; the request's id is a UUID."""
    return marshal.dumps((decision_id, time_ns, request_id, address, path, check_us, kind))


def _packed_kind(kind: _Kind) -> bytes:
    inbound, service, caller, presenter, host, method, decision, protocol, tls_version, tls_cipher, peer_serial = kind
    shadow = decision.shadow
    return marshal.dumps(
        (
            inbound,
            service,
            caller,
            presenter,
            host,
            method,
            str(decision.reason),
            decision.policy,
            None if shadow is None else (str(shadow.reason), shadow.policy),
            decision.revision,
            decision.valid_until_ns,
            decision.caller_service,
            decision.caller_third_party,
            decision.destination_service,
            decision.destination_third_party,
            decision.route,
            protocol,
            tls_version,
            tls_cipher,
            peer_serial,
        )
    )
