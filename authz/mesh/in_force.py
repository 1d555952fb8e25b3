"""Whether every sidecar of a running mesh decides by one revision: when an edit has come into force everywhere."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from authz.mesh.state import Role
from authz.sidecar.reported_status import reported_status

if TYPE_CHECKING:
    from authz.mesh.state import MeshState, RunningService

#: a set of 10,000 rules is compiled in seconds, on a loaded machine in tens of them
PATIENCE_S: Final = 30.0
#: how often status files are looked at: nobody tells of them
_LOOK_S: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """How an edit fared: `by` are the Services whose sidecars decide by it, `missing` the others with what is known."""

    by: tuple[str, ...]
    missing: tuple[tuple[str, str], ...]
    after_s: float


def follows(state: MeshState, policies: str) -> bool:
    """Whether it is this folder that the sidecars of a mesh follow."""
    return os.path.realpath(state.policies) == os.path.realpath(policies)


def wait_until_in_force(state: MeshState, revision: str, *, patience_s: float = PATIENCE_S) -> InForce:
    """Wait until every sidecar says that it decides by a revision, or until that takes too long."""
    began_s = time.monotonic()
    while True:
        missing = {one.name: why for one in state.services if (why := _why_not(one, state, revision)) is not None}
        after_s = time.monotonic() - began_s
        if not missing or after_s >= patience_s:
            return InForce(
                by=tuple(one.name for one in state.services if one.name not in missing),
                missing=tuple(sorted(missing.items())),
                after_s=after_s,
            )
        time.sleep(_LOOK_S)


def _why_not(service: RunningService, state: MeshState, revision: str) -> str | None:
    said = reported_status(service.sidecar_state)
    process = next((each for each in state.processes if each.of == service.name and each.role is Role.SIDECAR), None)
    if process is None or process.mark is None or not process.mark.lives():
        return "its sidecar does not run, so its Envoy refuses every call"
    if said is None or said.pid != process.mark.pid:
        return "its sidecar has said nothing yet"
    if said.revision == revision:
        return None
    return said.faults[0] if said.faults else "its sidecar decides by another set"
