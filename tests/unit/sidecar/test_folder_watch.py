"""What makes a folder look like another one than before."""

from __future__ import annotations

import queue
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from authz.sidecar.control.folder_watch import FolderWatch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def edit(folder: Path) -> None:
    (folder / "a.yaml").write_text("b: 2")


def add_below(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "b.yaml").write_text("")


def remove(folder: Path) -> None:
    (folder / "a.yaml").unlink()


def replace(folder: Path) -> None:
    (folder / ".draft").write_text("a: 1")
    (folder / ".draft").replace(folder / "a.yaml")


def edit_behind_a_link(folder: Path) -> None:
    (folder.parent / "behind.yaml").write_text("longer")


@pytest.mark.parametrize("change", [edit, add_below, remove, replace, edit_behind_a_link])
def test_each_change_is_told(tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "a.yaml").write_text("a: 1")
    (tmp_path / "behind.yaml").write_text("")
    (folder / "link.yaml").symlink_to(tmp_path / "behind.yaml")
    told: queue.SimpleQueue[None] = queue.SimpleQueue()
    watch = FolderWatch(str(folder), changed=lambda: told.put(None))
    change(folder)  # before it watches: no change falls between its construction and its start
    watch.start()
    told.get(timeout=30)


def test_a_folder_that_cannot_be_listed_is_told_of_until_it_can(tmp_path: Path) -> None:
    told: queue.SimpleQueue[None] = queue.SimpleQueue()
    FolderWatch(str(tmp_path / "nowhere"), changed=lambda: told.put(None)).start()
    told.get(timeout=30)
    told.get(timeout=30)


def test_control_does_not_load_what_reads_policies_or_certificates() -> None:
    code = (
        "import sys, authz.sidecar.control.control_process, authz.sidecar.supervisor\n"
        "print([name for name in ('pydantic', 'yaml', 'cel_expr_python', 'cryptography', 'grpc', 'google.protobuf')"
        " if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
