"""`authz mesh`: every Service of a policy folder on this machine, behind real Envoys."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING

from authz.cli.arguments import NO, YES, Subcommands
from authz.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from authz.cli.arguments import CommandParser
    from authz.mesh.calls.call import CallAnswer

_STATE_HELP = "where the mesh keeps its state (default: .authz/mesh); one mesh at a time uses it"


def add_commands(commands: Subcommands) -> None:
    """Add `mesh up`, `status`, `down`, `call` and `demo`."""
    subcommands = commands.add_group(
        "mesh",
        summary="run every Service of a policy folder on this machine, behind real Envoys",
        example="authz mesh up --policies policies --detach",
    )
    _add_up(subcommands)
    _add_status(subcommands)
    _add_down(subcommands)
    _add_call(subcommands)
    _add_demo(subcommands)


def _add_up(commands: Subcommands) -> None:
    parser = commands.add(
        "up",
        _up,
        summary="start an echo app, an Envoy and a sidecar for every Service, and a stand-in for every ThirdParty",
        example="authz mesh up --policies policies --detach",
    )
    parser.add_flag("--policies", required=True, metavar="DIR", help="the policy folder; the sidecars follow it")
    parser.add_flag("--detach", action="store_true", help="return when the mesh is ready; it goes on until `mesh down`")
    _add_state(parser)
    parser.add_flag(
        "--only", type=_names, default=(), metavar="NAME,...", help="start only these Services and ThirdParties"
    )
    parser.add_flag(
        "--accept-clock",
        action="store_true",
        help="the clock is right: forget the latest instants that the sidecars of an earlier mesh have kept",
    )
    parser.add_flag(
        "--unsafe-clock-file",
        metavar="FILE",
        help="for tests: the sidecars judge windows by the instant that FILE holds, at which the clock stands still, or"
        " by the machine's clock and the +SECONDS or -SECONDS that it holds",
    )
    parser.add_flag("--no-hub", action="store_true", help="without the hub, which shows what all sidecars record")


def _add_status(commands: Subcommands) -> None:
    parser = commands.add(
        "status",
        _status,
        summary="show what runs where; exit status 0 ready, 1 not ready, 2 no mesh",
        example="authz mesh status -o json",
    )
    _add_state(parser)
    _add_output(parser)


def _add_down(commands: Subcommands) -> None:
    parser = commands.add("down", _down, summary="stop the mesh and leave nothing behind", example="authz mesh down")
    _add_state(parser)


def _add_call(commands: Subcommands) -> None:
    parser = commands.add(
        "call",
        _call,
        summary="make one call through the mesh; exit status 0 allowed, 1 refused, 2 it could not be asked",
        example="authz mesh call --from gateway --to orders --method GET --path /orders/7",
    )
    parser.add_flag("--from", dest="caller", required=True, metavar="A", help="the calling Service or ThirdParty")
    parser.add_flag(
        "--to", dest="destination", required=True, metavar="B", help="the called Service, ThirdParty, or host"
    )
    parser.add_flag("--method", metavar="M", help="the HTTP method, sent as it is written")
    parser.add_flag("--path", metavar="P", help="the path with its query, sent as it is written")
    parser.add_flag("--grpc", metavar="pkg.Service/Method", help="call a gRPC method instead; --body is its message")
    parser.add_argument("-H", dest="header", action="append", metavar="K:V", help="same as --header")
    parser.add_flag(
        "--header", dest="header", action="append", metavar="K:V", help="a header; may be given several times"
    )
    parser.add_flag("--body", metavar="TEXT", help="the request's body")
    parser.add_flag("--host", metavar="H", help="what the Host header says (default: B, or its first exact host)")
    _add_state(parser)
    _add_output(parser)


def _add_demo(commands: Subcommands) -> None:
    parser = commands.add(
        "demo",
        _demo,
        summary="play the story of a small shop on real Envoys, and keep it up until Ctrl-C",
        example="authz mesh demo --exit",
    )
    parser.add_flag("--exit", action="store_true", help="end after the story; exit status 0 if all came out as it says")
    _add_state(parser)


def _add_state(parser: CommandParser) -> None:
    parser.add_flag("--state", metavar="DIR", help=_STATE_HELP)


def _add_output(parser: CommandParser) -> None:
    parser.add_argument("-o", dest="output", choices=["pretty", "json"], help="default: pretty on a terminal")


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    if not names:
        raise UsageError("--only: give the names of Services or ThirdParties, with commas between them")
    return names


class _Terminal:
    """Shows on the terminal what a mesh says."""

    def progress(self, text: str) -> None:
        """Show one line."""
        # Who reads the lines may have gone: that is no reason to stop a mesh.
        with contextlib.suppress(OSError):
            print(f"mesh: {text}", flush=True)

    def ready(self, text: str) -> None:
        """Show that everything serves, and what to do now."""
        self.progress(f"{text}; Ctrl-C stops it")


def _up(given: argparse.Namespace) -> int:
    from authz.mesh.settings import MeshSettings  # noqa: PLC0415 only what the command needs is imported

    settings = MeshSettings(
        policies=given.policies,
        state=given.state,
        only=given.only,
        unsafe_clock_file=given.unsafe_clock_file,
        accept_clock=given.accept_clock,
        hub=not given.no_hub,
    )
    terminal = _Terminal()
    if given.detach:
        from authz.mesh.background import start_in_background  # noqa: PLC0415 as above

        start_in_background(settings, for_life=False, report=terminal.progress)
        terminal.progress("`authz mesh status` shows it, `authz mesh down` stops it")
        return YES
    from authz.mesh.supervisor import supervise  # noqa: PLC0415 as above

    return YES if supervise(settings, terminal) else NO


def _status(given: argparse.Namespace) -> int:
    from authz.mesh.running_mesh import Mesh  # noqa: PLC0415 as above
    from authz.mesh.status_table import status_table  # noqa: PLC0415 as above

    status = Mesh(given.state).status()
    print(json.dumps(status.to_json()) if _wants_json(given) else status_table(status))
    return YES if status.ready else NO


def _down(given: argparse.Namespace) -> int:
    from authz.mesh.running_mesh import Mesh  # noqa: PLC0415 as above

    print("mesh: stopped" if Mesh(given.state).stop() else "mesh: there was none")
    return YES


def _call(given: argparse.Namespace) -> int:
    from authz.mesh.calls.call import MeshCall  # noqa: PLC0415 as above
    from authz.mesh.errors import NoAnswerError  # noqa: PLC0415 as above
    from authz.mesh.running_mesh import Mesh  # noqa: PLC0415 as above

    call = MeshCall(
        caller=given.caller,
        destination=given.destination,
        # The bytes that were typed, whatever they mean in the user's locale.
        method=os.fsencode(given.method or ""),
        path=os.fsencode(given.path or ""),
        grpc=given.grpc,
        headers=tuple(_header(text) for text in given.header or ()),
        body=None if given.body is None else os.fsencode(given.body),
        host=None if given.host is None else os.fsencode(given.host),
    )
    try:
        answer = Mesh(given.state).call(call)
    except NoAnswerError as error:
        # Not allowed through, for whatever reason: no status, but an answer to whoever reads JSON.
        print(error, file=sys.stderr)
        if _wants_json(given):
            nothing = dict.fromkeys(("status", "grpc_status", "headers", "body", "reason", "decision_id"))
            print(json.dumps({**nothing, "headers": {}, "body": ""}))
        return NO
    print(json.dumps(answer.to_json()) if _wants_json(given) else _answer_text(answer))
    return YES if answer.allowed else NO


def _demo(given: argparse.Namespace) -> int:
    from authz.mesh.demo.story import play  # noqa: PLC0415 as above

    status: int = play(keep_up=not given.exit, state=given.state)
    return status


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError(f"-H `{text}`: give NAME:VALUE")
    return os.fsencode(name), os.fsencode(value.strip(" "))


def _answer_text(answer: CallAnswer) -> str:
    how = "allowed" if answer.allowed else "not answered by the app"
    if answer.reason is not None:
        how = f"refused: {answer.reason}"
    status = str(answer.status) if answer.grpc_status is None else f"{answer.status}, grpc status {answer.grpc_status}"
    headers = [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\n".join([f"{status} ({how})", *headers, "", answer.body.rstrip("\n")])


def _wants_json(given: argparse.Namespace) -> bool:
    return given.output == "json" or (given.output is None and not sys.stdout.isatty())
