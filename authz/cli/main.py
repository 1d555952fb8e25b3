"""The command `authz`: finds the command's module, runs it, and turns errors into one line and an exit status.

Exit status everywhere: 0 yes / clean / allowed, 1 no / findings / denied, 2 usage or a set that cannot be loaded.
This is the one place where an error of any kind ends; nobody ever sees a traceback (AUTHZ_TRACEBACK=1 shows it to
who is working on the program itself).
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from authz import __version__
from authz.cli.arguments import NO, USAGE, YES, CommandParser, Subcommands, parse
from authz.errors import AuthzError
from authz.policy.errors import nearest, quoted
from authz.zone_data import zone_data_version

if TYPE_CHECKING:
    from collections.abc import Sequence

#: command -> (module that adds its parser, what it does); a module is imported only when its command is called
_COMMANDS = {
    "lint": ("authz.cli.policies", "say what is wrong or doubtful in a policy folder"),
    "test": ("authz.cli.policies", "run the PolicyTests of a policy folder"),
    "check": ("authz.cli.policies", "answer one call, or many, from a policy folder"),
    "explain": ("authz.cli.policy_explain", "say why a call is answered as it is, and which rules were near"),
    "diff": ("authz.cli.policy_diff", "say what becomes allowed or denied between two folders or git revisions"),
    "fmt": ("authz.cli.policy_format", "write policy files the one way that everybody writes them"),
    "schema": ("authz.cli.policy_schema", "print the JSON Schema of the policy files, for editors"),
    "sidecar": ("authz.cli.sidecar", "run the ext_authz server beside one Envoy"),
    "mesh": ("authz.cli.mesh", "run every Service of a policy folder on this machine, behind real Envoys"),
    "envoy": ("authz.cli.envoy", "print the Envoy bootstrap of one Service's sidecar"),
    "identity": ("authz.cli.identity", "issue identities to attested workloads: a SPIFFE Workload API"),
    "svid": ("authz.cli.svid", "issue SVIDs of a local authority; show and verify SVIDs of any"),
    "bundle": ("authz.cli.bundle", "show trust bundles and put them in their place"),
    "doctor": ("authz.cli.doctor", "say what is missing on this machine, or wrong with an identity, and what to do"),
    "hub": ("authz.cli.hub", "collect what all sidecars record; JSON API and web page"),
    "observe": ("authz.cli.observe", "show calls as the sidecars saw them, and follow them"),
    "map": ("authz.cli.map", "show who calls whom, as a table or a graph"),
    "status": ("authz.cli.status", "show every sidecar: revision, lag, SVID, losses"),
    "windows": ("authz.cli.windows", "say when ThirdParties and rules open and close, who tried, and close one"),
}


def main(arguments: Sequence[str] | None = None) -> int:  # noqa: PLR0911 one return for each way to end
    """Run one command line and give its exit status; never raises, but for KeyboardInterrupt's own status 130."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] in (["--version"], ["version"]):
            print(f"authz {__version__} (tzdata {zone_data_version()})")
            return YES
        if not words or words[0] in {"-h", "--help", "help"}:
            print(_overview())
            return YES if words else USAGE
        return _run(words)
    except AuthzError as error:
        print(error, file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone: nothing more to say, and nothing to say it to.
        _give_up_output()
        return NO
    except OSError as error:
        print(f"authz: {error.strerror or error}", file=sys.stderr)
        _end_output()
        return USAGE
    except SystemExit as leaving:  # argparse leaves so after --help
        return leaving.code if isinstance(leaving.code, int) else USAGE
    except Exception as error:
        if os.environ.get("AUTHZ_TRACEBACK"):
            raise
        print(f"authz: a fault of the program: {type(error).__name__}: {error}", file=sys.stderr)
        return USAGE


def _end_output() -> None:
    """Write what is still to be written, or let it go."""
    try:
        sys.stdout.flush()
    except OSError:
        _give_up_output()


def _give_up_output() -> None:
    """Let what is still to be written go: the interpreter would try again at its end, and complain in its own words."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(words: list[str]) -> int:
    if words[0] not in _COMMANDS:
        hint = nearest(words[0], _COMMANDS)
        print(f"authz: there is no command {quoted(words[0])}{hint}\n\n{_overview()}", file=sys.stderr)
        return USAGE
    module = importlib.import_module(_COMMANDS[words[0]][0])
    parser = CommandParser(prog="authz")
    module.add_commands(Subcommands(parser))
    given = parse(parser, words)
    status: int = given.run(given)
    sys.stdout.flush()
    return status


def _overview() -> str:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: authz COMMAND ...",
            "",
            "Time-boxed, identity-based authorization for every API call between microservices.",
            "",
            *lines,
            "",
            "`authz COMMAND --help` says more, with an example. Exit status: 0 yes, 1 no, 2 cannot be answered.",
            "Each flag can be set by AUTHZ_<FLAG>, too; a switch by 1 or 0, true or false, yes or no, on or off.",
        ]
    )
