"""The first attempts after closes as a hub knows them: of a whole mesh, whose decision logs lie on many machines.

A hub adds attempts up by window. For each end that somebody has tried it is asked once more, for the record of the
first attempt: who that was, and when.

# INVARIANT (total): any bytes of a hub give attempts or an AuthzError; nothing else is raised.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final, Protocol

from authz.errors import AuthzError
from authz.insight.attempt import Attempt, WindowKind, attempt_of_line
from authz.insight.hub_windows import hub_windows
from authz.instant import NS_PER_MS, rfc3339_from_ns
from authz.window_watch.errors import WindowWatchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.insight.attempt_tally import Attempts

#: what the record of a call after the end of such a window says
_REASONS: Final = {WindowKind.THIRD_PARTY: "decommissioned", WindowKind.MICRO_POLICY: "closed"}

#: a window by its kind and name, and one end of it
_End = tuple[WindowKind, str, int]


class AskedHub(Protocol):
    """A hub that can be asked; raises AuthzError where it cannot."""

    @property
    def url(self) -> str:
        """Where it is, to be shown."""

    def content(self, path: str, query: Mapping[str, str | None] | None = None) -> bytes:
        """Give the bytes of an answer."""


class HubAttempts:
    """Gives the first attempt after each end, once; whoever asks waits for the hub."""

    def __init__(self, hub: AskedHub) -> None:
        self._hub = hub
        self._given: frozenset[_End] = frozenset()

    def new_attempts(self) -> tuple[Attempt, ...]:
        """Give the first attempts on ends of which none was given before; raises AuthzError, and gives them later."""
        given: set[_End] = set()
        found: list[Attempt] = []
        for (kind, name), window in hub_windows(self._hub.content("/windows")).items():
            if window.closes_ns is None or window.after.first_ns is None:
                continue
            end = (kind, name, window.closes_ns)
            given.add(end)
            if end not in self._given:
                found.append(self._first(kind, name, window.after, window.after.first_ns))
        # Ends that the hub no longer has are forgotten: they may come back, and are judged by the policies then.
        self._given = frozenset(given)
        return tuple(found)

    def _first(self, kind: WindowKind, name: str, after: Attempts, first_ns: int) -> Attempt:
        until = rfc3339_from_ns(first_ns + NS_PER_MS)
        query = {"policy": name, "reason": _REASONS[kind], "decision": "deny", "limit": "100"}
        answer = self._hub.content("/calls", {**query, "since": rfc3339_from_ns(first_ns), "until": until})
        try:
            # Newest first; the end of a call that was cut is no attempt.
            attempts = [attempt_of_line(json.dumps(each).encode()) for each in json.loads(answer)["calls"]]
        except (ValueError, TypeError, KeyError, RecursionError, AuthzError) as error:
            raise WindowWatchError("it is no answer of a hub's `GET /api/v1/calls`") from error
        for attempt in reversed(attempts):
            if attempt is not None and attempt.after and (attempt.kind, attempt.name) == (kind, name):
                return attempt
        if not after.sources:
            raise WindowWatchError(f"the hub does not say who tried `{name}`")
        # The record is not kept any more: who tried most often stands for it.
        return Attempt(
            kind=kind,
            name=name,
            after=True,
            time_ns=first_ns,
            request_id=None,
            decision_id=None,
            source=after.sources[0].source,
        )
