"""`authz status`: every sidecar as the hub knows it: what it decides by, how late it is, what it has lost."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from authz.cli.arguments import NO, YES
from authz.cli.hub_client import add_hub, hub_of
from authz.cli.output import add_output, output_of
from authz.instant import NS_PER_S
from authz.policy.errors import printable
from authz.policy.window import parse_instant_ns
from authz.policy.window_words import duration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from authz.cli.arguments import Subcommands

#: A sidecar sends something every ten seconds; one that has missed six is not well.
LATE_S: Final = 60.0
_HEADINGS: Final = (
    "SIDECAR",
    "STATE",
    "REVISION",
    "LAG",
    "SVID",
    "SPOOLED",
    "LOST",
    "UNJOINED",
    "DROPPED",
    "HANDSHAKES",
)
_SHORT: Final = 12
#: what the hub has counted since it started, and is not as it was sent
_LEFT_OUT: Final = {
    "ahead": "were dated ahead of the hub's clock, and are kept as of when they came: is a sidecar's clock wrong?",
    "too_old": "were too old to be kept",
    "foreign": "were of another Service than their sidecar's, and were refused",
}


def add_commands(commands: Subcommands) -> None:
    """Add `status`."""
    parser = commands.add(
        "status",
        _status,
        summary="show every sidecar: revision, lag, SVID, losses; exit status 1 where one is not as it should be",
        example="authz status --hub http://127.0.0.1:8800",
    )
    add_hub(parser)
    add_output(parser, ("pretty", "json"))


def _status(given: argparse.Namespace) -> int:
    as_json = output_of(given) == "json"
    status = hub_of(given).ask("/status")
    troubles = list(troubles_of(status, time.time_ns()))
    if as_json:
        print(json.dumps({**status, "troubles": troubles}))
    else:
        print("\n".join(_lines(status, troubles)))
    return NO if troubles else YES


def troubles_of(status: dict[str, Any], now_ns: int) -> Iterator[str]:
    """Say what is not as it should be."""
    policies = status["policies"]
    wanted = None if policies is None else policies["revision"]
    for fault in [] if policies is None else policies["faults"]:
        yield f"the hub cannot use the newest policies: {fault}"
    for field, what in _LEFT_OUT.items():
        # A hub of before does not count them.
        if status["store"].get(field):
            yield f"{status['store'][field]} decisions and records {what}"
    for each in status["sidecars"]:
        name = each["name"]
        if not each["ready"]:
            yield f"{name} has no usable policies"
        if each["lag_s"] > LATE_S:
            yield f"{name} has not been heard of for {duration(int(each['lag_s']) * NS_PER_S)}"
        if wanted is not None and each["revision"] != wanted:
            yield f"{name} decides by {_revision(each['revision'])}, not by {_revision(wanted)}"
        if each["svid_expires"] is not None and parse_instant_ns(each["svid_expires"]) <= now_ns:
            yield f"{name}: its SVID has ended"
        if each["lost"] or each["dropped"]:
            yield f"{name} has lost {each['lost']} records and dropped {each['dropped']}"


def _lines(status: dict[str, Any], troubles: list[str]) -> Iterator[str]:
    store = status["store"]
    size = store["size_bytes"] / 1024 / 1024
    yield printable(
        f"hub: {store['kind']}, {size:.1f} MiB, {store['records']} records, {store['series']} kinds of flows"
    )
    now_ns = parse_instant_ns(status["time"])
    rows = [_HEADINGS, *(_row(each, now_ns) for each in status["sidecars"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield ""
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    if troubles:
        yield ""
        yield from map(printable, troubles)


def _row(each: dict[str, Any], now_ns: int) -> tuple[str, ...]:
    return (
        printable(each["name"]),
        "ready" if each["ready"] else "not ready",
        printable(_revision(each["revision"])),
        f"{each['lag_s']:.0f} s",
        _until(each["svid_expires"], now_ns),
        *(str(each[name]) for name in ("spooled", "lost", "unjoined", "dropped", "failed_handshakes")),
    )


def _revision(revision: str | None) -> str:
    return "-" if revision is None else revision[:_SHORT]


def _until(expires: str | None, now_ns: int) -> str:
    if expires is None:
        return "-"
    left_ns = parse_instant_ns(expires) - now_ns
    return f"{duration(left_ns)} more" if left_ns > 0 else "ended"
