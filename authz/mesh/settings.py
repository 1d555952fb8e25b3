"""What a mesh is asked to be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSettings:
    """What to bring up: a policy folder, where the state goes, and which names of the set (none: all of them).

    `unsafe_clock_file` says what the sidecars take for the time. `accept_clock`: what they have seen of it before is
    forgotten. With `hub`, a hub beside them takes what all sidecars record.
    """

    policies: str
    state: str | None = None
    only: tuple[str, ...] = ()
    unsafe_clock_file: str | None = None
    accept_clock: bool = False
    hub: bool = True
