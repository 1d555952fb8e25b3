"""`authz observe`: calls as sidecars saw them, one a line; the newest of what the hub keeps, or as they come.

What callers sent stands in these lines: nothing of it reaches the terminal unescaped.
"""

from __future__ import annotations

import json
import sys
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from authz.cli.arguments import YES
from authz.cli.hub_client import HubAwayError, add_hub, hub_of
from authz.cli.output import add_output, output_of
from authz.errors import UsageError
from authz.policy.errors import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from authz.cli.arguments import Subcommands
    from authz.cli.hub_client import HubClient

#: how often the hub is asked for more; a denial is there within two seconds of the call
EVERY_S: Final = 1.0
#: Records come late where a hub was away: what is so much older than the newest one is still shown.
LATE_S: Final = 300
#: decisions that were shown already, the oldest are forgotten
MOST_SHOWN: Final = 100_000
_PAGE: Final = 1000
#: as many as are told apart once they were shown
_MOST_LAST: Final = MOST_SHOWN


def add_commands(commands: Subcommands) -> None:
    """Add `observe`."""
    parser = commands.add(
        "observe",
        _observe,
        summary="show calls as the sidecars saw them: those that are kept in full, the oldest first",
        example="authz observe --follow --decision deny",
    )
    parser.add_flag("--follow", action="store_true", help="go on with what comes, until Ctrl-C")
    parser.add_flag("--decision", metavar="D", help="only allow, or only deny")
    parser.add_flag("--reason", metavar="R", help="only for this reason, such as closed")
    parser.add_flag("--from", dest="caller", metavar="F", help="only of this caller: a name, a SPIFFE ID, an address")
    parser.add_flag("--to", metavar="T", help="only to this destination: a name, or a host")
    parser.add_flag("--policy", metavar="NAME", help="only those that this rule decided")
    parser.add_flag("--since", metavar="TIME", help="only from then on: a time, or an age such as 1h")
    parser.add_flag("--last", default="100", metavar="N", help="how many at most, before what comes (default: 100)")
    add_hub(parser)
    add_output(parser, ("pretty", "json"))


def _observe(given: argparse.Namespace) -> int:
    as_json = output_of(given) == "json"
    hub = hub_of(given)
    if not (given.last.isascii() and given.last.isdigit() and len(given.last) <= len(str(_MOST_LAST))) or (
        int(given.last) > _MOST_LAST
    ):
        raise UsageError(f"--last: `{printable(given.last)}` is no number from 0 to {_MOST_LAST}")
    query = {
        "decision": given.decision,
        "reason": given.reason,
        "from": given.caller,
        "to": given.to,
        "policy": given.policy,
        "since": given.since,
    }
    late = {**query, "since": f"{LATE_S}s"}
    # What was there before, and was not asked for, does not come.
    before = list(_newest(hub, late, _PAGE * 10)) if given.follow else []
    shown: OrderedDict[tuple[str, bool], None] = OrderedDict()
    for call in reversed(list(_newest(hub, query, int(given.last)))):
        _show(call, shown, as_json=as_json)
    for call in reversed(before):
        _is_new(call, shown)
    away = ""
    while given.follow:
        time.sleep(EVERY_S)
        try:
            calls = list(_newest(hub, late, _PAGE * 10))
        except HubAwayError as error:
            # A hub that begins anew has what came meanwhile, and so does this: it looks so far back each time.
            if str(error) != away:
                print(f"{error}; asking on, until Ctrl-C", file=sys.stderr, flush=True)
            away = str(error)
            continue
        away = ""
        for call in reversed(calls):
            _show(call, shown, as_json=as_json)
    return YES


def _newest(hub: HubClient, query: dict[str, str | None], most: int) -> Iterator[dict[str, Any]]:
    """Give so many calls, the newest first, page by page."""
    cursor: str | None = None
    while most > 0:
        page = hub.ask("/calls", {**query, "limit": str(min(most, _PAGE)), "cursor": cursor})
        yield from page["calls"]
        most -= _PAGE
        cursor = page["cursor"]
        if cursor is None:
            return


def _show(call: dict[str, Any], shown: OrderedDict[tuple[str, bool], None], *, as_json: bool) -> None:
    if _is_new(call, shown):
        print(json.dumps(call) if as_json else call_line(call), flush=True)


def _is_new(call: dict[str, Any], shown: OrderedDict[tuple[str, bool], None]) -> bool:
    """Say whether a call was not there before; from now on it was."""
    # The end of a call that was cut has the id of its beginning.
    key = call["decision_id"], call["cut"]
    if key in shown:
        return False
    shown[key] = None
    if len(shown) > MOST_SHOWN:
        shown.popitem(last=False)
    return True


def encryption(call: dict[str, Any]) -> str:
    """Say how a call was encrypted: what goes out is, by the caller's Envoy, behind its record."""
    if call["tls"]["version"]:
        return str(call["tls"]["version"]).replace("TLSv1_", "tls 1.").replace("TLSv1.", "tls 1.")
    if call["direction"] == "inbound":
        return "no tls"
    # The end of a call that was cut is a denial, and comes of a call that ran.
    if call["decision"] == "deny" and not call["cut"]:
        return "not sent"
    return (
        "tls by envoy" if call["destination"]["service"] or call["destination"]["third_party"] else "tls not recorded"
    )


def call_line(call: dict[str, Any]) -> str:
    """Give the line of a record for a terminal."""
    caller, destination = call["caller"], call["destination"]
    source = caller["service"] or caller["third_party"] or caller["identity"] or caller["address"] or "(nobody)"
    target = destination["service"] or destination["third_party"] or destination["host"] or "(nobody)"
    handshake = call.get("handshake")
    if handshake is not None:
        times = f" ({handshake['count']} times)" if handshake["count"] > 1 else ""
        what = f"handshake failed: {handshake['failure']}{times}"
    else:
        what = f"{call['method']} {call['path'] or call['route'] or ''} {call['protocol'] or ''}".rstrip()
    parts = [
        call["time"],
        "cut  " if call["cut"] else f"{call['decision']:<5}",
        call["reason"] + (f" by {call['policy']}" if call["policy"] else ""),
        f"{source} -> {target}",
        # A call between two Services has a record of each of them.
        f"({'in at' if call['direction'] == 'inbound' else 'out at'} {call['sidecar']})",
        what,
        *([] if call["status"] is None else [str(call["status"])]),
        *([] if call["duration_ms"] is None else [f"{call['duration_ms']:.1f} ms"]),
        encryption(call),
        call["decision_id"],
    ]
    return printable("  ".join(parts))
