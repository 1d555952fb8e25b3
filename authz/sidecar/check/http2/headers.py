"""Header blocks: decoded by `hpack`, remembered by their bytes, and read into a request that cannot be malformed.

INVARIANT (same bytes, same fields): what a block means depends on its bytes alone once the dynamic table can hold
nothing. We ask for a table of size 0; the peer has agreed when it has acknowledged our SETTINGS *and* a block after
that has set the size to 0 (RFC 9113 4.3.1, RFC 7541 4.2). From then on an insertion leaves the table empty (RFC 7541
4.4), an index into it is an error, and the only size that may be set is 0: no block can change what another means.
Before that nothing is looked up or remembered (:attr:`HeaderBlocks.is_stateless`).

RFC 9113 8.2 and 8.3 say what a well-formed request is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from authz.sidecar.check.http2.errors import BrokenConnectionError, BrokenStreamError, ErrorCode
from authz.sidecar.check.http2.limits import (
    MAX_CONTINUATIONS,
    MAX_HEADER_BLOCK_BYTES,
    MAX_HEADER_LIST_BYTES,
    MAX_KNOWN_BLOCK_BYTES,
    MAX_KNOWN_BLOCKS,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Fields = list[tuple[bytes, bytes]]

T = TypeVar("T")

#: RFC 9110 5.6.2 `token`, of lower-case letters only (RFC 9113 8.2)
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
#: RFC 9113 8.2.1
_VALUE: Final = re.compile(rb"(?![ \t])[^\x00\r\n]*(?<![ \t])")
_PSEUDO: Final = {b":method": "method", b":scheme": "scheme", b":authority": "authority", b":path": "path"}
#: RFC 9113 8.2.2
_OF_CONNECTIONS: Final = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
)
_LENGTH: Final = re.compile(rb"[0-9]{1,10}")

#: RFC 7541 6.3 with a one-byte size
_SIZE_UPDATES: Final = range(0x20, 0x3F)
#: RFC 7541 4.2: at most two, the smallest and the last
_MAX_SIZE_UPDATES: Final = 2
#: RFC 7541 6.3: what our own first block begins with; then no setting of the peer's can ask for another
EMPTY_TABLE: Final = b"\x20"
_STATIC_STATUS: Final = {200: b"\x88", 204: b"\x89", 400: b"\x8c", 404: b"\x8d", 500: b"\x8e"}
_STATUS_INDEX: Final = 8
_ONE_BYTE_LENGTH: Final = 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A well-formed header section of a request; fields of one name are joined as RFC 9110 5.2 says."""

    method: bytes
    path: bytes
    fields: dict[bytes, bytes]
    content_length: int | None


class HeaderBlocks(Generic[T]):
    """The header blocks of one connection; `known` is shared by all connections of a server."""

    __slots__ = ("_decoder", "_known", "_read", "_table_bytes", "is_stateless")

    def __init__(self, *, read: Callable[[Request], T], known: dict[bytes, T], table_bytes: int) -> None:
        """Begin with the table that every connection begins with; `table_bytes` is what we ask for instead."""
        self._table_bytes = table_bytes
        self._decoder = Decoder(MAX_HEADER_LIST_BYTES)
        self._read = read
        self._known = known
        self.is_stateless = False

    def acknowledged(self) -> None:
        """Hold the peer to our setting: it knows of it, and its next block has to say so."""
        self._decoder.max_allowed_table_size = self._table_bytes

    def request(self, block: bytes) -> T:
        """Give what a request's block means; raises BrokenConnectionError, and BrokenStreamError if malformed."""
        if self.is_stateless:
            known = self._known.get(block)
            if known is not None:
                return known
        read = self._read(request_from(self.fields(block)))
        # INVARIANT (same bytes, same fields): relied on here. A block that sets the table's size is not remembered.
        if self.is_stateless and len(block) <= MAX_KNOWN_BLOCK_BYTES and block[:1] != EMPTY_TABLE:
            if len(self._known) >= MAX_KNOWN_BLOCKS:
                self._known.clear()
            self._known[block] = read
        return read

    def fields(self, block: bytes) -> Fields:
        """Decode a block. Every block that is received must be, in order; raises BrokenConnectionError."""
        if len(block) > MAX_HEADER_BLOCK_BYTES:
            raise BrokenConnectionError(
                ErrorCode.ENHANCE_YOUR_CALM, f"a header block of over {MAX_HEADER_BLOCK_BYTES} bytes"
            )
        if len(block) > _MAX_SIZE_UPDATES and all(byte in _SIZE_UPDATES for byte in block[: _MAX_SIZE_UPDATES + 1]):
            raise BrokenConnectionError(ErrorCode.COMPRESSION_ERROR, "a header block with more than two table sizes")
        try:
            fields: Fields = list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            raise BrokenConnectionError(
                ErrorCode.ENHANCE_YOUR_CALM, f"headers of over {MAX_HEADER_LIST_BYTES} bytes"
            ) from None
        except HPACKError as error:
            raise BrokenConnectionError(ErrorCode.COMPRESSION_ERROR, "a header block that cannot be decoded") from error
        # INVARIANT (same bytes, same fields): made here.
        self.is_stateless = not (self._decoder.max_allowed_table_size or self._decoder.header_table_size)
        return fields


class UnfinishedBlock:
    """A header block whose HEADERS frame did not end it: only its CONTINUATIONs may follow (RFC 9113 4.3, 6.10)."""

    __slots__ = ("_continuations", "block", "ends_stream", "stream_id")

    def __init__(self, stream_id: int, fragment: bytes, *, ends_stream: bool) -> None:
        """Begin with what HEADERS brought."""
        self.stream_id = stream_id
        self.ends_stream = ends_stream
        self.block = bytearray(fragment)
        self._continuations = 0

    def add(self, fragment: bytes) -> None:
        """Take a CONTINUATION; raises BrokenConnectionError where there are too many, or too much in them."""
        self._continuations += 1
        self.block += fragment
        if self._continuations > MAX_CONTINUATIONS:
            raise BrokenConnectionError(
                ErrorCode.ENHANCE_YOUR_CALM, f"more than {MAX_CONTINUATIONS} CONTINUATION frames"
            )
        if len(self.block) > MAX_HEADER_BLOCK_BYTES:
            raise BrokenConnectionError(
                ErrorCode.ENHANCE_YOUR_CALM, f"a header block of over {MAX_HEADER_BLOCK_BYTES} bytes"
            )


def request_from(fields: Iterable[tuple[bytes, bytes]]) -> Request:
    """Read a request's header section; raises BrokenStreamError (RFC 9113 8.1.1, 8.2, 8.3)."""
    pseudo: dict[str, bytes] = {}
    regular: dict[bytes, bytes] = {}
    for name, value in fields:
        if name[:1] == b":":
            key = _PSEUDO.get(name)
            if key is None or key in pseudo or regular:
                raise _malformed("a pseudo-header that is unknown, stands twice, or behind a header")
            _check_value(value)
            pseudo[key] = value
        else:
            _check_regular(name, value)
            regular[name] = b", ".join((regular[name], value)) if name in regular else value
    method = pseudo.get("method", b"")
    path = pseudo.get("path", b"")
    if not _NAME.fullmatch(method.lower()):
        raise _malformed("no :method")
    if method == b"CONNECT":  # RFC 9113 8.5
        if "scheme" in pseudo or "path" in pseudo or not pseudo.get("authority"):
            raise _malformed("a CONNECT with :scheme or :path, or without :authority")
    elif not pseudo.get("scheme") or not path:
        raise _malformed("no :scheme or no :path")
    # RFC 9113 8.3.1
    if pseudo.get("authority", regular.get(b"host")) != regular.get(b"host", pseudo.get("authority")):
        raise _malformed("a host that is not the :authority")
    return Request(method=method, path=path, fields=regular, content_length=_content_length(regular))


def check_trailers(fields: Iterable[tuple[bytes, bytes]], *, ends_stream: bool) -> None:
    """Refuse a request's trailers that are malformed; raises BrokenStreamError (RFC 9113 8.1)."""
    if not ends_stream:
        raise _malformed("trailers that do not end the stream")
    for name, value in fields:
        if name[:1] == b":":
            raise _malformed("a pseudo-header in trailers")
        _check_regular(name, value)


def _check_regular(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise _malformed("a header name that is empty, or not of lower-case letters")
    _check_value(value)
    if name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers"):
        raise _malformed("a header of HTTP/1.1 connections")


def _check_value(value: bytes) -> None:
    if not _VALUE.fullmatch(value):
        raise _malformed("a header value with a control character, or with space around it")


def _content_length(regular: dict[bytes, bytes]) -> int | None:
    length = regular.get(b"content-length")
    if length is None:
        return None
    if not _LENGTH.fullmatch(length):
        raise _malformed("a content-length that is no number")
    return int(length)


def _malformed(text: str) -> BrokenStreamError:
    return BrokenStreamError(ErrorCode.PROTOCOL_ERROR, text)


def header_block(status: int | None, *fields: tuple[bytes, bytes]) -> bytes:
    """Encode fields of ours so that no table is needed to read them: literals, without Huffman (RFC 7541 6.2.2)."""
    block = b"" if status is None else _STATIC_STATUS.get(status) or bytes([_STATUS_INDEX]) + _text(b"%d" % status)
    return block + b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def _text(text: bytes) -> bytes:
    # RFC 7541 5.1, 5.2: a length with a prefix of seven bits
    length = len(text)
    if length < _ONE_BYTE_LENGTH:
        return bytes([length]) + text
    encoded = bytearray([_ONE_BYTE_LENGTH])
    length -= _ONE_BYTE_LENGTH
    while length > _ONE_BYTE_LENGTH:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded) + text
