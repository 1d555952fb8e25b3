"""`authz doctor`: what is missing on this machine, or wrong with an identity, and how to get or mend it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from authz.cli.arguments import NO, YES
from authz.cli.output import add_output, output_of
from authz.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from authz.cli.arguments import Subcommands
    from authz.doctor.identity_source import Fetched
    from authz.doctor.observation import Observation

#: what is longer, such as a SPIFFE ID of 2048 characters, moves its own line and no other
MAX_WIDTH: Final = 48


def add_commands(commands: Subcommands) -> None:
    """Add `doctor`."""
    parser = commands.add(
        "doctor",
        _doctor,
        summary="say what is missing on this machine, or wrong with an identity, and what to do;"
        " exit status 1 where something required is missing or broken",
        example="authz doctor --identity spire:/run/authz/workload.sock --service orders --policies policies",
    )
    parser.add_flag(
        "--identity",
        metavar="spire:SOCKET|files:DIR",
        help="fetch once from this Workload API, as this process, or read these files, as the sidecar would",
    )
    parser.add_flag("--policies", metavar="DIR", help="hold what came against this policy folder")
    parser.add_flag("--service", metavar="NAME", help="the Service whose identity it is to be; with --policies")
    parser.add_flag("--sds-socket", metavar="PATH", help="ask this SDS socket for its bundles (never for a key)")
    parser.add_flag("--state", metavar="DIR", help="read what a running sidecar, or mesh, says of itself there")
    add_output(parser, ("pretty", "json"))


def _doctor(given: argparse.Namespace) -> int:
    from authz.doctor.observation import Level, printable  # noqa: PLC0415 `--help` looks at nothing

    output = output_of(given)
    source, place = _source(given)
    if given.service is not None and given.policies is None:
        raise UsageError(f"--service `{given.service}`: say with --policies which set it is in")
    seen = list(_observations(given, source, place))
    healthy = all(one.level is not Level.MISSING for one in seen)
    if output == "json":
        print(json.dumps({"ok": healthy, "observations": [one.to_json() for one in seen]}))
    else:
        width = min(MAX_WIDTH, max(len(one.about) for one in seen))
        for one in seen:
            remedy = f"  -  {one.remedy}" if one.remedy else ""
            print(printable(f"{one.level.value:<7}  {one.about:<{width}}  {one.says}{remedy}"))
    return YES if healthy else NO


def _source(given: argparse.Namespace) -> tuple[str, str]:
    if given.identity is None:
        return "", ""
    source, _, place = given.identity.partition(":")
    if source not in {"spire", "files"} or not place:
        raise UsageError(f"--identity `{given.identity}`: give spire:SOCKET or files:DIR")
    if source == "spire":
        from authz.workload_api.endpoint import grpc_target  # noqa: PLC0415 as above

        grpc_target(place)
    return source, place


def _observations(given: argparse.Namespace, source: str, place: str) -> Iterator[Observation]:
    from authz.doctor.machine import machine  # noqa: PLC0415 as above

    yield from machine()
    fetched: Fetched | None = None
    if source:
        from authz.doctor.identity_source import SourceObservations  # noqa: PLC0415 as above

        look = SourceObservations()
        yield from look.of_workload_api(place) if source == "spire" else look.of_files(place)
        fetched = look.fetched
    if given.policies is not None:
        from authz.doctor.service_identity import policies_observations  # noqa: PLC0415 as above

        yield from policies_observations(given.policies, given.service, fetched)
    if given.sds_socket is not None:
        from authz.doctor.running import sds_observation  # noqa: PLC0415 as above

        yield sds_observation(given.sds_socket)
    if given.state is not None:
        from authz.doctor.running import state_observations  # noqa: PLC0415 as above

        yield from state_observations(given.state)
