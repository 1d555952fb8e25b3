"""Packed decisions as lines of JSON, many thousands a second: for the decision log, which has every decision.

The record's JSON names are a contract. A line is what `json` writes of one, byte for byte (a law holds it to that); it
is made without the values between, and what the records of a kind have in common is written once. JSON's own escaping
keeps control characters and line ends inside one line.
"""

from __future__ import annotations

import marshal
from json.encoder import encode_basestring_ascii
from typing import Final

from authz.instant import NS_PER_MS, NS_PER_S, rfc3339_from_ns
from authz.records.errors import RecordError

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
_ALLOWING: Final = frozenset({"allowed", "observed"})


class RecordLines:
    """Makes lines for the records of one sidecar; for one thread."""

    __slots__ = ("_kinds", "_seconds", "_sidecar")

    def __init__(self, sidecar: str) -> None:
        self._sidecar = encode_basestring_ascii(sidecar)
        self._kinds: dict[bytes, tuple[str, str, str]] = {}
        self._seconds: dict[int, str] = {}

    def line(self, packed: bytes) -> bytes:
        """Give the line of one packed decision, its line end included; raises RecordError for what is none."""
        try:
            decision_id, time_ns, request_id, address, path, check_us, kind = marshal.loads(packed)  # noqa: S302 its own program's bytes
            before_address, before_path, before_check_us = self._kinds.get(kind) or self._kind(kind)
            second, rest_ns = divmod(time_ns, NS_PER_S)
            time = self._seconds.get(second) or self._second(second)
            return (
                f'{{"decision_id":"{decision_id.decode("ascii")}","request_id":{_quoted(request_id)},'
                f'"time":"{time}{rest_ns // NS_PER_MS:03d}{before_address}{_quoted(address)}{before_path}'
                f"{_quoted(path)}{before_check_us}{check_us:d}{_END}"
            ).encode("ascii")
        except (ValueError, TypeError, EOFError, AttributeError) as error:
            raise RecordError("a record cannot be read") from error

    def _kind(self, packed: bytes) -> tuple[str, str, str]:
        """Write what all records of a kind have in common."""
        (
            inbound, _, caller, presenter, host, method,
            reason, policy, shadow, revision, valid_until_ns,
            caller_service, caller_third_party, destination_service, destination_third_party, route,
            protocol, tls_version, tls_cipher, peer_serial,
        ) = marshal.loads(packed)  # fmt: skip  # noqa: S302 its own program's bytes
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
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        self._kinds[packed] = pieces
        return pieces

    def _second(self, second: int) -> str:
        """Write an instant as far as its second, with the dot behind it."""
        text = rfc3339_from_ns(second * NS_PER_S)[:-4]
        if len(self._seconds) >= _MOST_SECONDS:
            self._seconds.clear()
        self._seconds[second] = text
        return text


def _quoted(text: str | None) -> str:
    return _NULL if text is None else encode_basestring_ascii(text)


def _verdict(reason: str) -> str:
    return "allow" if reason in _ALLOWING else "deny"


def _shadow(reason: str, policy: str | None) -> str:
    return f'{{"decision":"{_verdict(reason)}","reason":"{reason}","policy":{_quoted(policy)}}}'
