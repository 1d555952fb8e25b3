"""`authz windows close`: the date of one window is moved in its file; comments, quotes and everything else stay.

# INVARIANT (never worse): what is written is a set that loads, and with that date only; otherwise nothing is written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from authz.cli.arguments import NO, YES
from authz.errors import UsageError
from authz.insight.attempt import WindowKind
from authz.insight.rules_of_third_party import rules_of_third_party
from authz.insight.window_dates import KIND_OF_DOCUMENT, WindowDates, WindowStage, windows_of
from authz.instant import NS_PER_MS, rfc3339_from_ns
from authz.mesh.in_force import InForce, follows, wait_until_in_force
from authz.policy.errors import nearest, printable, quoted
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.policy.window import InstantError, parse_instant_ns
from authz.policy.window_edit import WindowEdit, closed_at, written_instant
from authz.policy.window_words import duration, instant
from authz.policy_file import replace_policy_file
from authz.policy_folder import load_policy_folder, read_policy_folder

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from authz.mesh.state import MeshState
    from authz.policy.document import SourceFile

_KINDS = {WindowKind.THIRD_PARTY: "ThirdParty", WindowKind.MICRO_POLICY: "MicroPolicy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """The new end of a window: the instant, and how it is to be written."""

    instant_ns: int
    text: str
    is_now: bool


def close(given: argparse.Namespace, policies: str, *, mesh: MeshState | None, as_json: bool, now_ns: int) -> int:
    """Run `authz windows close`; raises UsageError, or what is wrong with the set, before anything is written.

    Where a mesh follows these policies it is waited for: the exit status is 1 where not all of its sidecars decide by
    the edit. It is written in any case.
    """
    end = _asked_end(given, now_ns)
    files = read_policy_folder(policies)
    policy_set = parse_policy_set(files) if files else load_policy_folder(policies)
    window = _asked_window(windows_of(policy_set), given)
    if window.closes_ns == end.instant_ns or (end.is_now and window.stage(now_ns) is WindowStage.ENDED):
        _say_that_nothing_changed(window, now_ns, as_json=as_json)
        return YES
    _require_an_end(window, end, now_ns, extend=given.extend)
    (file,) = (each for each in files if each.path == window.path)
    edit = closed_at(file, KIND_OF_DOCUMENT[window.kind], window.name, end.text)
    revision = _require_that_set(files, edit, window, end)
    replace_policy_file(file, edit.file.content)
    effects = _effects(policy_set, window, end, now_ns)
    if not as_json:
        print(printable(f"{window.path}:{edit.line}:{edit.column}: closes: {edit.old or 'without end'} -> {edit.new}"))
        print("\n".join(effects), flush=True)
    in_force = None if mesh is None or not follows(mesh, policies) else wait_until_in_force(mesh, revision)
    if as_json:
        print(json.dumps({**_object(window, end, edit, policy_set), "in_force": _in_force_object(in_force, revision)}))
    elif in_force is not None:
        print("\n".join(_in_force_lines(in_force)))
    return YES if in_force is None or not in_force.missing else NO


def _asked_end(given: argparse.Namespace, now_ns: int) -> _End:
    if given.now and given.at is not None:
        raise UsageError("--now and --at: give one of them")
    if given.at is None:
        # A policy's dates have milliseconds: cut, so that it has closed when this returns.
        now_ns -= now_ns % NS_PER_MS
        return _End(instant_ns=now_ns, text=written_instant(now_ns), is_now=True)
    try:
        return _End(instant_ns=parse_instant_ns(given.at), text=given.at, is_now=False)
    except InstantError as error:
        raise UsageError(f"--at: {error}") from error


def _asked_window(windows: Sequence[WindowDates], given: argparse.Namespace) -> WindowDates:
    kinds = [each.value for each in WindowKind]
    if given.kind is not None and given.kind not in kinds:
        raise UsageError(f"--kind: {quoted(given.kind)} is neither `third_party` nor `micro_policy`")
    found = [each for each in windows if each.name == given.name and given.kind in {None, each.kind.value}]
    if len(found) > 1:
        raise UsageError(
            f"{quoted(given.name)} is a ThirdParty and a MicroPolicy; say --kind third_party or --kind micro_policy"
        )
    if not found:
        what = "ThirdParty, and no MicroPolicy with a window," if given.kind is None else f"{given.kind} with a window"
        hint = nearest(given.name, [each.name for each in windows])
        raise UsageError(f"there is no {what} {quoted(given.name)}{hint}")
    return found[0]


def _require_an_end(window: WindowDates, end: _End, now_ns: int, *, extend: bool) -> None:
    where = printable(f"{window.path}:{window.line}")
    if window.opens_ns is not None and end.instant_ns <= window.opens_ns:
        if now_ns < window.opens_ns:
            raise UsageError(
                f"{where}: {quoted(window.name)} has not opened: it opens at {instant(window.opens_ns)}, and cannot "
                f"close before; to keep it from opening remove the {_KINDS[window.kind]}, or move its `opens`"
            )
        raise UsageError(
            f"--at: {where}: {quoted(window.name)} opened at {instant(window.opens_ns)}; it closes after that, or --now"
        )
    if window.closes_ns is not None and end.instant_ns > window.closes_ns and not extend:
        ended = "ended" if window.closes_ns <= now_ns else "ends"
        raise UsageError(
            f"--at: {where}: {quoted(window.name)} {ended} at {instant(window.closes_ns)}; a later end lets calls "
            f"through that are refused today: say --extend if that is meant"
        )


def _require_that_set(files: Sequence[SourceFile], edit: WindowEdit, window: WindowDates, end: _End) -> str:
    """Read the whole set as it would be, and give its revision; raises PolicySetFaults for a fault, the edit's too."""
    # INVARIANT (never worse)
    changed = parse_policy_set([edit.file if each.path == edit.file.path else each for each in files])
    dates = {(each.kind, each.name): each.closes_ns for each in windows_of(changed)}
    if dates.get((window.kind, window.name)) != end.instant_ns:
        raise UsageError(f"{printable(window.path)}: the date could not be moved; nothing was changed")
    return changed.revision


def _in_force_lines(in_force: InForce) -> list[str]:
    by, missing = len(in_force.by), in_force.missing
    if not missing:
        sidecars = "the one sidecar" if by == 1 else f"all {by} sidecars"
        return [f"in force on {sidecars} of the mesh, {in_force.after_s:.1f} s after the edit"]
    lines = [
        f"not in force everywhere {in_force.after_s:.0f} s after the edit: on {by} of {by + len(missing)} sidecars"
    ]
    return lines + [printable(f"  {name}: {why}") for name, why in missing]


def _in_force_object(in_force: InForce | None, revision: str) -> dict[str, Any] | None:
    if in_force is None:
        return None
    return {
        "revision": revision,
        "services": list(in_force.by),
        "missing": [{"service": name, "why": why} for name, why in in_force.missing],
        "after_s": round(in_force.after_s, 3),
    }


def _effects(policy_set: PolicySet, window: WindowDates, end: _End, now_ns: int) -> list[str]:
    when = (
        "now" if end.instant_ns <= now_ns else f"in {duration(end.instant_ns - now_ns)}, at {instant(end.instant_ns)}"
    )
    if window.kind is WindowKind.MICRO_POLICY:
        return [
            f"the MicroPolicy {quoted(window.name)} ends {when}; what only it allows is refused from then on: `closed`"
        ]
    rules = _rules(policy_set, window.name)
    whole = f"the ThirdParty {quoted(window.name)} is decommissioned {when}, in both directions"
    lines = [f"{whole}: no rule allows it anything from then on"]
    if rules["ends"]:
        lines.append(f"with it end: {', '.join(map(quoted, rules['ends']))}")
    if rules["narrows"]:
        lines.append(f"these go on for others: {', '.join(map(quoted, rules['narrows']))}")
    return lines


def _rules(policy_set: PolicySet, name: str) -> dict[str, list[str]]:
    (third_party,) = (each for each in policy_set.third_parties if each.name == name)
    rules = rules_of_third_party(policy_set, third_party)
    return {"ends": list(rules.only), "narrows": list(rules.too)}


def _object(window: WindowDates, end: _End, edit: WindowEdit, policy_set: PolicySet) -> dict[str, Any]:
    rules = (
        _rules(policy_set, window.name)
        if window.kind is WindowKind.THIRD_PARTY
        else {"ends": [window.name], "narrows": []}
    )
    return {
        "name": window.name,
        "kind": window.kind.value,
        "changed": True,
        "path": window.path,
        "line": edit.line,
        "column": edit.column,
        "old": edit.old,
        "new": edit.new,
        "closes": rfc3339_from_ns(end.instant_ns),
        **rules,
    }


def _say_that_nothing_changed(window: WindowDates, now_ns: int, *, as_json: bool) -> None:
    closes_ns = now_ns if window.closes_ns is None else window.closes_ns
    if as_json:
        closes = rfc3339_from_ns(closes_ns)
        print(json.dumps({"name": window.name, "kind": window.kind.value, "changed": False, "closes": closes}))
        return
    ends = f"ended {duration(now_ns - closes_ns)} ago" if closes_ns <= now_ns else "ends then already"
    print(f"{quoted(window.name)} {ends}, at {instant(closes_ns)}; nothing was changed")
