"""Who tried windows that were not open, as whoever may not read single calls sees it. Pure.

# INVARIANT (no addresses): nothing of an address is left, not even how many there were.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from authz.hub import answers


def without_addresses(windows: answers.Windows) -> answers.Windows:
    """Give windows with sources that differ in more than their address; attempts of the others are added up."""
    return {"windows": [_window(each) for each in windows["windows"]]}


def _window(window: answers.NamedWindow) -> answers.NamedWindow:
    before, after = window["attempts_before"], window["attempts_after"]
    return {
        **window,
        "attempts_before": {**before, "sources": _sources(before["sources"])},
        "attempts_after": {**after, "sources": _sources(after["sources"])},
    }


def _sources(sources: Iterable[answers.AttemptSource]) -> list[answers.AttemptSource]:
    found: dict[tuple[str | None, str | None, str, str], answers.AttemptSource] = {}
    for each in sources:
        key = each["identity"], each["service"], each["direction"], each["sidecar"]
        known = found.get(key)
        count = each["count"] + (0 if known is None else known["count"])
        found[key] = {**each, "address": None, "count": count}
    return sorted(found.values(), key=lambda each: -each["count"])
