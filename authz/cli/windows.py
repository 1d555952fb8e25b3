"""`authz windows`: which windows are open, which are closing, who tried when they were not, and how one is closed."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from authz.cli.arguments import YES
from authz.cli.hub_identity import add_identity
from authz.cli.hub_token import add_token_file
from authz.cli.output import add_output, output_of
from authz.decision_logs import ReadLines, log_folder, read_attempts
from authz.errors import UsageError
from authz.insight.attempt_tally import NO_ATTEMPTS, AttemptTally
from authz.insight.calendar import calendar
from authz.insight.window_dates import windows_of
from authz.insight.window_report import WindowReport, window_reports
from authz.policy.errors import printable, quoted
from authz.policy_folder import load_policy_folder

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from authz.cli.arguments import CommandParser, Subcommands
    from authz.cli.hub_client import HubClient
    from authz.mesh.state import MeshState
    from authz.policy.policy_set import PolicySet


def add_commands(commands: Subcommands) -> None:
    """Add `windows list`, `windows close` and `windows watch`."""
    group = commands.add_group(
        "windows",
        summary="say when ThirdParties and rules open and close, and close one (alone: `windows list`)",
        example="authz windows --policies policies",
        default="list",
    )
    parser = group.add(
        "list",
        _list,
        summary="list every window: opening, open, closing (14 days), ended; and who tried outside of its dates",
        example="authz windows list --policies policies -o ics",
    )
    add_places(parser)
    parser.add_argument(
        "--hub",
        metavar="URL",
        help="the hub that is asked who tried; default: that of the mesh in --state, else what AUTHZ_HUB says;"
        " where there is none, decision logs are read [AUTHZ_HUB]",
    )
    add_token_file(parser)
    add_identity(parser)
    add_output(parser, ("pretty", "json", "ics"))

    parser = group.add(
        "close",
        _close,
        summary="move the end of a window to now, or to a time; both directions of a ThirdParty end with it",
        example="authz windows close acme-analytics --now --policies policies",
    )
    parser.add_argument("name", metavar="NAME", help="the ThirdParty or MicroPolicy")
    parser.add_flag("--now", action="store_true", help="close it at this instant (the default)")
    parser.add_flag("--at", metavar="TIME", help="close it then: RFC 3339 with an offset; it is written as it is given")
    parser.add_flag("--extend", action="store_true", help="let --at be later than the present end")
    parser.add_flag("--kind", metavar="KIND", help="third_party or micro_policy, where both have the name")
    add_places(parser)
    add_output(parser, ("pretty", "json"))

    parser = group.add(
        "watch",
        _watch,
        summary="tell a webhook before a window closes, when it does, and of the first attempt after it; until Ctrl-C",
        example="authz windows watch --notify https://hooks.example/authz --secret-file secret --policies policies",
    )
    parser.add_flag("--notify", required=True, metavar="URL", help="where to send it: https, or http on this machine")
    parser.add_flag("--lead", default="14d,1d,1h", metavar="TIMES", help="how long before a close; default: 14d,1d,1h")
    parser.add_flag(
        "--secret-file", metavar="FILE", help="what announcements are signed with: 24 bytes or more, one secret a line"
    )
    parser.add_flag("--unsafe-plain-http", action="store_true", help="let --notify be http to another machine")
    add_places(parser)
    parser.add_flag(
        "--hub",
        metavar="URL",
        help="the hub that is asked who tried, for a mesh of many machines; without it the decision logs of --state"
        " are read",
    )
    add_token_file(parser)
    add_identity(parser)
    add_output(parser, ("pretty", "json"))


def add_places(parser: CommandParser) -> None:
    """Add where policies and decision logs are."""
    parser.add_flag("--policies", metavar="DIR", help="the policy folder; default: that of the mesh in --state")
    parser.add_flag(
        "--state",
        metavar="DIR",
        help="whose decision logs are read: the state of a mesh (default: .authz/mesh), or a folder of *.jsonl",
    )


def policies_of(given: argparse.Namespace) -> str:
    """Give the policy folder that was named, or that of the mesh in the state directory."""
    if given.policies:
        return str(given.policies)
    from authz.mesh.state_directory import StateDirectory  # noqa: PLC0415 only what the command needs is imported

    directory = StateDirectory(given.state)
    state = directory.read()
    if state is None:
        raise UsageError(
            f"--policies: name the policy folder; no mesh runs with the state directory `{directory.shown}`"
        )
    return state.policies


def state_of(given: argparse.Namespace) -> Path:
    """Give the folder with the decision logs; raises UsageError for one that was named and is not there."""
    from authz.mesh.state_directory import StateDirectory  # noqa: PLC0415 as above

    directory = StateDirectory(given.state)
    if given.state and not directory.path.is_dir():
        raise UsageError(f"--state: {printable(given.state)}: there is no such folder")
    return directory.path


def _close(given: argparse.Namespace) -> int:
    from authz.cli.windows_close import close  # noqa: PLC0415 as above

    as_json = output_of(given) == "json"
    # A wrong --state would close as if there were no mesh that has to follow.
    state_of(given)
    return close(given, policies_of(given), mesh=_mesh_of(given), as_json=as_json, now_ns=time.time_ns())


def _mesh_of(given: argparse.Namespace) -> MeshState | None:
    """Give the mesh that runs with the state directory, None where none does, or that cannot be told."""
    from authz.mesh.errors import MeshError  # noqa: PLC0415 as above
    from authz.mesh.state_directory import StateDirectory  # noqa: PLC0415 as above

    directory = StateDirectory(given.state)
    if directory.supervisor() is None:
        return None
    with contextlib.suppress(MeshError):
        return directory.read()
    return None


def _watch(given: argparse.Namespace) -> int:
    from authz.cli.windows_watch import watch  # noqa: PLC0415 as above

    return watch(given, policies_of(given), state_of(given), as_json=output_of(given) == "json")


def _list(given: argparse.Namespace) -> int:
    output = output_of(given)
    policy_set = load_policy_folder(policies_of(given))
    now_ns = time.time_ns()
    told: ReadLines | None = None
    hub = _hub(given)
    if hub is not None:
        reports = _reports_of_hub(policy_set, hub, now_ns)
    else:
        state, told = state_of(given), ReadLines()
        reports = reports_of(policy_set, state, now_ns, told)
    match output:
        case "json":
            logs = {} if told is None else {"logs": _logs(told)}
            print(json.dumps({"windows": [each.to_json() for each in reports], **logs}))
        case "ics":
            mesh = policy_set.mesh
            feed = calendar(reports, mesh=mesh.name, trust_domain=mesh.trust_domains[0].name, now_ns=now_ns)
            # RFC 5545 3.1.4: UTF-8, whatever the user's locale is.
            sys.stdout.buffer.write(feed.encode("utf-8"))
        case _:
            from authz.cli.windows_table import windows_table  # noqa: PLC0415 as above

            coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
            print(windows_table(reports, now_ns, coloured=coloured))
            if told is not None and not told.files:
                folder = printable(str(log_folder(state_of(given))))
                print(f"\nno decision logs in {folder}: nobody's attempts are counted")
    if told is not None:
        _complain(told)
    return YES


def _hub(given: argparse.Namespace) -> HubClient | None:
    """Give the hub that the flags name, or that there is; None where decision logs have to do."""
    from authz.cli.hub_client import hub_of, mesh_hub  # noqa: PLC0415 as above

    if given.hub or mesh_hub(given.state) or os.environ.get("AUTHZ_HUB"):
        return hub_of(given)
    return None


def _reports_of_hub(policy_set: PolicySet, hub: HubClient, now_ns: int) -> tuple[WindowReport, ...]:
    from authz.cli.windows_hub import windows_of_hub  # noqa: PLC0415 as above

    known = windows_of_hub(hub)
    reports = []
    for window in windows_of(policy_set):
        told = known.get((window.kind, window.name))
        if told is not None and told.closes_ns != window.closes_ns:
            print(f"the hub knows another end of {quoted(window.name)}: its attempts are left out", file=sys.stderr)
            told = None
        reports.append(
            WindowReport(
                window=window,
                stage=window.stage(now_ns),
                before=NO_ATTEMPTS if told is None else told.before,
                after=NO_ATTEMPTS if told is None else told.after,
            )
        )
    return tuple(reports)


def reports_of(policy_set: PolicySet, state: Path, now_ns: int, told: ReadLines) -> tuple[WindowReport, ...]:
    """Join the windows of a set with the attempts in the decision logs; `told` says what was read."""
    windows = windows_of(policy_set)
    tally = AttemptTally({(each.kind, each.name): each for each in windows})
    for attempt in read_attempts(state, told):
        tally.add(attempt)
    return window_reports(windows, tally, now_ns)


def _logs(told: ReadLines) -> dict[str, Any]:
    return {
        "files": told.files,
        "lines": told.lines,
        "damaged": told.damaged,
        "partial": told.partial,
        "unreadable": sorted(told.unreadable),
    }


def _complain(told: ReadLines) -> None:
    """Say on standard error what of the decision logs is not in the numbers."""
    for path, why in sorted(told.unreadable.items()):
        print(printable(f"{path}: {why}; attempts in it may be missing"), file=sys.stderr)
    if told.damaged:
        print(f"{_lines(told.damaged, 'damaged ')} left out of the count", file=sys.stderr)
    if told.partial:
        print(f"{_lines(told.partial, 'unfinished last ')} left out of the count", file=sys.stderr)


def _lines(number: int, what: str) -> str:
    return f"{number} {what}line is" if number == 1 else f"{number} {what}lines are"
