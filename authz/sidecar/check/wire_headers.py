"""The headers of one check as they came: read once, told apart by name, made into names and values only when asked.

Most headers are the same from call to call (`accept`, `user-agent`, `:method`), so single headers are remembered by
their bytes; what differs on every call (`x-request-id`) is not. What is remembered is bounded and holds no judgement.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import filterfalse
from typing import TYPE_CHECKING, Final, NamedTuple, overload

from google.protobuf.message import DecodeError

from authz.proxy.header_names import (
    AUTHZ_PREFIX,
    X_AUTHZ_TIMEOUT,
    X_AUTHZ_TLS_CIPHER,
    X_AUTHZ_TLS_VERSION,
    X_REQUEST_ID,
)
from authz.sidecar.check.check_message import Entry, HeaderValue
from authz.sidecar.errors import CheckMessageError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Stand for what several headers say: that a call may last, and that its request has a length, and a short one. No
#: header has such a name.
_LASTS: Final = "(lasts)"
_LENGTH: Final = "(length)"
#: A request that says to have more than this may take its time.
LONG_REQUEST_BYTES: Final = 1024 * 1024
_SHORT_LENGTH: Final = re.compile(rb"[0-9]{1,7}")

#: What a check asks for by name, each with its place in what `WireHeaders.asked_for` gives.
_PLACES: Final = {
    name: place
    for place, name in enumerate(
        (
            ":method", ":path", ":authority", "content-type", "upgrade", "authorization",
            X_REQUEST_ID, X_AUTHZ_TLS_VERSION, X_AUTHZ_TLS_CIPHER, X_AUTHZ_TIMEOUT,
            _LASTS, _LENGTH,
        )
    )
}  # fmt: skip
#: the place of all others
_NOWHERE: Final = len(_PLACES)
_NOTHING: Final[tuple[str | None, ...]] = (None,) * (_NOWHERE + 1)
#: Envoy writes another one for every call.
_NEVER_THE_SAME: Final = frozenset({X_REQUEST_ID, "traceparent", "authorization", "cookie"})
_MOST_REMEMBERED: Final = 4096
_LONGEST_REMEMBERED_BYTES: Final = 256
# The wire form of config.core.v3.HeaderValue: tags of `key` (1) and `raw_value` (3), lengths of one byte below 128.
_KEY_TAG: Final = 0x0A
_RAW_VALUE_TAG: Final = 0x1A
_PLAIN_FRAME_BYTES: Final = 4
_PLAIN_BYTES: Final = 127


#: How Envoy begins the one header that is there always and never the same.
_REQUEST_ID: Final = bytes((_KEY_TAG, len(X_REQUEST_ID))) + X_REQUEST_ID.encode() + bytes((_RAW_VALUE_TAG,))
_REQUEST_ID_VALUE_AT: Final = len(_REQUEST_ID) + 1
_REQUEST_ID_PLACE: Final = _PLACES[X_REQUEST_ID]


class Header(NamedTuple):
    """One header; `text` is its value in Latin-1 if a check asks for it, and stands at its place."""

    place: int
    text: str
    name: str
    value: bytes


class HeaderMemo:
    """Reads single headers, each form of them once; for one thread."""

    __slots__ = ("passed_over", "read")

    def __init__(self) -> None:
        #: what was read, by the bytes that it came as
        self.read: dict[bytes, Header] = {}
        #: those of them that no check asks for, which are most: one look-up in C tells that they need no step more
        self.passed_over: set[bytes] = set()

    def header(self, encoded: bytes) -> Header:
        """Read an entry of `header_map`; raises CheckMessageError where it is none."""
        key, value = _plain(encoded) or _parsed(encoded)
        header = _header(key, value)
        if len(encoded) <= _LONGEST_REMEMBERED_BYTES and header.name not in _NEVER_THE_SAME:
            if len(self.read) >= _MOST_REMEMBERED:
                self.read.clear()
                self.passed_over.clear()
            self.read[encoded] = header
            if header.place == _NOWHERE:
                self.passed_over.add(encoded)
        return header


class WireHeaders(Sequence[tuple[str, bytes]]):
    """The headers of a call in order, repeats kept, without pseudo-headers and without our own `x-authz-*`.

    Made of the entries of `header_map` and those of `headers`: a sidecar whose Envoy does not send raw headers still
    decides; repeats are joined by Envoy then.
    """

    __slots__ = ("_joined", "_memo", "_raw", "_read")

    def __init__(self, memo: HeaderMemo, raw: list[bytes], joined: list[bytes]) -> None:
        self._memo = memo
        self._raw = raw
        self._joined = joined
        self._read: list[Header] | None = None

    def asked_for(self) -> Sequence[str | None]:
        """Give the last value of each header that a check asks for by name, in the order of `_PLACES`, and one thing.

        Reads all headers; raises CheckMessageError where one is none. Envoy lets no pseudo-header come twice.
        """
        memo = self._memo
        get = memo.read.get
        found = list(_NOTHING)
        for encoded in filterfalse(memo.passed_over.__contains__, self._raw):
            header = get(encoded)
            if header is not None:
                found[header[0]] = header[1]
            elif (
                encoded.startswith(_REQUEST_ID)
                and _REQUEST_ID_VALUE_AT <= len(encoded) <= _PLAIN_BYTES
                and len(encoded) == _REQUEST_ID_VALUE_AT + encoded[_REQUEST_ID_VALUE_AT - 1]
            ):
                found[_REQUEST_ID_PLACE] = encoded[_REQUEST_ID_VALUE_AT:].decode("latin-1")
            else:
                header = memo.header(encoded)
                found[header.place] = header.text
        if self._joined:
            for header in _own_names_left_out(self._joined):
                found[header.place] = header.text
        return found

    def values(self, name: str) -> list[bytes]:
        """Give every value of a header, in order."""
        return [header.value for header in self._read_all() if header.name == name]

    def _read_all(self) -> list[Header]:
        if self._read is None:
            get, new = self._memo.read.get, self._memo.header
            self._read = [get(each) or new(each) for each in self._raw]
            if self._joined:
                self._read += _own_names_left_out(self._joined)
        return self._read

    def _all(self) -> list[tuple[str, bytes]]:
        return [
            (header.name, header.value)
            for header in self._read_all()
            if not header.name.startswith((":", AUTHZ_PREFIX))
        ]

    @overload
    def __getitem__(self, index: int) -> tuple[str, bytes]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[tuple[str, bytes]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, bytes] | Sequence[tuple[str, bytes]]:
        return self._all()[index]

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._all() == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self._all()))


def _plain(encoded: bytes) -> tuple[bytes, bytes] | None:
    """Read a header as Envoy writes nearly all of them: a short key, then a short raw value, and nothing else."""
    size = len(encoded)
    if size < _PLAIN_FRAME_BYTES or encoded[0] != _KEY_TAG:
        return None
    end = 2 + encoded[1]
    if end + 2 > size or encoded[end] != _RAW_VALUE_TAG or end + 2 + encoded[end + 1] != size or size > _PLAIN_BYTES:
        return None
    return encoded[2:end], encoded[end + 2 :]


def _parsed(encoded: bytes) -> tuple[bytes, bytes]:
    try:
        message = HeaderValue.FromString(encoded)
    except DecodeError as error:
        raise CheckMessageError("a header of the check is none") from error
    return message.key, message.raw_value or message.value


def _own_names_left_out(joined: list[bytes]) -> list[Header]:
    return [header for header in map(_joined, joined) if not header.name.startswith((":", AUTHZ_PREFIX))]


def _joined(encoded: bytes) -> Header:
    try:
        entry = Entry.FromString(encoded)
    except DecodeError as error:
        raise CheckMessageError("a header of the check is none") from error
    return _header(entry.key, entry.value)


def _header(key: bytes, value: bytes) -> Header:
    name = key.decode("latin-1")
    place = _PLACES.get(_meaning(name, value), _NOWHERE)
    return Header(place, "" if place == _NOWHERE else value.decode("latin-1"), name, value)


def _meaning(name: str, value: bytes) -> str:
    """Give the name under which a check asks for a header: some say by their value alone that a call may last.

    Each of them counts by itself, so that no other one of its name can take it back.
    """
    match name:
        case "accept":
            return _LASTS if b"text/event-stream" in value.lower() else name
        case "transfer-encoding":
            return _LASTS  # RFC 9112 6.1: the length is not known
        case "content-length":
            return _LENGTH if _SHORT_LENGTH.fullmatch(value) and int(value) <= LONG_REQUEST_BYTES else _LASTS
        case "content-type":
            # gRPC-Web's and Connect's streams come as ordinary requests.
            return _LASTS if value.startswith((b"application/grpc-web", b"application/connect+")) else name
        case _:
            return name
