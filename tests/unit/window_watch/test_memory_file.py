"""What a watch has told is on disk whole or not at all, and belongs to one watch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from authz.insight.announcement import Announcement, Memory
from authz.window_watch.errors import WindowWatchError
from authz.window_watch.memory_file import MemoryFile

if TYPE_CHECKING:
    from pathlib import Path

URL = "https://hooks.example/secret"
MEMORY = Memory(since_ns=10**18, told=frozenset({"a"}), waiting=(Announcement(id="b", body="{}"),))


def test_what_is_written_is_read_and_shown_to_nobody_else(tmp_path: Path) -> None:
    memory = MemoryFile(tmp_path, URL)
    with memory.locked():
        assert memory.read(7) == Memory(since_ns=7)
        memory.write(MEMORY)
        assert memory.read(7) == MEMORY
    (folder,) = (tmp_path / "windows").iterdir()
    assert "secret" not in folder.name
    assert [each.stat().st_mode & 0o777 for each in (folder, folder / "memory.json", folder / "lock")] == [
        0o700, 0o600, 0o600,
    ]  # fmt: skip


def test_each_url_has_a_memory_of_its_own_and_one_watch_at_a_time(tmp_path: Path) -> None:
    with MemoryFile(tmp_path, URL).locked():
        with MemoryFile(tmp_path, f"{URL}/2").locked():
            pass
        with pytest.raises(WindowWatchError, match="another `authz windows watch`"), MemoryFile(tmp_path, URL).locked():
            pass
    with MemoryFile(tmp_path, URL).locked():
        pass


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", MEMORY.to_json().encode()[:-1]])
def test_a_damaged_memory_is_refused_with_what_to_do(content: bytes, tmp_path: Path) -> None:
    memory = MemoryFile(tmp_path, URL)
    with memory.locked():
        memory.write(MEMORY)
        (file,) = (tmp_path / "windows").glob("*/memory.json")
        file.write_bytes(content)
        with pytest.raises(WindowWatchError, match=r"memory\.json: .*; remove it to begin anew"):
            memory.read(0)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "windows").write_text("")
    with pytest.raises(WindowWatchError, match=r"windows/.*: not a directory"), MemoryFile(tmp_path, URL).locked():
        pass
