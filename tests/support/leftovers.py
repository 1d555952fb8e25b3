"""What a mesh that has gone must not have left: processes, sockets, folders, keys."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from authz.mesh.process_mark import ProcessMark
    from authz.mesh.state import MeshState


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Where a mesh can be seen while it runs."""

    marks: tuple[ProcessMark, ...]
    runtime_directory: Path
    state: Path

    @classmethod
    def of(cls, record: MeshState, state: Path) -> Traces:
        processes = tuple(one.mark for one in record.processes if one.mark is not None)
        return cls(marks=(record.supervisor, *processes), runtime_directory=Path(record.runtime_directory), state=state)

    def living(self) -> list[int]:
        """Give the processes of the mesh that run, and any others that name its folders."""
        named = {str(self.state).encode(), str(self.runtime_directory).encode()}
        found = {mark.pid for mark in self.marks if mark.lives()}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            # The tests' own commands name the folder as a word of its own.
            if any(name + b"/" in words for name in named):
                found.add(int(process.name))
        return sorted(found)

    def left(self) -> list[str]:
        """Give everything that should have gone with the mesh."""
        paths = [
            self.runtime_directory,
            *(self.state / name for name in ("state.json", "svids", "authorities", "envoy")),
        ]
        # Folders that go meanwhile are passed over.
        files = (Path(folder, name) for folder, _, names in os.walk(self.state) for name in names)
        sockets = [path for path in files if path.is_socket()]
        return [str(pid) for pid in self.living()] + [str(path) for path in (*paths, *sockets) if path.exists()]
