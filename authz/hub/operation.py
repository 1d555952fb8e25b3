"""What the API can be asked: each question with its parameters, who may ask it, and what it is answered.

The one source of three things: what a request is checked by, the OpenAPI document, and the routes that are served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from authz.hub.errors import ParameterError
from authz.hub.events import KINDS
from authz.hub.moment import AGE, STEP as PATTERN_OF_STEP, moment_ns, step_s
from authz.hub.records_query import CURSOR_PATTERN, Cursor

#: SPIFFE-ID 2.3: nobody has a longer name
MAX_NAME_CHARACTERS: Final = 2048
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000

#: the answer to a question: a value of the type that its operation names
Values = Mapping[str, Any]


class Role(IntEnum):
    """Who may ask: each role may do what those before it may."""

    NOBODY = -1
    SIDECAR = 0
    VIEWER = 1
    SECURITY = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter: `read` gives the value of a text at an instant (ns), or raises ParameterError."""

    name: str
    says: str
    read: Callable[[str, int], Any]
    schema: Mapping[str, Any]
    example: str
    in_path: bool = False
    default: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One question; `path` is below /api/v1, `answer` the type of its answer, None for a stream of events.

    Where parts of the answer are for a higher role, `whole_for` is that role; others get `shown_to_others` of it.
    """

    path: str
    name: str
    summary: str
    role: Role
    answer: type | None
    parameters: tuple[Parameter, ...] = ()
    can_be_unknown: bool = False
    whole_for: Role | None = None
    shown_to_others: Callable[[Any], Any] | None = None

    def shown(self, answer: Any, role: Role) -> Any:
        """Give what a role may see of an answer."""
        if self.whole_for is None or self.shown_to_others is None or role >= self.whole_for:
            return answer
        return self.shown_to_others(answer)

    def values(self, path: Mapping[str, str], query: list[tuple[str, str]], now_ns: int) -> dict[str, Any]:
        """Read the parameters of a request; raises ParameterError for the first that is wrong."""
        known = {each.name: each for each in self.parameters if not each.in_path}
        given: dict[str, str] = {}
        for name, text in query:
            if name not in known:
                raise ParameterError(name[:MAX_NAME_CHARACTERS], "there is no such parameter")
            if name in given:
                raise ParameterError(name, "it is given more than once")
            given[name] = text
        values: dict[str, Any] = {}
        for each in self.parameters:
            text_or_none = path[each.name] if each.in_path else given.get(each.name, each.default)
            values[each.name] = None if text_or_none is None else each.read(text_or_none, now_ns)
        _require_a_span(values, given)
        return values


def _require_a_span(values: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Raise ParameterError for a span that ends before it begins; one that ends where it begins is empty.

    Without `until` the span ends now. What begins after that is no contradiction: who asks for what has come since the
    last record may have a clock, or a record, that is ahead of this hub's.
    """
    since_ns, until_ns = values.get("since"), values.get("until")
    if since_ns is None or until_ns is None or since_ns <= until_ns:
        return
    said = "it is after `until`" if "since" in given else "what it is where it is not given is after `until`"
    raise ParameterError("since", f"{said}; give an earlier time, or a longer age")


def moment(name: str, says: str, default: str | None = None, example: str = "1h") -> Parameter:
    """Give a parameter that is an instant; its value is in nanoseconds."""
    return Parameter(
        name=name,
        says=f"{says}: RFC 3339, or an age such as 15m, 2h, 30d",
        read=lambda text, now_ns: moment_ns(text, now_ns, name),
        schema={"anyOf": [{"type": "string", "pattern": f"^{AGE}$"}, {"type": "string", "format": "date-time"}]},
        example=example,
        default=default,
    )


def party(name: str, says: str, *, in_path: bool = False, example: str = "orders") -> Parameter:
    """Give a parameter that is any name: of a Service, a rule, a SPIFFE ID, a host."""

    def read(text: str, _: int) -> str:
        if not 1 <= len(text) <= MAX_NAME_CHARACTERS:
            raise ParameterError(name, f"give 1 to {MAX_NAME_CHARACTERS} characters")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ParameterError(name, "it is no text in UTF-8") from error
        return text

    return Parameter(
        name=name,
        says=says,
        read=read,
        schema={"type": "string", "minLength": 1, "maxLength": MAX_NAME_CHARACTERS},
        example=example,
        in_path=in_path,
    )


def choice(name: str, says: str, words: tuple[str, ...], default: str | None = None) -> Parameter:
    """Give a parameter that is one of some words."""

    def read(text: str, _: int) -> str:
        if text not in words:
            raise ParameterError(name, f"give one of {', '.join(words)}")
        return text

    return Parameter(
        name=name,
        says=says,
        read=read,
        schema={"type": "string", "enum": list(words)},
        example=words[0],
        default=default,
    )


def _read_kinds(text: str, _: int) -> frozenset[str]:
    kinds = frozenset(text.split(","))
    if not kinds <= set(KINDS):
        raise ParameterError("events", f"give some of {','.join(KINDS)}, with commas between them")
    return kinds


def _read_limit(text: str, _: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= MAX_LIMIT):  # noqa: PLR2004
        raise ParameterError("limit", f"give 1 to {MAX_LIMIT}")
    return int(text)


LIMIT: Final = Parameter(
    name="limit",
    says="how many at most",
    read=_read_limit,
    schema={"type": "integer", "minimum": 1, "maximum": MAX_LIMIT},
    example="20",
    default=str(DEFAULT_LIMIT),
)
CURSOR: Final = Parameter(
    name="cursor",
    says="where the page before ended, as its answer said",
    read=lambda text, _: Cursor.parse(text),
    schema={"type": "string", "pattern": f"^{CURSOR_PATTERN}$"},
    example=str(Cursor(1_800_000_000_000, 1)),
)
STEP: Final = Parameter(
    name="step",
    says="seconds between points, or 1m, 5m, 1h; a multiple of 10 s; default: what suits the span",
    read=lambda text, _: step_s(text, "step"),
    schema={"type": "string", "pattern": f"^(?:{PATTERN_OF_STEP})$"},
    example="1h",
)
EVENTS: Final = Parameter(
    name="events",
    says=f"which kinds of events, with commas between them: {', '.join(KINDS)}",
    read=_read_kinds,
    schema={"type": "string", "pattern": f"^(?:{'|'.join(KINDS)})(?:,(?:{'|'.join(KINDS)}))*$"},
    example="deny,window",
    default=",".join(KINDS),
)
