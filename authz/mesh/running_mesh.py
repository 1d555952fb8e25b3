"""A mesh as a program uses it: start it or find it, look at it, call through it, stop it.

with Mesh.start("policies") as mesh:
    answer = mesh.call(MeshCall(caller="gateway", destination="orders", method=b"GET", path=b"/orders/7"))
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, Self

from authz.mesh.background import start_in_background
from authz.mesh.calls.call import CallAnswer, MeshCall, make_call
from authz.mesh.errors import MeshError
from authz.mesh.process_mark import end_process
from authz.mesh.settings import MeshSettings
from authz.mesh.state_directory import StateDirectory
from authz.mesh.status import MeshStatus, mesh_status, read_mesh

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from authz.mesh.state import MeshState

#: Every process of a mesh is killed after a grace of its own; this is for the supervisor that hangs.
STOP_GRACE_S: Final = 30.0


class Mesh:
    """A mesh by its state directory; whether it still runs is seen at each use."""

    def __init__(self, state: str | None = None) -> None:
        """Name the mesh of a state directory, None for the default one below the current folder."""
        self._directory = StateDirectory(state)
        self._leash: socket.socket | None = None

    @classmethod
    def start(
        cls,
        policies: str,
        *,
        state: str | None = None,
        only: Sequence[str] = (),
        hub: bool = False,
        for_life: bool = True,
        report: Callable[[str], None] = lambda _: None,
    ) -> Self:
        """Start a mesh and wait until it is ready; raises MeshStartError that says why it is not.

        With `for_life` it stops when this process ends, however that happens; else it goes on until it is stopped.
        """
        mesh = cls(state)
        settings = MeshSettings(policies=policies, state=state, only=tuple(only), hub=hub)
        mesh._leash = start_in_background(settings, for_life=for_life, report=report)
        return mesh

    def record(self) -> MeshState:
        """Give the addresses, paths and processes of the mesh; raises NoMeshError if it does not run."""
        return read_mesh(self._directory)

    def status(self) -> MeshStatus:
        """Look at every part of the mesh; raises NoMeshError if it does not run."""
        return mesh_status(self.record())

    def call(self, call: MeshCall) -> CallAnswer:
        """Make a call through the mesh; raises CallUsageError, NoAnswerError, or NoMeshError if it does not run."""
        return make_call(self.record(), call)

    def stop(self) -> bool:
        """Stop the mesh and clean up after one that was killed; give whether there was anything to do."""
        supervisor = self._directory.supervisor()
        stopped = supervisor is not None and end_process(supervisor, grace_s=STOP_GRACE_S)
        if self._leash is not None:
            self._leash.close()
            self._leash = None
        return self._cleaned() or stopped

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _cleaned(self) -> bool:
        """Take away what a killed supervisor has left, unless another mesh is there already."""
        if not self._directory.left_behind():
            return False
        with contextlib.suppress(MeshError), self._directory.locked():
            self._directory.clean()
            return True
        return False
