"""A map beside that of another time: what is new, gone, grown or shrunk. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.hub import answers

#: A change of less than a quarter is called none: two hours never have the same number of calls.
_GROWN: Final = 1.25


def compare(edges: dict[tuple[str, str], answers.Edge], before: Mapping[tuple[str, str], answers.Edge]) -> None:
    """Say of each edge what it was before; those that have gone come with no calls."""
    gone = before.keys() - edges.keys()
    for ends in gone:
        edges[ends] = {
            **before[ends],
            "calls": 0, "allowed": 0, "denied": 0, "observed": 0, "cut": 0, "unreached": 0,
            "bytes_received": 0, "bytes_sent": 0, "p50_ms": None, "p99_ms": None,
            "protocols": {}, "tls": {}, "routes": 0,
        }  # fmt: skip
    for ends, edge in edges.items():
        compared = before.get(ends)
        calls, denied = (0, 0) if compared is None else (compared["calls"], compared["denied"])
        # Where no call began, one that began before may still have run.
        change = _change(max(calls, int(compared is not None)), max(edge["calls"], int(ends not in gone)))
        edge["compared"] = {"calls": calls, "denied": denied, "change": change}


def _change(before: int, calls: int) -> Any:
    if not before:
        return "new"
    if not calls:
        return "gone"
    if calls > before * _GROWN:
        return "grown"
    return "shrunk" if calls * _GROWN < before else "same"
