"""A CheckRequest read from its bytes by field numbers alone: no class, no text, nothing remembered.

Protocol Buffers, encoding: a message that stands twice is merged, which is to read its bytes joined; of other fields
the last one counts; what has another wire type than its field is an unknown field. Texts stay bytes: a judge must not
refuse what a check holds because some address in it is no UTF-8.

envoy/service/auth/v3/{external_auth,attribute_context}.proto, envoy/config/core/v3/base.proto
"""

from __future__ import annotations

from typing import Any

_VARINT, _FIXED_64, _LENGTH, _GROUP, _GROUP_END, _FIXED_32 = range(6)
OWN_PREFIX = b"x-authz-"


class NoMessageError(ValueError):
    """Bytes that are no message."""


def fields_of(check: bytes) -> dict[str, Any]:
    """Give what a check asks: method, path, host, headers, certificate, context; raises NoMessageError."""
    attributes = _fields(_joined(check, 1))
    source = _fields(b"".join(attributes.get(1, [])))
    http = _fields(_joined(b"".join(attributes.get(4, [])), 2))
    context = dict(_entry(each, 1, 2) for each in attributes.get(10, []))
    every = []
    for each in _fields(b"".join(http.get(13, []))).get(1, []):
        header = _fields(each)
        every.append((_last(header, 1), _last(header, 3) or _last(header, 2)))
    joined = [_entry(each, 1, 2) for each in http.get(3, [])]
    pseudo = dict(every)
    return {
        "method": pseudo.get(b":method", _last(http, 2)),
        "path": pseudo.get(b":path", _last(http, 4)),
        "host": pseudo.get(b":authority", _last(http, 5)),
        "headers": [each for each in (*every, *joined) if not each[0].startswith((b":", OWN_PREFIX))],
        "certificate": _last(source, 5),
        "context": context,
    }


def _joined(message: bytes, number: int) -> bytes:
    return b"".join(_fields(message).get(number, []))


def _entry(message: bytes, key: int, value: int) -> tuple[bytes, bytes]:
    fields = _fields(message)
    return _last(fields, key), _last(fields, value)


def _last(fields: dict[int, list[bytes]], number: int) -> bytes:
    return fields.get(number, [b""])[-1]


def _fields(message: bytes) -> dict[int, list[bytes]]:
    """Give the fields that have bytes, by their numbers."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        end, content = _value(message, at, key)
        if key & 7 == _LENGTH:
            found.setdefault(key >> 3, []).append(content)
        at = end
    return found


def _value(message: bytes, at: int, key: int) -> tuple[int, bytes]:
    """Give where a value ends, and its bytes where it has any."""
    if not 0 < key >> 3 < 1 << 29:
        raise NoMessageError("a field number that there is not")
    size, kind = 0, key & 7
    if kind == _VARINT:
        at = _varint(message, at)[1]
    elif kind == _LENGTH:
        size, at = _varint(message, at)
    elif kind in {_FIXED_32, _FIXED_64}:
        size = 4 if kind == _FIXED_32 else 8
    elif kind == _GROUP:
        inner, at = _varint(message, at)
        while inner & 7 != _GROUP_END:
            inner, at = _varint(message, _value(message, at, inner)[0])
        if inner >> 3 != key >> 3:
            raise NoMessageError("a group that another one ends")
    else:
        raise NoMessageError("a wire type that there is not")
    if at + size > len(message):
        raise NoMessageError("a field that is cut off")
    return at + size, message[at : at + size]


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if at + place >= len(message):
            break
        value |= (message[at + place] & 0x7F) << 7 * place
        if message[at + place] < 0x80:
            return value & (1 << 64) - 1, at + place + 1
    raise NoMessageError("a number that does not end")
