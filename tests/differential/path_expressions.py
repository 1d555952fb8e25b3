"""The language's paths, methods and hosts as regular expressions and URI templates on what was sent, undecoded."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = r"[A-Za-z0-9._:\[\]-]+"
METHOD = r"[A-Z_-]+"
TARGET = r"[\x21\x22\x24-\x7e]*"
GRPC_CONTENT_TYPE = r"application/grpc(?:[+;][^,]*)?"
#: as in `/../`, also for a server that cuts parameters off or decodes what is left as written
DOT_SEGMENTS = r"[^?]*(?:/|;|%2[Ff]|%3[Bb])\.\.?(?:(?:[/;?]|%2[Ff]|%3[Bb]).*)?"
#: what Envoy's `*` and `**` take for a path, less the percent sign
SIMPLE_PATH = r"[a-zA-Z0-9\-._~!$&'()+,;:@=/]*"
TEMPLATE_LITERAL = re.compile(r"[a-zA-Z0-9\-._~!$&'()+,:@=]+")
#: what may stand unencoded in a segment
RAW = frozenset(map(chr, range(0x21, 0x7F))) - set("/?#\\%;")


def _encoded(*ranges: tuple[int, int]) -> str:
    """Give an expression for percent-encoded bytes, one of each range after the other."""
    return "".join(
        "%(?:" + "|".join(f"{high:X}{_class(lowest, highest)}" for high, lowest, highest in _nibbles(first, last)) + ")"
        for first, last in ranges
    )


def _nibbles(first: int, last: int) -> Iterator[tuple[int, int, int]]:
    for high in range(first >> 4, (last >> 4) + 1):
        yield high, max(first, high << 4) & 15, min(last, high << 4 | 15) & 15


def _class(lowest: int, highest: int) -> str:
    """Give an expression for one hexadecimal digit, whose letters are matched in either case."""
    return "[" + "".join(f"{digit:X}" for digit in range(lowest, highest + 1)) + "]"


_MORE = (0x80, 0xBF)
#: RFC 3629 4, less the control characters U+0080 to U+009F
UTF8 = "|".join(
    _encoded(*ranges)
    for ranges in (
        ((0xC2, 0xC2), (0xA0, 0xBF)), ((0xC3, 0xDF), _MORE),
        ((0xE0, 0xE0), (0xA0, 0xBF), _MORE), ((0xE1, 0xEC), _MORE, _MORE), ((0xED, 0xED), (0x80, 0x9F), _MORE),
        ((0xEE, 0xEF), _MORE, _MORE),
        ((0xF0, 0xF0), (0x90, 0xBF), _MORE, _MORE), ((0xF1, 0xF3), _MORE, _MORE, _MORE),
        ((0xF4, 0xF4), (0x80, 0x8F), _MORE, _MORE),
    )
)  # fmt: skip
#: percent-encodings of printable ASCII that are decoded: all but those of `# % . / ; ? \`
ASCII = "%(?:2[0-246-9A-Da-d]|3[0-9ACDEacde]|4[0-9A-Fa-f]|5[0-9ABDEFabdef]|6[0-9A-Fa-f]|7[0-9A-Ea-e])"


def well_formed_path(shapes: frozenset[str]) -> str:
    """Give an expression for the paths that a destination with these opt-ins takes, dot segments aside."""
    tokens = [r"[!-\"$&-.0-:<->@-\[\]-~]", f"(?i:{UTF8})", ASCII]
    if "semicolon" in shapes:
        tokens.append(";")
    if "encoded-slash" in shapes:
        tokens.append("%2[Ff]")
    if "encoded-delimiter" in shapes:
        tokens.append("%(?:3[BbFf]|23)")
    segment = f"(?:{'|'.join(tokens)})"
    if "double-slash" in shapes:
        return f"/(?:{segment}|/)*"
    return f"/(?:{segment}+/)*{segment}*"


def path_expression(template: str) -> str:
    """Give an expression for the well-formed paths, as they are sent, that a path pattern matches."""
    parts = []
    for segment in template[1:].split("/"):
        if segment == "{**}" or segment.endswith("=**}"):
            parts.append("[^/]+(?:/[^/]+)*")
        elif segment.startswith("{"):
            parts.append("[^/]+")
        else:
            parts.append("".join(map(_spellings, segment)))
    return "/" + "/".join(parts)


def _spellings(character: str) -> str:
    encoded = "".join(f"%{_digit(byte >> 4)}{_digit(byte & 15)}" for byte in character.encode())
    if character == ".":  # never encoded
        return re.escape(character)
    return f"(?:{re.escape(character)}|{encoded})" if character in RAW else encoded


def _digit(value: int) -> str:
    return f"{value:X}" if value < 10 else f"[{value:X}{value:x}]"


def uri_template(template: str) -> str | None:
    """Give a path pattern as Envoy writes it, None where it cannot be said."""
    if template == "/":
        return None
    parts = []
    for segment in template[1:].split("/"):
        if segment == "{**}" or segment.endswith("=**}"):
            parts.append("**")
        elif segment.startswith("{"):
            parts.append("*")
        elif TEMPLATE_LITERAL.fullmatch(segment):
            parts.append(segment)
        else:
            return None
    return "/" + "/".join(parts)
