"""`authz diff`: what becomes allowed and what becomes denied between two states of the policies."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from authz.cli.arguments import NO, USAGE, YES
from authz.cli.json_lines import lines_of
from authz.cli.output import add_output, output_of
from authz.cli.policy_diff_text import differences_for_people, kind_object, replay_for_people
from authz.errors import UsageError
from authz.policy.asked_call import AskedCallError
from authz.policy.difference import compare
from authz.policy.difference_json import difference_object
from authz.policy.errors import printable
from authz.policy.garbage import collector_at_rest
from authz.policy.index import compile_index
from authz.policy.policy_test import directory_of
from authz.policy.recorded_call import recorded_call_from_json
from authz.policy.replay import Replay
from authz.policy.window import NS_PER_DAY
from authz.policy_folder import load_policy_folder
from authz.policy_in_git import git_folder, is_in_repository, load_git_folder, repository_path

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from authz.cli.arguments import Subcommands
    from authz.policy.policy_set import PolicySet

#: What takes longer is told of while it goes on.
PATIENCE_S: Final = 1.0
PATIENCE_GROWS: Final = 1.25
#: Of lines that are no calls, so many are named.
MAX_BAD_LINES: Final = 20
_DEFAULT_FOLDER: Final = "policies"
_LINES_BETWEEN: Final = 1_000


def add_commands(commands: Subcommands) -> None:
    """Add `diff`."""
    parser = commands.add(
        "diff",
        _diff,
        summary="say what becomes allowed and what becomes denied; exit status 0 nothing, 1 something",
        example="authz diff main policies",
    )
    parser.add_argument(
        "old", metavar="OLD", help="a folder, or a git revision (`REV`, or `REV:FOLDER` from the repository's root)"
    )
    parser.add_argument("new", metavar="NEW", help="the same, for what is compared with it")
    parser.add_flag(
        "--policies",
        metavar="DIR",
        help="the folder within a bare revision; default: the other side's folder, else `policies`",
    )
    parser.add_flag(
        "--calls",
        metavar="FILE",
        help="put recorded calls to both instead: decision records or lines as for `check`, `-` for standard input",
    )
    add_output(parser, ("pretty", "json"))


class _Waiting:
    """Says on standard error what is going on: first after a second, and then ever less often."""

    def __init__(self) -> None:
        self._told_s = time.monotonic()
        self._patience_s = PATIENCE_S

    def begins(self, what: str) -> None:
        """Say what is done from now on, if something has taken long."""
        now_s = time.monotonic()
        if now_s - self._told_s >= self._patience_s:
            self._told_s = now_s
            self._patience_s *= PATIENCE_GROWS
            print(what, file=sys.stderr, flush=True)

    def compared(self, done: int, of: int) -> None:
        """Say how far the comparison is."""
        self.begins(f"compared {done} of {of} destinations that changed")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A state of the policies: what it was called, and what it says."""

    name: str
    policy_set: PolicySet


def _diff(given: argparse.Namespace) -> int:
    output = output_of(given)
    waiting = _Waiting()
    waiting.begins(f"reading {printable(given.old)}")
    old = _source(given.old, given.new, given.policies)
    waiting.begins(f"reading {printable(given.new)}")
    new = _source(given.new, given.old, given.policies)
    if given.calls is not None:
        return _replay(given, old, new, waiting, as_json=output == "json")
    waiting.begins("compiling both")
    # From midnight on: what is asked twice on a day is answered alike.
    now_ns = time.time_ns()
    comparison = compare(old.policy_set, new.policy_set, now_ns=now_ns - now_ns % NS_PER_DAY, progress=waiting.compared)
    if output == "json":
        differences = [difference_object(each) for each in comparison.differences]
        print(json.dumps({**_sides(old, new), "differences": differences, "notes": list(comparison.notes)}))
    else:
        print("\n".join((*_head(old, new), *differences_for_people(comparison))))
    return YES if comparison.same else NO


def _sides(old: _Source, new: _Source) -> dict[str, Any]:
    return {
        side: {"source": source.name, "revision": source.policy_set.revision}
        for side, source in (("old", old), ("new", new))
    }


def _head(old: _Source, new: _Source) -> Iterator[str]:
    yield printable(f"from {old.name}, revision {old.policy_set.revision[:12]}")
    yield printable(f"to   {new.name}, revision {new.policy_set.revision[:12]}")


# --- where the policies are ----------------------------------------------------------------------------------------


def _source(text: str, other: str, policies: str | None) -> _Source:
    """Read a folder or a git revision; what is both is the folder."""
    if not text:
        raise UsageError("an empty text is neither a folder nor a git revision")
    if Path(text).is_dir():
        return _Source(name=text, policy_set=load_policy_folder(text))
    if Path(text).exists():
        raise UsageError(f"{printable(text)}: is a file; give the folder of the policies, or a git revision")
    revision, colon, folder = text.partition(":")
    # Where the other side is a folder of a repository, a revision is one of that repository.
    beside = other if Path(other).is_dir() and is_in_repository(other) else None
    if not colon:
        folder = _folder(beside, policies)
    place = git_folder(beside or ".", revision, folder)
    return _Source(name=f"{text} ({place})", policy_set=load_git_folder(beside or ".", place))


def _folder(beside: str | None, policies: str | None) -> str:
    """Give the folder, from the repository's root, of a revision that was given without one."""
    if beside is not None and policies is None:
        return repository_path(beside)
    return "/".join(part for part in (repository_path(beside or "."), policies or _DEFAULT_FOLDER) if part)


# --- recorded calls ------------------------------------------------------------------------------------------------


def _replay(given: argparse.Namespace, old: _Source, new: _Source, waiting: _Waiting, *, as_json: bool) -> int:
    """Put each recorded call to both sets; lines that are none are named, and make the exit status 2."""
    replay = Replay(compile_index(old.policy_set), compile_index(new.policy_set))
    directories = (directory_of(old.policy_set), directory_of(new.policy_set))
    now_ns = time.time_ns()
    bad = 0
    waiting.begins("asking recorded calls")
    with collector_at_rest(), _opened(given.calls) as calls:
        for number, line in enumerate(lines_of(calls), 1):
            if number % _LINES_BETWEEN == 0:
                waiting.begins(f"asked {number} recorded calls")
            try:
                recorded = recorded_call_from_json(line, directories, now_ns)
                if recorded is not None:
                    replay.add(recorded)
            except AskedCallError as error:
                bad += 1
                if bad <= MAX_BAD_LINES:
                    print(printable(f"{given.calls}:{number}: {error}"), file=sys.stderr)
    if bad > MAX_BAD_LINES:
        print(f"and {bad - MAX_BAD_LINES} lines more that are no calls", file=sys.stderr)
    kinds = replay.kinds
    if as_json:
        counts = {"calls": replay.calls, "changed": replay.changed}
        print(json.dumps({**_sides(old, new), **counts, "differences": [kind_object(each) for each in kinds]}))
    else:
        left_out = [f"{bad} line{'' if bad == 1 else 's'} left out: no calls"] if bad else []
        print("\n".join((*_head(old, new), *replay_for_people(replay, kinds), *left_out)))
    if bad:
        return USAGE
    return NO if replay.changed else YES


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        calls = open(name, "rb")  # noqa: PTH123, SIM115 the path may be a pipe of the shell's, /dev/fd/63
    except OSError as error:
        raise UsageError(f"--calls: {printable(name)}: {(error.strerror or 'it cannot be read').lower()}") from error
    with calls:
        yield calls
