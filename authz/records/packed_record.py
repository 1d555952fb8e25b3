"""A decision as the process that answers hands it over: some hundred bytes, packed in a microsecond, read elsewhere.

What differs from call to call stands apart from what many calls have in common, its *kind*, which is packed once and
then only copied. Who reads records knows a kind again by its bytes.

Both ends are the same program on the same machine, and the bytes never leave it: marshal is the fastest form that the
standard library has. What carries them guards them by a checksum; marshal is no form for bytes of others.
"""

from __future__ import annotations

import marshal
from typing import Any, Final, TypeAlias

from authz.decision import Decision, Reason, Shadow
from authz.identity.spiffe_id import SpiffeId
from authz.records.decision_record import (
    MAX_HOST_BYTES,
    MAX_METHOD_BYTES,
    MAX_PATH_BYTES,
    MAX_REQUEST_ID_BYTES,
    DecisionRecord,
    WireFacts,
)
from authz.records.errors import RecordError
from authz.request import Call, Direction

#: Python 3.11 runs code of its own for each member that is read from an Enum; this one is read for every call.
_INBOUND: Final = Direction.INBOUND
#: of a record, its kind counted as one; and of a kind
_FIELDS: Final = 7
_KIND_FIELDS: Final = 20
#: kinds that are kept packed: a workload has some hundred, of some hundred bytes
_MOST_KINDS: Final = 2048

_Kind: TypeAlias = tuple[bool, str, str | None, str | None, str, str, Decision, str, str | None, str | None, str | None]


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


def pack_decision(
    *,
    decision_id: bytes,
    time_ns: int,
    call: Call,
    decision: Decision,
    wire: WireFacts,
    check_us: int,
) -> bytes:
    """Pack what the record of one decision needs; `decision_id` has 32 bytes of ASCII."""
    return DecisionPacker().packed(
        decision_id=decision_id,
        time_ns=time_ns,
        call=call,
        caller=None if call.caller is None else str(call.caller),
        decision=decision,
        request_id=wire.request_id,
        protocol=wire.protocol,
        tls_version=wire.tls_version,
        tls_cipher=wire.tls_cipher,
        peer_serial=wire.peer_serial,
        check_us=check_us,
    )


def unpack_decision(packed: bytes, sidecar: str) -> DecisionRecord:
    """Give the record that was packed in this sidecar; raises RecordError for what no packer gave."""
    try:
        fields = marshal.loads(packed)  # noqa: S302 its own program's bytes, under a checksum
        if type(fields) is not tuple or len(fields) != _FIELDS:
            raise RecordError("a record has not the fields of one")
        kind = marshal.loads(fields[-1])  # noqa: S302 the same
        if type(kind) is not tuple or len(kind) != _KIND_FIELDS:
            raise RecordError("a record's kind has not the fields of one")
        return _record(fields, kind, sidecar)
    except (ValueError, TypeError, EOFError, AttributeError) as error:
        raise RecordError("a record cannot be read") from error


def _record(fields: tuple[Any, ...], kind: tuple[Any, ...], sidecar: str) -> DecisionRecord:
    decision_id, time_ns, request_id, address, path, check_us, _ = fields
    (
        inbound, service, caller, presenter, host, method,
        reason, policy, shadow, revision, valid_until_ns,
        caller_service, caller_third_party, destination_service, destination_third_party, route,
        protocol, tls_version, tls_cipher, peer_serial,
    ) = kind  # fmt: skip
    call = Call(
        direction=Direction.INBOUND if inbound else Direction.OUTBOUND,
        service=service,
        caller=None if caller is None else SpiffeId.parse(caller),
        method=method,
        path=path or "",
        host=host,
        address=address,
        presenter=None if presenter is None else SpiffeId.parse(presenter),
    )
    decision = Decision(
        reason=Reason(reason),
        policy=policy,
        revision=revision,
        valid_until_ns=valid_until_ns,
        shadow=None
        if shadow is None
        else Shadow(decision=Reason(shadow[0]).verdict, reason=Reason(shadow[0]), policy=shadow[1]),
        caller_service=caller_service,
        caller_third_party=caller_third_party,
        destination_service=destination_service,
        destination_third_party=destination_third_party,
        route=route,
    )
    wire = WireFacts(
        request_id=request_id,
        protocol=protocol,
        tls_version=tls_version,
        tls_cipher=tls_cipher,
        peer_serial=peer_serial,
    )
    return DecisionRecord(
        decision_id=decision_id.decode("ascii"),
        time_ns=time_ns,
        sidecar=sidecar,
        call=call,
        decision=decision,
        wire=wire,
        check_us=check_us,
    )
