"""Calls that were really made, read back: from decision records, or from lines of `authz check --calls`.

A record keeps no path where a route matched: the call is then made again with `any` in place of each `{...}`. What a
record does not keep (the query, headers other than that a call was gRPC) is not made up.

# INVARIANT (total): any bytes give a recorded call, None or an AskedCallError; nothing else is raised.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from authz.errors import AuthzError
from authz.identity.spiffe_id import SpiffeId
from authz.policy.asked_call import AskedCallError
from authz.policy.asked_call_json import MAX_LINE_BYTES, asked_call_from_json
from authz.policy.errors import quoted
from authz.policy.route import ANY_SEGMENT, REST, PathTemplate
from authz.policy.window import parse_instant_ns
from authz.request import Call, Direction, TlsVersion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from authz.policy.asked_call import AskedCall, Directory

_FREE: Final = "any"
#: A log has many calls of the same callers, to the same routes.
_KEPT: Final = 4096
_GRPC: Final = (("content-type", b"application/grpc"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """A call and when it was made, with the words that name it."""

    call: Call
    at_ns: int
    caller: str
    destination: str
    operation: str


def recorded_call_from_json(line: bytes, directories: Sequence[Directory], now_ns: int) -> RecordedCall | None:
    """Read one line; raises AskedCallError. Names are looked up in the first directory that knows them all.

    A call without `at` is made at `now_ns`. What is no call of its own is None: a handshake that
    failed, and the end of a call that was cut, whose beginning has a record.
    """
    if len(line) > MAX_LINE_BYTES:
        raise AskedCallError(f"a call has at most {MAX_LINE_BYTES} bytes")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None  # what is wrong with it is said by the reader of asked calls
    if isinstance(value, dict) and ("decision_id" in value or isinstance(value.get("caller"), dict)):
        return None if "handshake" in value or value.get("cut") is True else _from_record(value)
    asked, at_ns = asked_call_from_json(line)
    operation = f"grpc {asked.grpc}" if asked.grpc else f"{asked.method} {(asked.path or '').partition('?')[0]}"
    return RecordedCall(
        call=_asked(asked, directories),
        at_ns=now_ns if at_ns is None else at_ns,
        caller=asked.caller or "(nobody)",
        destination=asked.destination or "",
        operation=operation,
    )


def _asked(asked: AskedCall, directories: Sequence[Directory]) -> Call:
    for directory in directories[:-1]:
        try:
            return directory.call(asked)
        except AskedCallError:
            continue
    return directories[-1].call(asked)


def _from_record(record: dict[str, Any]) -> RecordedCall:
    caller, destination, tls = (_mapping(record, field) for field in ("caller", "destination", "tls"))
    identity, presented_by = _text(caller, "identity"), _text(caller, "presented_by")
    direction = _direction(_text(record, "direction"))
    sidecar = _text(record, "sidecar") or ""
    service = _text(destination if direction is Direction.INBOUND else caller, "service") or sidecar
    host = _text(destination, "host") or ""
    method = _text(record, "method") or ""
    route, path = _text(record, "route"), _text(record, "path")
    if path is None and route is None:
        raise AskedCallError("a decision record has a `route` or a `path`")
    is_grpc = _text(record, "protocol") == "grpc"
    try:
        spiffe_id = None if identity is None else _spiffe_id(identity)
        presenter = None if presented_by is None else _spiffe_id(presented_by)
        target = path if path is not None else _target(route or "")
        at_ns = parse_instant_ns(_text(record, "time") or "")
    except AuthzError as error:
        raise AskedCallError(str(error)) from error
    version = _text(tls, "version")
    return RecordedCall(
        call=Call(
            direction=direction,
            service=service,
            caller=spiffe_id,
            method=method,
            path=target,
            host=host,
            headers=_GRPC if is_grpc else (),
            tls=next((each for each in TlsVersion if each == version), None),
            serial=_text(tls, "peer_serial"),
            # A ThirdParty whose caller has no SPIFFE ID was proven by a certificate.
            third_party=_text(caller, "third_party") if identity is None else None,
            presenter=presenter,
        ),
        at_ns=at_ns,
        caller=_text(caller, "service") or _text(caller, "third_party") or identity or "(nobody)",
        destination=_text(destination, "service") or _text(destination, "third_party") or host,
        operation=f"grpc {(route or target)[1:]}" if is_grpc else f"{method} {route or target}",
    )


@lru_cache(maxsize=_KEPT)
def _spiffe_id(text: str) -> SpiffeId:
    return SpiffeId.parse(text)


@lru_cache(maxsize=_KEPT)
def _target(route: str) -> str:
    """Give a path that the route of a record stands for."""
    template = PathTemplate.parse(route)
    return "/" + "/".join(
        _FREE if segment in {ANY_SEGMENT, REST} else quote(segment, safe="") for segment in template.segments
    )


def _direction(text: str | None) -> Direction:
    for direction in Direction:
        if text == direction:
            return direction
    raise AskedCallError(f"`direction`: {quoted(text or '')} is neither `inbound` nor `outbound`")


def _mapping(record: dict[str, Any], field: str) -> dict[str, Any]:
    value = record.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AskedCallError(f"`{field}` must be an object")
    return value


def _text(record: dict[str, Any], field: str) -> str | None:
    value = record.get(field)
    if value is not None and not isinstance(value, str):
        raise AskedCallError(f"`{field}` must be a string")
    return value or None
