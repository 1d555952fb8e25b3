"""Who called whom, over what: the parts that a record of one call and a flow of many have in common.

They are written and read here, and nowhere else, so that a record and a flow of the same call name the same things.
Limits are those of what they hold; what a sidecar knows that is longer is cut before it gets here (`cut_text`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from authz.decision import Reason, Shadow
from authz.records.errors import RecordError
from authz.records.failed_handshake import MAX_ADDRESS_CHARS
from authz.records.json_fields import fields_of, text_of, text_or_none
from authz.records.packed_record import MAX_HOST_BYTES, MAX_METHOD_BYTES
from authz.request import Direction

#: SPIFFE-ID 2.3: 2048 bytes, all of them ASCII
MAX_IDENTITY_CHARS: Final = 2048
#: Services, ThirdParties and policies are named by DNS labels (RFC 1035 2.3.4); as generous as a host name
MAX_NAME_CHARS: Final = 253
#: a template of the policies is at most as long as a path that is matched (authz.policy.route.MAX_TARGET_BYTES)
MAX_ROUTE_CHARS: Final = 8192
#: one of four words of the contract
MAX_PROTOCOL_CHARS: Final = 32
#: sha256 in hexadecimal
MAX_REVISION_CHARS: Final = 64
#: IANA's longest name of a cipher suite has 45
MAX_TLS_CHARS: Final = 64
#: RFC 5280 4.1.2.2: 20 octets, in hexadecimal
MAX_SERIAL_CHARS: Final = 40
MAX_HOST_CHARS: Final = MAX_HOST_BYTES
MAX_METHOD_CHARS: Final = MAX_METHOD_BYTES

_CALLER: Final = frozenset({"identity", "service", "third_party", "presented_by", "address"})
_DESTINATION: Final = frozenset({"service", "third_party", "host"})
_TLS: Final = frozenset({"version", "cipher", "peer_serial"})
_SHADOW: Final = frozenset({"decision", "reason", "policy"})
_DIRECTIONS: Final = {direction.value: direction for direction in Direction}
_REASONS: Final = {reason.value: reason for reason in Reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who called; `address` is `ip:port` in a record, and in a flow `ip` where there is no identity, else None."""

    identity: str | None = None
    service: str | None = None
    third_party: str | None = None
    presented_by: str | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Who was called; `host` is as the caller wrote it."""

    service: str | None = None
    third_party: str | None = None
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How the call was encrypted at the sidecar, as far as it is known."""

    version: str | None = None
    cipher: str | None = None
    peer_serial: str | None = None


def caller_json(caller: Caller) -> dict[str, str | None]:
    """Write a caller."""
    return {
        "identity": caller.identity,
        "service": caller.service,
        "third_party": caller.third_party,
        "presented_by": caller.presented_by,
        "address": caller.address,
    }


def caller_from_json(value: Any) -> Caller:
    """Read a caller; raises RecordError."""
    fields = fields_of(value, _CALLER, of="caller")
    return Caller(
        identity=text_or_none(fields["identity"], MAX_IDENTITY_CHARS, of="caller.identity"),
        service=text_or_none(fields["service"], MAX_NAME_CHARS, of="caller.service"),
        third_party=text_or_none(fields["third_party"], MAX_NAME_CHARS, of="caller.third_party"),
        presented_by=text_or_none(fields["presented_by"], MAX_IDENTITY_CHARS, of="caller.presented_by"),
        address=text_or_none(fields["address"], MAX_ADDRESS_CHARS, of="caller.address"),
    )


def destination_json(destination: Destination) -> dict[str, str | None]:
    """Write a destination."""
    return {
        "service": destination.service,
        "third_party": destination.third_party,
        "host": destination.host,
    }


def destination_from_json(value: Any) -> Destination:
    """Read a destination; raises RecordError."""
    fields = fields_of(value, _DESTINATION, of="destination")
    return Destination(
        service=text_or_none(fields["service"], MAX_NAME_CHARS, of="destination.service"),
        third_party=text_or_none(fields["third_party"], MAX_NAME_CHARS, of="destination.third_party"),
        host=text_of(fields["host"], MAX_HOST_CHARS, of="destination.host"),
    )


def tls_json(tls: Tls) -> dict[str, str | None]:
    """Write what is known of the encryption."""
    return {"version": tls.version, "cipher": tls.cipher, "peer_serial": tls.peer_serial}


def tls_from_json(value: Any) -> Tls:
    """Read what is known of the encryption; raises RecordError."""
    fields = fields_of(value, _TLS, of="tls")
    return Tls(
        version=text_or_none(fields["version"], MAX_TLS_CHARS, of="tls.version"),
        cipher=text_or_none(fields["cipher"], MAX_TLS_CHARS, of="tls.cipher"),
        peer_serial=text_or_none(fields["peer_serial"], MAX_SERIAL_CHARS, of="tls.peer_serial"),
    )


def shadow_json(shadow: Shadow | None) -> dict[str, str | None] | None:
    """Write the answer that would have been given with every mode `enforce`."""
    if shadow is None:
        return None
    return {"decision": shadow.decision.value, "reason": shadow.reason.value, "policy": shadow.policy}


def shadow_from_json(value: Any) -> Shadow | None:
    """Read such an answer; raises RecordError."""
    if value is None:
        return None
    fields = fields_of(value, _SHADOW, of="shadow")
    reason = reason_from_json(fields["decision"], fields["reason"], of="shadow")
    return Shadow(
        decision=reason.verdict,
        reason=reason,
        policy=text_or_none(fields["policy"], MAX_NAME_CHARS, of="shadow.policy"),
    )


def reason_from_json(decision: Any, reason: Any, *, of: str) -> Reason:
    """Read a decision's two words, which must agree; raises RecordError."""
    found = _REASONS.get(reason) if type(reason) is str else None
    if found is None:
        raise RecordError(f"{of}: `reason` is none of the reasons")
    if decision != found.verdict.value:
        raise RecordError(f"{of}: `decision` must be `{found.verdict.value}` where `reason` is `{found.value}`")
    return found


def direction_from_json(value: Any, *, of: str) -> Direction:
    """Read a direction; raises RecordError."""
    found = _DIRECTIONS.get(value) if type(value) is str else None
    if found is None:
        raise RecordError(f"{of}: `direction` must be `inbound` or `outbound`")
    return found


def cut_text(text: str, most_chars: int) -> str:
    """Give what a record holds of a text: at most so many characters, all of which UTF-8 can write."""
    text = text[:most_chars]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
