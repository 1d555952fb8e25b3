"""Which requests a rule speaks of: methods, path templates and gRPC methods; and which requests are no requests.

A path is judged whole segment by whole segment, on its decoded form, without its query. What a proxy, a framework
and we could read differently (dot segments, double or encoded slashes, parameters, ...) is refused before any rule
is looked at, unless the destination opts in to that one shape.

# INVARIANT (one reading): a target that :func:`path_segments` accepts has one decoded form, made in one pass.
# INVARIANT (no dots): none of its segments is `.` or `..`, nor becomes so where an opted-in delimiter is cut at.

RFC 3986 3.3 and 6.2.2; https://cwe.mitre.org/data/definitions/22.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from authz.policy.errors import PolicyError, quoted

if TYPE_CHECKING:
    from collections.abc import Collection

#: The language's own limit for path and query together; Envoy takes 60 KiB of headers.
MAX_TARGET_BYTES: Final = 8192
#: Longer methods exist nowhere (IANA's longest has 17 letters); the limit is the one of the whole target.
MAX_METHOD_BYTES: Final = MAX_TARGET_BYTES

#: A template's segment for exactly one non-empty segment, and the one for all the rest. Braces and `*` are in no
#: literal, so neither can be mistaken for one.
ANY_SEGMENT: Final = "{*}"
REST: Final = "{**}"

_METHOD: Final = re.compile(r"[A-Z_-]+")
_USUAL_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_TARGET: Final = re.compile(r"[\x21\x22\x24-\x7e]*")  # 0x21-0x7e without `#`
# A path without a query that holds nothing of which more would have to be known than `/.` and `//`: none of `#%;?\\`.
_USUAL_PATH: Final = re.compile(r"/[\x21\x22\x24\x26-\x3a\x3c-\x3e\x40-\x5b\x5d-\x7e]*")
_VARIABLE: Final = re.compile(r"\{(?:\*\*?|[A-Za-z_][A-Za-z0-9_.-]*(?P<rest>=\*\*)?)\}")
_ENCODED: Final = re.compile(r"%(?P<hex>[0-9A-Fa-f]{2})?")
_GRPC_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
_GRPC_METHOD: Final = re.compile(rf"(?P<service>{_GRPC_NAME}(?:\.{_GRPC_NAME})*)/(?P<method>\*|{_GRPC_NAME})")
_FIRST_PRINTABLE, _DELETE, _LAST_C1 = 0x20, 0x7F, 0x9F


class RouteError(PolicyError):
    """A text is no method, path template or gRPC method."""


class PathShape(StrEnum):
    """A shape of path that is refused unless the destination allows it."""

    SEMICOLON = "semicolon"
    DOUBLE_SLASH = "double-slash"
    ENCODED_SLASH = "encoded-slash"
    ENCODED_DELIMITER = "encoded-delimiter"


NO_SHAPES: Final[frozenset[PathShape]] = frozenset()

# What a percent-encoding may never stand for, and the shape that allows it all the same (it then stays as written).
_REFUSED_ENCODED: Final[dict[int, PathShape | None]] = {
    **{ord(character): None for character in "\\.%"},
    **dict.fromkeys([*range(_FIRST_PRINTABLE), _DELETE]),
    ord("/"): PathShape.ENCODED_SLASH,
    **{ord(character): PathShape.ENCODED_DELIMITER for character in ";?#"},
}
# A segment is a dot segment also for a server that cuts parameters off, or decodes what we left as written.
_DELIMITER: Final = re.compile(r";|%2[Ff]|%3[Bb]")
_DOT_SEGMENTS: Final = frozenset({".", ".."})


def is_method(text: str) -> bool:
    """Whether this can be a request's method."""
    return text in _USUAL_METHODS or _METHOD.fullmatch(text) is not None


def path_segments(target: str, shapes: Collection[PathShape] = NO_SHAPES) -> list[str] | None:
    """Decode the path of a request target into its segments; None where the request is malformed.

    `/` is one empty segment; a trailing slash makes the last segment empty.
    """
    if len(target) > MAX_TARGET_BYTES:
        return None
    if _USUAL_PATH.fullmatch(target) is not None and "/." not in target and "//" not in target:
        return target[1:].split("/")  # needs no further look
    if _TARGET.fullmatch(target) is None:
        return None
    raw = target.partition("?")[0]
    if not raw.startswith("/") or "\\" in raw:
        return None
    segments = raw[1:].split("/")
    if "%" in raw or ";" in raw or "/." in raw or "//" in raw:
        return _unusual_segments(segments, shapes)
    return segments


def _unusual_segments(segments: list[str], shapes: Collection[PathShape]) -> list[str] | None:
    if "" in segments[:-1] and PathShape.DOUBLE_SLASH not in shapes:
        return None
    decoded: list[str] = []
    for raw in segments:
        if ";" in raw and PathShape.SEMICOLON not in shapes:
            return None
        # INVARIANT (no dots)
        if not _DOT_SEGMENTS.isdisjoint(_DELIMITER.split(raw)):
            return None
        segment = _decoded(raw, shapes) if "%" in raw else raw
        if segment is None:
            return None
        decoded.append(segment)
    return decoded


def _decoded(segment: str, shapes: Collection[PathShape]) -> str | None:
    """Decode the percent-encodings of a segment, once; None where one is refused."""
    decoded = bytearray()
    position = 0
    for found in _ENCODED.finditer(segment):
        decoded += segment[position : found.start()].encode("ascii")
        position = found.end()
        if found["hex"] is None:
            return None
        byte = int(found["hex"], 16)
        if byte in _REFUSED_ENCODED:
            shape = _REFUSED_ENCODED[byte]
            if shape is None or shape not in shapes:
                return None
            decoded += found.group().encode("ascii")
        else:
            decoded.append(byte)
    decoded += segment[position:].encode("ascii")
    try:
        text = decoded.decode("utf-8")
    except UnicodeDecodeError:
        return None
    # The control characters beyond ASCII (C1) take two bytes.
    return None if any(_DELETE < ord(character) <= _LAST_C1 for character in text) else text


def parse_method(text: str) -> str:
    """Read the method of a rule; raises RouteError."""
    if not is_method(text) or len(text) > MAX_METHOD_BYTES:
        hint = f"; did you mean `{text.upper()}`?" if is_method(text.upper()) else ""
        if text.lower() in {"all", "any", "*"}:
            hint = "; write `methods: all` for every method"
        elif is_method(text.replace(",", "").replace(" ", "").upper()) and ("," in text or " " in text):
            hint = "; write each as an entry of its own"
        raise RouteError(f"{quoted(text)} is no method: upper-case letters, `-` and `_`{hint}")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class PathTemplate:
    """A path pattern as it is written (`text`), and its segments: literals, :data:`ANY_SEGMENT`, :data:`REST`."""

    text: str
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> PathTemplate:
        """Read a path pattern; raises RouteError that says what is wrong with it."""
        if len(text) > MAX_TARGET_BYTES:
            raise RouteError(f"a path has at most {MAX_TARGET_BYTES} characters, not {len(text)}")
        if not text.startswith("/"):
            raise RouteError(f"{quoted(text)}: a path begins with `/`{_why_no_path(text)}")
        parts = text[1:].split("/")
        segments = tuple(_template_segment(part, text) for part in parts)
        if REST in segments[:-1]:
            raise RouteError(f"{quoted(text)}: {quoted(parts[segments.index(REST)])} must be the last segment")
        return cls(text=text, segments=segments)

    def __str__(self) -> str:
        return self.text

    @property
    def literals(self) -> int:
        """The number of literal segments."""
        return sum(segment not in {ANY_SEGMENT, REST} for segment in self.segments)

    def covers(self, other: PathTemplate) -> bool:
        """Whether every path that the other template matches is matched by this one, too."""
        for index, mine in enumerate(self.segments):
            if index == len(other.segments):
                return False
            theirs = other.segments[index]
            if mine == REST:
                return "" not in other.segments[index:]
            if mine == ANY_SEGMENT:
                if theirs in {"", REST}:
                    return False
            elif mine != theirs:
                return False
        return len(self.segments) == len(other.segments)


def _why_no_path(text: str) -> str:
    """Say what to write instead of a text that does not begin as a path does."""
    if text in {"all", "any", "*", "**"}:
        return "; write `paths: all` for every path"
    if "://" in text:
        return "; leave scheme and host out"
    if text.startswith(("^", "~", "(")):
        return "; it is no regular expression: write `{*}` for one segment and `{**}` for all the rest"
    return ""


_WHY_NO_LITERAL: Final = {
    "%": "write the path decoded; there are no percent-encodings in a pattern",
    "?": "a query is never matched; leave it out",
    "#": "a path has no fragment",
    ";": "write `{name}` for a segment with parameters, and let the destination allow `semicolon`",
    "*": "write `{*}` for one segment and `{**}` for all the rest",
    "{": "braces stand for a whole segment: `{name}`, `{*}`, `{**}` or `{name=**}`",
    "}": "braces stand for a whole segment: `{name}`, `{*}`, `{**}` or `{name=**}`",
    "\\": "a request with a backslash in its path is refused",
}


def _template_segment(part: str, text: str) -> str:
    variable = _VARIABLE.fullmatch(part)
    if variable is not None:
        return REST if part == REST or variable["rest"] else ANY_SEGMENT
    for character in part:
        if character in _WHY_NO_LITERAL:
            raise RouteError(f"{quoted(text)} has a `{character}`: {_WHY_NO_LITERAL[character]}")
        if ord(character) < _FIRST_PRINTABLE or _DELETE <= ord(character) <= _LAST_C1:
            raise RouteError(f"{quoted(text)} has a control character, which no request may have in its path")
    if part in {".", ".."}:
        raise RouteError(f"{quoted(text)}: a request with the segment `{part}` is refused")
    return part


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcMethod:
    """A gRPC method by its full name, or every method of a gRPC service (`method` is None)."""

    service: str
    method: str | None

    @classmethod
    def parse(cls, text: str) -> GrpcMethod:
        """Read `pkg.Service/Method` or `pkg.Service/*`; raises RouteError."""
        found = _GRPC_METHOD.fullmatch(text)
        if found is None or len(text) >= MAX_TARGET_BYTES:
            hint = "; leave the first `/` out" if _GRPC_METHOD.fullmatch(text.removeprefix("/")) else ""
            raise RouteError(f"{quoted(text)} is no gRPC method, such as `pkg.Service/Method` or `pkg.Service/*`{hint}")
        return cls(service=found["service"], method=None if found["method"] == "*" else found["method"])

    def __str__(self) -> str:
        return f"{self.service}/{self.method or '*'}"

    @property
    def segments(self) -> tuple[str, ...]:
        """The method's path as a template's segments."""
        return self.service, self.method or ANY_SEGMENT

    def covers(self, other: GrpcMethod) -> bool:
        """Whether every method that the other one stands for is one of this one's, too."""
        return self.service == other.service and self.method in {None, other.method}


def grpc_path(segments: list[str]) -> str | None:
    """Give the path of a gRPC method by its segments; None where they are no method's name."""
    text = "/".join(segments)
    found = _GRPC_METHOD.fullmatch(text)
    return None if found is None or found["method"] == "*" else f"/{text}"


def is_grpc_content_type(values: list[bytes]) -> bool:
    """Whether the content type of a request is gRPC's; more than one is none."""
    if len(values) != 1:
        return False
    value = values[0]
    return value == b"application/grpc" or value.startswith((b"application/grpc+", b"application/grpc;"))
