from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from authz.policy.errors import PolicySetFaults
from authz.policy_folder import QUIET_NS, ReadFiles, _read, load_policy_folder, read_policy_folder
from authz.policy_listing import FolderEntry, PolicyFolderError, folder_listing, policy_files
from tests.support.policy_texts import MESH, service

if TYPE_CHECKING:
    from pathlib import Path


def paths(directory: Path) -> list[str]:
    return [file.path.removeprefix(f"{directory}/") for file in read_policy_folder(str(directory))]


def test_every_policy_file_below_the_folder_is_read(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "deep/er/c.yaml", "notes.txt", "x.yaml.bak", ".hidden.yaml", ".git/d.yaml", "YAML"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a: b")
    assert paths(tmp_path) == ["a.yml", "b.yaml", "deep/er/c.yaml"]


def test_links_to_files_are_followed_as_kubernetes_makes_them(tmp_path: Path) -> None:
    data = tmp_path / "..2026_01"
    data.mkdir()
    (data / "a.yaml").write_text(MESH)
    (tmp_path / "..data").symlink_to("..2026_01")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    assert paths(tmp_path) == ["a.yaml"]
    assert load_policy_folder(str(tmp_path)).mesh.name == "m"


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "loop.yaml").symlink_to(".")
    (tmp_path / "a.yaml").write_text("a: b")
    assert paths(tmp_path) == ["a.yaml"]


def test_faults_name_files_as_they_were_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "a.yaml").write_text("kind: x\n")
    monkeypatch.chdir(tmp_path)
    for given, shown in (
        ("policies", "policies/a.yaml"),
        ("policies/", "policies/a.yaml"),
        ("./policies", "./policies/a.yaml"),
    ):
        with pytest.raises(PolicySetFaults) as raised:
            load_policy_folder(given)
        assert raised.value.faults[0].path == shown
    monkeypatch.chdir(tmp_path / "policies")
    assert [file.path for file in read_policy_folder(".")] == ["a.yaml"]


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PolicyFolderError, match="nowhere: there is no such folder"):
        load_policy_folder(str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(PolicyFolderError, match="file: a file; give the folder"):
        load_policy_folder(str(tmp_path / "file"))


def test_what_is_no_file_is_refused_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(PolicyFolderError, match="is no regular file"):
        read_policy_folder(str(tmp_path))


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("gone.yaml")
    with pytest.raises(PolicyFolderError, match="a link to a file that is not there"):
        read_policy_folder(str(tmp_path))


def test_an_empty_folder_has_no_mesh(tmp_path: Path) -> None:
    with pytest.raises(PolicySetFaults, match="the set has no Mesh"):
        load_policy_folder(str(tmp_path))


def test_a_folder_that_is_being_written_is_not_a_set_yet(tmp_path: Path) -> None:
    """A writer adds file after file, each well within the time of rest: only the last state is ever given."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    begun = threading.Event()

    def write() -> None:
        for number in range(8):
            (tmp_path / f"{number}.yaml").write_text(service(f"s{number}"))
            begun.set()
            time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    begun.wait()
    read = load_policy_folder(str(tmp_path))
    writer.join()
    assert len(read.services) == 8


def test_a_folder_whose_files_have_rested_is_read_at_once(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(MESH)
    hour_ago = time.time() - 3600
    for path in (tmp_path / "mesh.yaml", tmp_path):
        os.utime(path, (hour_ago, hour_ago))
    assert paths(tmp_path) == ["mesh.yaml"]


def test_a_time_in_the_future_keeps_nobody_waiting(tmp_path: Path) -> None:
    (tmp_path / "mesh.yaml").write_text(MESH)
    in_an_hour = time.time() + 3600
    for path in (tmp_path / "mesh.yaml", tmp_path):
        os.utime(path, (in_an_hour, in_an_hour))
    assert paths(tmp_path) == ["mesh.yaml"]


def test_a_file_that_turns_into_a_pipe_while_it_is_read_is_never_waited_for(tmp_path: Path) -> None:
    path, pipe, draft = tmp_path / "x.yaml", tmp_path / "pipe", tmp_path / "draft"
    os.mkfifo(pipe)
    ended = threading.Event()

    def flip() -> None:
        while not ended.is_set():
            draft.write_text("a: b")
            draft.replace(path)
            os.link(pipe, draft)
            draft.replace(path)

    flipping = threading.Thread(target=flip)
    flipping.start()
    try:
        for _ in range(300):  # a reader that waited for the pipe would hang here
            with contextlib.suppress(PolicyFolderError, FileNotFoundError):
                read_once(str(path))
    finally:
        ended.set()
        flipping.join()


def read_once(path: str) -> None:
    entry = FolderEntry(path=path, is_file=True, size_bytes=0, mtime_ns=0, ctime_ns=0, inode=0)
    _read((entry,))


def test_other_files_may_come_and_go_all_the_time(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: b")
    ended = threading.Event()

    def churn() -> None:
        while not ended.is_set():
            (tmp_path / "notes.txt").write_text("x")
            (tmp_path / "notes.txt").unlink()

    churning = threading.Thread(target=churn)
    churning.start()
    try:
        assert paths(tmp_path) == ["a.yaml"]
    finally:
        ended.set()
        churning.join()


def test_a_listing_tells_every_change_of_a_policy_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    target, other = tmp_path / "below" / "set.yaml", tmp_path / "other.yml"
    target.write_text("one")
    other.symlink_to("below/set.yaml")
    before = policy_files(str(tmp_path))
    assert [entry.path for entry in before] == [str(target), str(other)]
    (tmp_path / "notes.txt").write_text("no policy")
    (tmp_path / ".draft.yaml").write_text("no policy yet")
    (tmp_path / "below" / "empty").mkdir()
    assert policy_files(str(tmp_path)) == before
    # The same name, size and time: what a tool leaves that keeps times, such as rsync or git with a restored mtime.
    draft = tmp_path / ".draft"
    draft.write_text("two")
    os.utime(draft, ns=(0, target.stat().st_mtime_ns))
    draft.replace(target)
    after = policy_files(str(tmp_path))
    assert after != before
    assert [entry.inode for entry in after] == [target.stat().st_ino] * 2, "a link stands for what it leads to"
    other.unlink()
    assert len(policy_files(str(tmp_path))) == 1


def rested(directory: Path) -> None:
    """Wait until nothing below a folder has changed for as long as it takes to be trusted."""
    while time.time_ns() - max(entry.ctime_ns for entry in folder_listing(str(directory))) <= QUIET_NS:
        time.sleep(QUIET_NS / 10**9)


def test_files_that_are_as_they_were_are_not_read_again(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(MESH)
    rested(tmp_path)
    known = ReadFiles()
    first = read_policy_folder(str(tmp_path), known)
    (tmp_path / "b.yaml").write_text(service("s"))
    second = read_policy_folder(str(tmp_path), known)
    assert second[0] is first[0]
    assert second[1].content == service("s").encode()
    (tmp_path / "a.yaml").unlink()
    assert read_policy_folder(str(tmp_path), known) == second[1:]


@pytest.mark.parametrize("replaces", [True, False])
def test_a_change_that_hides_its_time_and_size_is_read(tmp_path: Path, *, replaces: bool) -> None:
    file, draft = tmp_path / "a.yaml", tmp_path / ".draft"
    file.write_text("one: 1")
    rested(tmp_path)
    known, before = ReadFiles(), file.stat()
    read_policy_folder(str(tmp_path), known)
    changed = draft if replaces else file
    changed.write_text("two: 2")
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    changed.replace(file)
    (found,) = read_policy_folder(str(tmp_path), known)
    assert found.content == b"two: 2"


def test_a_file_that_has_only_just_changed_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: b")
    (entry,) = policy_files(str(tmp_path))
    (file,) = read_policy_folder(str(tmp_path))
    known = ReadFiles()
    known.keep((entry,), (file,), entry.ctime_ns + QUIET_NS - 1)
    assert known.get(entry) is None
    known.keep((entry,), (file,), entry.ctime_ns + QUIET_NS)
    assert known.get(entry) is file
