"""Packed decisions as lines of JSON, many thousands a second: for the decision log, which has every decision.

The record's JSON names are a contract. A line is what `json` writes of one, byte for byte (a law holds it to that); it
is made without the values between, and what the records of a kind have in common is written once. JSON's own escaping
keeps control characters and line ends inside one line.
"""

from __future__ import annotations

import marshal
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Any, Final

from authz.instant import NS_PER_MS, NS_PER_S, rfc3339_from_ns
from authz.records.errors import RecordError
from authz.records.recorded_decision import DecisionKind, RecordedDecision

if TYPE_CHECKING:
    from authz.records.call_end import CallEnd, UpstreamTls

#: pieces of lines that are kept, by their kinds: twice as many as one worker has
_MOST_KINDS: Final = 4096
#: the seconds of now, and those at which windows close
_MOST_SECONDS: Final = 1024
_NULL: Final = "null"

#: what stands between the time of a record and its address, between that and its path, and behind the path
_BEFORE_ADDRESS: Final = (
    'Z","sidecar":%s,"direction":"%s",'
    '"caller":{"identity":%s,"service":%s,"third_party":%s,"presented_by":%s,"address":'
)
_BEFORE_PATH: Final = '},"destination":{"service":%s,"third_party":%s,"host":%s},"method":%s,"route":%s,"path":'
_BEFORE_CHECK_US: Final = (
    ',"protocol":%s,"decision":"%s","reason":"%s","policy":%s,"shadow":%s,'
    '"revision":%s,"valid_until":%s,"tls":{"version":%s,"cipher":%s,"peer_serial":%s},"check_us":'
)
_END: Final = ',"status":null,"bytes_received":null,"bytes_sent":null,"duration_ms":null,"cut":false}\n'
_US_PER_MS: Final = 1000
#: where these stand among the facts of a kind
_INBOUND, _THIRD_PARTY, _TLS = 0, 14, slice(17, 19)
#: a third party agrees on one, mostly
_MOST_TLS: Final = 8
_ALLOWING: Final = frozenset({"allowed", "observed"})


class RecordLines:
    """Reads the records of one sidecar, and makes their lines; for one thread."""

    __slots__ = ("_kinds", "_seconds", "_sidecar")

    def __init__(self, sidecar: str) -> None:
        self._sidecar = encode_basestring_ascii(sidecar)
        self._kinds: dict[bytes, DecisionKind] = {}
        self._seconds: dict[int, str] = {}

    def line(self, packed: bytes) -> bytes:
        """Give the line of one packed decision, its line end included; raises RecordError for what is none."""
        return self.text(self.read(packed))

    def read(self, packed: bytes) -> RecordedDecision:
        """Read one packed decision; raises RecordError for what is none."""
        try:
            decision_id, time_ns, request_id, address, path, check_us, kind = marshal.loads(packed)  # noqa: S302 its own program's bytes
            return RecordedDecision(
                decision_id, time_ns, request_id, address, path, check_us, self._kinds.get(kind) or self._kind(kind)
            )
        except (ValueError, TypeError, EOFError, AttributeError) as error:
            raise RecordError("a record cannot be read") from error

    def text(self, recorded: RecordedDecision, end: CallEnd | None = None) -> bytes:
        """Give the line of a decision, with what is known of its call's end; raises RecordError for what is none."""
        decision_id, time_ns, request_id, address, path, check_us, kind = recorded
        if end is not None and end.tls is not None:
            kind = self.encrypted(kind, end.tls)
        try:
            before_address, before_path, before_check_us = kind.pieces
            second, rest_ns = divmod(time_ns, NS_PER_S)
            time = self._seconds.get(second) or self._second(second)
            return (
                f'{{"decision_id":"{decision_id.decode("ascii")}","request_id":{_quoted(request_id)},'
                f'"time":"{time}{rest_ns // NS_PER_MS:03d}{before_address}{_quoted(address)}{before_path}'
                f"{_quoted(path)}{before_check_us}{check_us:d}{_END if end is None else _ended(end)}"
            ).encode("ascii")
        except (ValueError, TypeError, AttributeError) as error:
            raise RecordError("a record cannot be read") from error

    def encrypted(self, kind: DecisionKind, tls: UpstreamTls) -> DecisionKind:
        """Give the kind of calls that went on to a third party by this TLS; the same where they did not go there."""
        facts = kind.facts
        if facts[_INBOUND] or facts[_THIRD_PARTY] is None or facts[_TLS][0] is not None:
            return kind
        known = kind.encrypted.get(tls)
        if known is None:
            if len(kind.encrypted) >= _MOST_TLS:
                kind.encrypted.clear()
            known = kind.encrypted[tls] = self._written((*facts[: _TLS.start], *tls, *facts[_TLS.stop :]))
        return known

    def _kind(self, packed: bytes) -> DecisionKind:
        kind = self._written(marshal.loads(packed))  # noqa: S302 its own program's bytes
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        self._kinds[packed] = kind
        return kind

    def _written(self, facts: Any) -> DecisionKind:
        """Write what all records of a kind have in common."""
        (
            inbound, _, caller, presenter, host, method,
            reason, policy, shadow, revision, valid_until_ns,
            caller_service, caller_third_party, destination_service, destination_third_party, route,
            protocol, tls_version, tls_cipher, peer_serial,
        ) = facts  # fmt: skip
        pieces = (
            _BEFORE_ADDRESS
            % (
                self._sidecar,
                "inbound" if inbound else "outbound",
                _quoted(caller),
                _quoted(caller_service),
                _quoted(caller_third_party),
                _quoted(presenter),
            ),
            _BEFORE_PATH
            % (
                _quoted(destination_service),
                _quoted(destination_third_party),
                _quoted(host),
                _quoted(method),
                _quoted(route),
            ),
            _BEFORE_CHECK_US
            % (
                _quoted(protocol),
                _verdict(reason),
                reason,
                _quoted(policy),
                _NULL if shadow is None else _shadow(*shadow),
                _quoted(revision),
                _NULL if valid_until_ns is None else f'"{rfc3339_from_ns(valid_until_ns)}"',
                _quoted(tls_version),
                _quoted(tls_cipher),
                _quoted(peer_serial),
            ),
        )
        return DecisionKind(facts, pieces, allows=reason in _ALLOWING)

    def _second(self, second: int) -> str:
        """Write an instant as far as its second, with the dot behind it."""
        text = rfc3339_from_ns(second * NS_PER_S)[:-4]
        if len(self._seconds) >= _MOST_SECONDS:
            self._seconds.clear()
        self._seconds[second] = text
        return text


def _ended(end: CallEnd) -> str:
    status = _NULL if end.status is None else f"{end.status:d}"
    return (
        f',"status":{status},"bytes_received":{end.received_bytes:d},"bytes_sent":{end.sent_bytes:d},'
        f'"duration_ms":{end.duration_us / _US_PER_MS!r},"cut":false}}\n'
    )


def _quoted(text: str | None) -> str:
    return _NULL if text is None else encode_basestring_ascii(text)


def _verdict(reason: str) -> str:
    return "allow" if reason in _ALLOWING else "deny"


def _shadow(reason: str, policy: str | None) -> str:
    return f'{{"decision":"{_verdict(reason)}","reason":"{reason}","policy":{_quoted(policy)}}}'
