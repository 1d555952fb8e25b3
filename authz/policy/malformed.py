"""Why a request is malformed, in words. That it is one is decided by `route` and `host`, never here.

Looks at a refused request again, one rule of the language after the other, and names the first one that it breaks.
"""

from __future__ import annotations

from typing import Final

from authz.policy.errors import quoted
from authz.policy.host import is_well_formed
from authz.policy.route import MAX_TARGET_BYTES, PathShape, is_method, path_segments
from authz.request import Call, Direction

_CONNECT: Final = "CONNECT"
#: What a path has where only one shape is missing, in words.
_SHAPES: Final = {
    PathShape.SEMICOLON: "a `;`",
    PathShape.DOUBLE_SLASH: "an empty segment (`//`)",
    PathShape.ENCODED_SLASH: "an encoded slash (`%2F`)",
    PathShape.ENCODED_DELIMITER: "an encoded `;`, `?` or `#`",
}
_FIRST_VISIBLE, _LAST_VISIBLE = 0x21, 0x7E


def why_malformed(call: Call, shapes: frozenset[PathShape]) -> str:
    """Say which rule a request breaks that was refused; `shapes` are those that its destination allows."""
    if not is_method(call.method):
        hint = f"; write `{call.method.upper()}`" if is_method(call.method.upper()) else ""
        return f"the method {quoted(call.method)} is not of upper-case letters, `-` and `_`{hint}"
    if not call.host:
        return "the host is empty"
    if not is_well_formed(call.host):
        return f"the host {quoted(call.host)} has a byte that no host name, address or port has"
    if call.method == _CONNECT and call.direction is Direction.INBOUND:
        return "CONNECT is outbound only"
    return _why_path(call.path, shapes)


def _why_path(target: str, shapes: frozenset[PathShape]) -> str:
    raw = target.partition("?")[0]
    strange = next((each for each in target if not _FIRST_VISIBLE <= ord(each) <= _LAST_VISIBLE), None)
    faults = (
        (len(target) > MAX_TARGET_BYTES, f"path and query have {len(target)} bytes; {MAX_TARGET_BYTES} are allowed"),
        ("#" in target, "the path has a `#`; a request has no fragment"),
        (strange is not None, f"the path has the character U+{ord(strange or ' '):04X}, which must be percent-encoded"),
        (not raw.startswith("/"), f"the path {quoted(raw)} does not begin with `/`"),
        ("\\" in raw, "the path has a backslash"),
    )
    return next((text for found, text in faults if found), None) or _why_shape(target, raw, shapes)


def _why_shape(target: str, raw: str, shapes: frozenset[PathShape]) -> str:
    for shape, what in _SHAPES.items():
        if shape not in shapes and path_segments(target, {*shapes, shape}) is not None:
            return f"the path has {what}, and the destination does not allow `{shape}`"
    if path_segments(target, frozenset(PathShape)) is not None:
        missing = ", ".join(f"`{shape}`" for shape in PathShape if shape not in shapes)
        return f"the path has more than one shape that the destination does not allow, of {missing}"
    for segment in raw[1:].split("/"):
        # Alone, without its neighbours, a segment that is at fault still is.
        if segment and path_segments(f"/{segment}", frozenset(PathShape)) is None:
            return f"the segment {quoted(segment)} {_why_segment(segment)}"
    return "the path is malformed"


def _why_segment(segment: str) -> str:
    if "%" in segment:
        return "has a percent-encoding that is invalid, not UTF-8, a dot segment or refused (`%2E`, `%25`, `%5C`, ...)"
    return "is a dot segment, also for a server that cuts parameters off"
