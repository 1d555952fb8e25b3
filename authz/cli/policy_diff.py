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
from authz.decision import Verdict
from authz.errors import UsageError
from authz.instant import rfc3339_from_ns
from authz.policy.asked_call import AskedCallError
from authz.policy.difference import compare
from authz.policy.errors import printable, quoted
from authz.policy.index import compile_index
from authz.policy.policy_test import directory_of
from authz.policy.recorded_call import recorded_call_from_json
from authz.policy.replay import Replay
from authz.policy.window_words import instant
from authz.policy_folder import load_policy_folder
from authz.policy_in_git import git_folder, is_in_repository, load_git_folder, repository_path

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from authz.cli.arguments import Subcommands
    from authz.policy.changed_call import Change, Span
    from authz.policy.difference import Comparison
    from authz.policy.difference_groups import Difference
    from authz.policy.policy_set import PolicySet
    from authz.policy.replay import ChangedKind
    from authz.request import Call

#: Of the spans of one change, so many are shown to a person.
MAX_SPANS: Final = 3
#: Of lines that are no calls, so many are named.
MAX_BAD_LINES: Final = 20
_DEFAULT_FOLDER: Final = "policies"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A state of the policies: what it was called, and what it says."""

    name: str
    policy_set: PolicySet


def _diff(given: argparse.Namespace) -> int:
    output = output_of(given)
    old, new = _source(given.old, given.new, given.policies), _source(given.new, given.old, given.policies)
    if given.calls is not None:
        return _replay(given, old, new, as_json=output == "json")
    comparison = compare(old.policy_set, new.policy_set, now_ns=time.time_ns())
    if output == "json":
        print(json.dumps(_object(old, new, comparison)))
    else:
        print("\n".join(_pretty(old, new, comparison)))
    return YES if comparison.same else NO


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


# --- what differs --------------------------------------------------------------------------------------------------


def _pretty(old: _Source, new: _Source, comparison: Comparison) -> Iterator[str]:
    yield printable(f"from {old.name}, revision {old.policy_set.revision[:12]}")
    yield printable(f"to   {new.name}, revision {new.policy_set.revision[:12]}")
    if comparison.same:
        yield "no difference: every call gets the same verdict at every time"
        return
    for difference in comparison.differences:
        yield from _pretty_difference(difference)
    yield from (f"! {note}" for note in comparison.notes)
    counts = [
        f"{number} become{'s' if number == 1 else ''} {word}"
        for becomes, word in ((Verdict.ALLOW, "allowed"), (Verdict.DENY, "denied"))
        if (number := sum(each.change.becomes is becomes for each in comparison.differences))
    ]
    yield ", ".join(counts + ([f"{len(comparison.notes)} more to know"] if comparison.notes else []))


def _pretty_difference(difference: Difference) -> Iterator[str]:
    change = difference.change
    if change.becomes is Verdict.ALLOW:
        yield printable(f"+ {difference} becomes allowed{_by(change)} (was {change.reason})")
    else:
        yield printable(f"- {difference} becomes denied: {change.reason} (was allowed{_by(change)})")
    for span in change.spans[:MAX_SPANS]:
        if words := _span(span):
            yield f"    {words}"
    more = len(change.spans) - MAX_SPANS
    if more > 0:
        last = change.spans[-1].until_ns
        until = "" if last is None else f", the last until {instant(last)}"
        yield f"    and {more} times more{until}{', and so on' if change.recurring else ''}"


def _by(change: Change) -> str:
    return " in observe mode" if change.policy is None else f" by {quoted(change.policy)}"


def _span(span: Span) -> str:
    words = []
    if span.from_ns is not None:
        words.append(f"from {instant(span.from_ns)}")
    if span.until_ns is not None:
        words.append(f"until {instant(span.until_ns)}")
    elif words:
        words.append("on")
    return " ".join(words)


def _object(old: _Source, new: _Source, comparison: Comparison) -> dict[str, Any]:
    return {
        "old": {"source": old.name, "revision": old.policy_set.revision},
        "new": {"source": new.name, "revision": new.policy_set.revision},
        "differences": [_difference(each) for each in comparison.differences],
        "notes": list(comparison.notes),
    }


def _difference(difference: Difference) -> dict[str, Any]:
    change = difference.change
    return {
        "callers": list(difference.callers),
        "destination": difference.destination,
        "operation": difference.operation,
        "becomes": change.becomes.value,
        "spans": [{"from": _instant(span.from_ns), "until": _instant(span.until_ns)} for span in change.spans],
        "recurring": change.recurring,
        "policy": change.policy,
        "reason": change.reason.value,
        "example": _call(difference.example, change.example_at_ns),
    }


def _instant(at_ns: int | None) -> str | None:
    return None if at_ns is None else rfc3339_from_ns(at_ns)


def _call(call: Call, at_ns: int) -> dict[str, Any]:
    """Give a call as a line for `authz check --calls`."""
    headers = {name: value.decode("utf-8", "replace") for name, value in call.headers}
    return {
        "from": None if call.caller is None else str(call.caller),
        "to": call.service if call.direction == "inbound" else call.host,
        "method": call.method,
        "path": call.path,
        **({"headers": headers} if headers else {}),
        "direction": call.direction.value,
        "at": rfc3339_from_ns(at_ns),
    }


# --- recorded calls ------------------------------------------------------------------------------------------------


def _replay(given: argparse.Namespace, old: _Source, new: _Source, *, as_json: bool) -> int:
    """Put each recorded call to both sets; lines that are none are named, and make the exit status 2."""
    replay = Replay(compile_index(old.policy_set), compile_index(new.policy_set))
    directories = (directory_of(old.policy_set), directory_of(new.policy_set))
    now_ns = time.time_ns()
    bad = 0
    with _opened(given.calls) as calls:
        for number, line in enumerate(lines_of(calls), 1):
            try:
                replay.add(recorded_call_from_json(line, directories, now_ns))
            except AskedCallError as error:
                bad += 1
                if bad <= MAX_BAD_LINES:
                    print(printable(f"{given.calls}:{number}: {error}"), file=sys.stderr)
    if bad > MAX_BAD_LINES:
        print(f"and {bad - MAX_BAD_LINES} lines more that are no calls", file=sys.stderr)
    kinds = replay.kinds
    if as_json:
        print(json.dumps(_replay_object(old, new, replay, kinds)))
    else:
        print("\n".join(_pretty_replay(old, new, replay, kinds)))
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


def _pretty_replay(old: _Source, new: _Source, replay: Replay, kinds: Sequence[ChangedKind]) -> Iterator[str]:
    yield printable(f"from {old.name}, revision {old.policy_set.revision[:12]}")
    yield printable(f"to   {new.name}, revision {new.policy_set.revision[:12]}")
    for kind in kinds:
        allowed = kind.after.verdict is Verdict.ALLOW
        what = f"{kind.first.caller} -> {kind.first.destination}: {kind.first.operation}"
        times = f"{kind.count} call{'' if kind.count == 1 else 's'}"
        decision, word = (kind.after, "allowed") if allowed else (kind.before, "denied")
        by = " in observe mode" if decision.policy is None else f" by {quoted(decision.policy)}"
        why = f"{by} (was {kind.before.reason})" if allowed else f": {kind.after.reason} (was allowed{by})"
        yield printable(f"{'+' if allowed else '-'} {times} {what} would be {word}{why}")
        yield f"    first {instant(kind.first_ns)}, last {instant(kind.last_ns)}"
    calls = f"{replay.calls} call{'' if replay.calls == 1 else 's'}"
    yield f"{replay.changed} of {calls} would get another verdict" if replay.changed else f"{calls}, no difference"


def _replay_object(old: _Source, new: _Source, replay: Replay, kinds: Sequence[ChangedKind]) -> dict[str, Any]:
    return {
        "old": {"source": old.name, "revision": old.policy_set.revision},
        "new": {"source": new.name, "revision": new.policy_set.revision},
        "calls": replay.calls,
        "changed": replay.changed,
        "differences": [
            {
                "from": kind.first.caller,
                "to": kind.first.destination,
                "operation": kind.first.operation,
                "becomes": kind.after.verdict.value,
                "before": {"reason": kind.before.reason.value, "policy": kind.before.policy},
                "after": {"reason": kind.after.reason.value, "policy": kind.after.policy},
                "count": kind.count,
                "first": rfc3339_from_ns(kind.first_ns),
                "last": rfc3339_from_ns(kind.last_ns),
                "example": _call(kind.first.call, kind.first.at_ns),
            }
            for kind in kinds
        ],
    }
