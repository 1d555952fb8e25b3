"""`authz map`: who calls whom, as a table, JSON, a Graphviz or a Mermaid graph."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from authz.cli.arguments import YES
from authz.cli.hub_client import add_hub, hub_of
from authz.cli.map_graph import PartyKind, dot, mermaid, parties
from authz.cli.output import add_output, output_of
from authz.policy.errors import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from authz.cli.arguments import Subcommands
    from authz.cli.map_graph import Party

_HEADINGS: Final = (
    "FROM", "TO", "CALLS", "DENIED", "OBSERVED", "CUT", "UNREACHED", "P50", "P99", "TLS", "ROUTES", "LAST SEEN",
)  # fmt: skip
_NUMBERS: Final = frozenset({2, 3, 4, 5, 6, 7, 8, 10})


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
    hub = hub_of(given)
    answer = hub.ask("/edges", query)
    if output == "json":
        print(json.dumps(answer))
        return YES
    edges: list[dict[str, Any]] = answer["edges"]
    known = parties(hub.ask("/services")["services"], answer["until"])
    match output:
        case "dot":
            print("\n".join(dot(edges, known)))
        case "mermaid":
            print("\n".join(mermaid(edges, known)))
        case _:
            print("\n".join(table(edges, known)) if edges else "no calls")
    return YES


def table(edges: Sequence[dict[str, Any]], known: Mapping[str, Party]) -> Iterator[str]:
    """Give the lines for a terminal."""
    compared = any("compared" in edge for edge in edges)
    rows = [(*_HEADINGS, *(("CHANGE",) if compared else ())), *(_row(edge, known) for edge in edges)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in _NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def _row(edge: dict[str, Any], known: Mapping[str, Party]) -> tuple[str, ...]:
    compared = edge.get("compared")
    change = () if compared is None else (f"{compared['change']} (was {compared['calls']})",)
    return (
        printable(edge["from"]),
        printable(edge["to"]),
        str(edge["calls"]),
        str(edge["denied"]),
        str(edge["observed"]),
        str(edge["cut"]),
        str(edge["unreached"]),
        _ms(edge["p50_ms"]),
        _ms(edge["p99_ms"]),
        _encryption(edge, known.get(edge["to"])),
        str(edge["routes"]),
        (edge["last_seen"] or "-").replace(".000Z", "Z"),
        *change,
    )


def _encryption(edge: dict[str, Any], destination: Party | None) -> str:
    versions = sorted(each for each in edge["tls"] if each.startswith("TLS"))
    told = [f"1.{each.removeprefix('TLSv1_').removeprefix('TLSv1.')}" for each in versions]
    without = sum(calls for version, calls in edge["tls"].items() if not version.startswith("TLS"))
    if without:
        # A record tells of the connection that its sidecar accepted: what goes out is encrypted behind it.
        unsent = edge["denied"] + edge["unreached"]
        is_out = destination is not None and destination.kind is PartyKind.THIRD_PARTY
        if is_out and edge["allowed"] > edge["unreached"]:
            told.append("by envoy")
        elif without > unsent:
            told.append("not recorded")
        elif not told:
            told.append("not sent")
    return printable(", ".join(told)) or "-"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
