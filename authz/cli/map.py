"""`authz map`: who calls whom, as a table, JSON, a Graphviz or a Mermaid graph."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from authz.cli.arguments import YES
from authz.cli.hub_client import add_hub, hub_of
from authz.cli.output import add_output, output_of
from authz.policy.errors import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from authz.cli.arguments import Subcommands

_HEADINGS: Final = ("FROM", "TO", "CALLS", "DENIED", "OBSERVED", "P50", "P99", "TLS", "ROUTES", "LAST SEEN")
_NUMBERS: Final = frozenset({2, 3, 4, 5, 6, 8})
#: characters with a meaning in a label of Mermaid or Graphviz
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -_./:@(),%")


def add_commands(commands: Subcommands) -> None:
    """Add `map`."""
    parser = commands.add(
        "map",
        _map,
        summary="show who calls whom, how often, and how it is answered and encrypted",
        example="authz map --since 24h -o mermaid",
    )
    parser.add_flag("--since", metavar="TIME", help="the beginning: a time, or an age such as 15m (default: 1h)")
    parser.add_flag("--until", metavar="TIME", help="the end (default: now)")
    parser.add_flag("--at", metavar="TIME", help="the map as it was then")
    parser.add_flag("--compare", metavar="TIME", help="say what is new, gone or grown since then")
    parser.add_flag("--service", metavar="NAME", help="only calls from or to it")
    add_hub(parser)
    add_output(parser, ("pretty", "json", "dot", "mermaid"))


def _map(given: argparse.Namespace) -> int:
    output = output_of(given)
    query = {name: getattr(given, name) for name in ("since", "until", "at", "compare", "service")}
    answer = hub_of(given).ask("/edges", query)
    edges: list[dict[str, Any]] = answer["edges"]
    match output:
        case "json":
            print(json.dumps(answer))
        case "dot":
            print("\n".join(dot(edges)))
        case "mermaid":
            print("\n".join(mermaid(edges)))
        case _:
            print("\n".join(table(edges)) if edges else "no calls")
    return YES


def table(edges: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Give the lines for a terminal."""
    compared = any("compared" in edge for edge in edges)
    rows = [(*_HEADINGS, *(("CHANGE",) if compared else ())), *(_row(edge) for edge in edges)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _row(edge: dict[str, Any]) -> tuple[str, ...]:
    compared = edge.get("compared")
    change = () if compared is None else (f"{compared['change']} (was {compared['calls']})",)
    return (
        printable(edge["from"]),
        printable(edge["to"]),
        str(edge["calls"]),
        str(edge["denied"]),
        str(edge["observed"]),
        _ms(edge["p50_ms"]),
        _ms(edge["p99_ms"]),
        printable(",".join(_version(each) for each in sorted(edge["tls"]))) or "-",
        str(edge["routes"]),
        edge["last_seen"] or "-",
        *change,
    )


def _version(version: str) -> str:
    # What a record does not tell of is not said to be plain: a call that goes out is encrypted behind it.
    return "not recorded" if version == "none" else version


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"


def dot(edges: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Give a graph in the language of Graphviz; denied calls are red."""
    yield "digraph calls {"
    yield "  rankdir=LR;"
    yield '  node [shape=box, fontname="sans-serif"];'
    numbers = _nodes(edges)
    for name, number in numbers.items():
        yield f'  n{number} [label="{_dot_text(name)}"];'
    for edge in edges:
        colour = ', color="red", fontcolor="red"' if edge["denied"] else ""
        yield f'  n{numbers[edge["from"]]} -> n{numbers[edge["to"]]} [label="{_label(edge)}"{colour}];'
    yield "}"


def mermaid(edges: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Give a flowchart in the language of Mermaid; edges with denied calls are red."""
    yield "flowchart LR"
    numbers = _nodes(edges)
    for name, number in numbers.items():
        yield f'  n{number}["{_mermaid_text(name)}"]'
    for edge in edges:
        yield f'  n{numbers[edge["from"]]} -- "{_label(edge)}" --> n{numbers[edge["to"]]}'
    denied = [str(number) for number, edge in enumerate(edges) if edge["denied"]]
    if denied:
        yield f"  linkStyle {','.join(denied)} stroke:red"


def _nodes(edges: Sequence[dict[str, Any]]) -> dict[str, int]:
    names = sorted({edge["from"] for edge in edges} | {edge["to"] for edge in edges})
    return {name: number for number, name in enumerate(names)}


def _label(edge: dict[str, Any]) -> str:
    calls = f"{edge['calls']} call{'' if edge['calls'] == 1 else 's'}"
    return f"{calls}, {edge['denied']} denied" if edge["denied"] else calls


def _dot_text(name: str) -> str:
    return printable(name).replace("\\", "\\\\").replace('"', '\\"')


def _mermaid_text(name: str) -> str:
    # https://mermaid.js.org/syntax/flowchart.html "Entity codes to escape characters"
    return "".join(each if each in _PLAIN else f"#{ord(each)};" for each in printable(name))
