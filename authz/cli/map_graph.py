"""The map as a graph of Graphviz or of Mermaid: third parties with their windows, hosts that are nobody's dashed.

Names come from whoever calls: in both languages they stay text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from authz.policy.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: characters with a meaning in a label of Mermaid or Graphviz
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -_./:@(),%")
_DATE_CHARACTERS: Final = len("2027-03-01")


class PartyKind(StrEnum):
    """What a name on the map stands for."""

    SERVICE = "service"
    THIRD_PARTY = "third_party"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Party:
    """Somebody on the map; `window` says when a third party gets in, at the map's instant."""

    kind: PartyKind
    window: str | None = None


def parties(services: Sequence[Mapping[str, Any]], at: str) -> dict[str, Party]:
    """Read a hub's `GET /services`; `at` is the map's end, in RFC 3339 and UTC as the hub's times are."""
    kinds = {each.value: each for each in PartyKind}
    return {
        str(each["name"]): Party(
            kind=kinds.get(str(each.get("kind")), PartyKind.UNKNOWN), window=_window(each.get("window"), at)
        )
        for each in services
    }


def _window(window: Mapping[str, str | None] | None, at: str) -> str | None:
    if window is None:
        return None
    opens, closes = window.get("opens"), window.get("closes")
    # Times of one form sort as text.
    if opens is not None and at < opens:
        return f"opens {opens[:_DATE_CHARACTERS]}"
    if closes is None:
        return "open"
    return f"{'ended' if closes <= at else 'open until'} {closes[:_DATE_CHARACTERS]}"


_DOT_LOOKS: Final = {
    PartyKind.SERVICE: "",
    PartyKind.THIRD_PARTY: ', shape="octagon", color="purple"',
    PartyKind.UNKNOWN: ', style="dashed"',
}


def dot(edges: Sequence[dict[str, Any]], known: Mapping[str, Party]) -> Iterator[str]:
    """Give a graph in the language of Graphviz; denied calls are red."""
    yield "digraph calls {"
    yield "  rankdir=LR;"
    yield '  node [shape=box, fontname="sans-serif"];'
    numbers = _nodes(edges)
    for name, number in numbers.items():
        party = _party(known, name)
        window = f"\\n{_dot_text(party.window)}" if party.window else ""
        yield f'  n{number} [label="{_dot_text(name)}{window}"{_DOT_LOOKS[party.kind]}];'
    for edge in edges:
        colour = ', color="red", fontcolor="red"' if edge["denied"] else ""
        yield f'  n{numbers[edge["from"]]} -> n{numbers[edge["to"]]} [label="{_label(edge)}"{colour}];'
    yield "}"


_MERMAID_SHAPES: Final = {
    PartyKind.SERVICE: ('["', '"]'),
    PartyKind.THIRD_PARTY: ('{{"', '"}}'),
    PartyKind.UNKNOWN: ('(["', '"])'),
}
_MERMAID_LOOKS: Final = {
    PartyKind.THIRD_PARTY: "stroke:purple,stroke-width:2px",
    PartyKind.UNKNOWN: "stroke-dasharray:4 3",
}


def mermaid(edges: Sequence[dict[str, Any]], known: Mapping[str, Party]) -> Iterator[str]:
    """Give a flowchart in the language of Mermaid; edges with denied calls are red."""
    yield "flowchart LR"
    numbers = _nodes(edges)
    alike: dict[PartyKind, list[str]] = {}
    for name, number in numbers.items():
        party = _party(known, name)
        alike.setdefault(party.kind, []).append(f"n{number}")
        begin, end = _MERMAID_SHAPES[party.kind]
        window = f"<br/>{_mermaid_text(party.window)}" if party.window else ""
        yield f"  n{number}{begin}{_mermaid_text(name)}{window}{end}"
    for edge in edges:
        yield f'  n{numbers[edge["from"]]} -- "{_label(edge)}" --> n{numbers[edge["to"]]}'
    denied = [str(number) for number, edge in enumerate(edges) if edge["denied"]]
    if denied:
        yield f"  linkStyle {','.join(denied)} stroke:red"
    for kind, look in _MERMAID_LOOKS.items():
        if kind in alike:
            yield f"  classDef {kind.value} {look}"
            yield f"  class {','.join(alike[kind])} {kind.value}"


def _party(known: Mapping[str, Party], name: str) -> Party:
    return known.get(name, Party(kind=PartyKind.UNKNOWN))


def _nodes(edges: Sequence[dict[str, Any]]) -> dict[str, int]:
    names = sorted({edge["from"] for edge in edges} | {edge["to"] for edge in edges})
    return {name: number for number, name in enumerate(names)}


def _label(edge: dict[str, Any]) -> str:
    calls = f"{edge['calls']} call{'' if edge['calls'] == 1 else 's'}"
    parts = [calls, *(f"{edge[name]} {name}" for name in ("denied", "cut") if edge[name])]
    return ", ".join(parts)


def _dot_text(name: str) -> str:
    return printable(name).replace("\\", "\\\\").replace('"', '\\"')


def _mermaid_text(name: str) -> str:
    # https://mermaid.js.org/syntax/flowchart.html "Entity codes to escape characters"
    return "".join(each if each in _PLAIN else f"#{ord(each)};" for each in printable(name))
