from __future__ import annotations

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from authz.mesh.errors import MeshError
from authz.mesh.process_mark import ProcessMark, mark_of
from authz.mesh.state import MeshState, Role, RunningProcess
from authz.mesh.state_directory import StateDirectory, make_runtime_directory


def _state(*processes: RunningProcess, runtime_directory: str = "/nowhere") -> MeshState:
    own = mark_of(os.getpid())
    assert own is not None
    return MeshState(
        supervisor=own,
        policies="policies",
        runtime_directory=runtime_directory,
        laid_out=True,
        services=(),
        third_parties=(),
        processes=processes,
    )


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_state_directory_is_private_even_if_it_was_not(tmp_path: Path) -> None:
    new, open_one = StateDirectory(str(tmp_path / "a" / "mesh")), tmp_path / "open"
    open_one.mkdir(mode=0o755)
    for directory in (new, StateDirectory(str(open_one))):
        with directory.locked():
            directory.make_folders()
            directory.write(_state())
            assert _mode(directory.path) == 0o700
            assert {_mode(path) for path in directory.path.iterdir() if path.is_dir()} == {0o700}
            assert {_mode(path) for path in directory.path.iterdir() if path.is_file()} == {0o600}


def test_one_mesh_at_a_time_uses_a_state_directory(tmp_path: Path) -> None:
    directory = StateDirectory(str(tmp_path / "mesh"))
    with directory.locked():
        assert directory.supervisor() == mark_of(os.getpid())
        with pytest.raises(MeshError, match=rf"already uses .* \(process {os.getpid()}\)"), directory.locked():
            pass
    assert directory.supervisor() is None
    with directory.locked():
        pass


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    before = _mode(tmp_path)
    with pytest.raises(MeshError, match="holds other things"), StateDirectory(str(tmp_path)).locked():
        pass
    assert _mode(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mesh").touch()
    directory = StateDirectory(str(tmp_path / "mesh"))
    with pytest.raises(MeshError, match="cannot be used"), directory.locked():
        pass
    assert directory.read() is None
    assert directory.supervisor() is None


def test_what_is_not_there_is_no_mesh(tmp_path: Path) -> None:
    directory = StateDirectory(str(tmp_path / "mesh"))
    assert directory.read() is None
    assert directory.supervisor() is None
    assert not directory.left_behind()
    assert not directory.path.exists()


def test_a_lock_that_names_a_process_of_another_time_names_nobody(tmp_path: Path) -> None:
    directory = StateDirectory(str(tmp_path))
    for content in (b"", b"{", b"[]", b'{"pid": 1, "started": 0}', f'{{"pid": {os.getpid()}, "started": 1}}'.encode()):
        (tmp_path / "lock").write_bytes(content)
        assert directory.supervisor() is None


def test_a_damaged_record_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(MeshError, match=r"state\.json: it is no record of a mesh"):
        StateDirectory(str(tmp_path)).read()


def test_cleaning_ends_orphans_and_removes_sockets_keys_and_record(tmp_path: Path) -> None:
    directory = StateDirectory(str(tmp_path / "mesh"))
    runtime_directory = make_runtime_directory()
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as orphan:
        mark = mark_of(orphan.pid)
        assert mark is not None
        other = replace(mark, started=mark.started + 1)
        marks: list[ProcessMark | None] = [mark, other, None]
        processes = [RunningProcess(of="orders", role=Role.APP, mark=one, ready=True) for one in marks]
        with directory.locked():
            directory.make_folders()
            (directory.path / "svids" / "key.pem").touch()
            (directory.path / "decisions" / "orders.jsonl").touch()
            directory.write(_state(*processes, runtime_directory=runtime_directory))
            assert directory.clean() == 1
            assert directory.clean() == 0
        assert orphan.wait(0) != 0
    assert not Path(runtime_directory).exists()
    assert sorted(path.name for path in directory.path.iterdir()) == ["decisions", "lock", "logs", "sidecars"]
    assert (directory.path / "decisions" / "orders.jsonl").exists()


def test_a_directory_that_was_made_anew_belongs_to_its_new_mesh_alone(tmp_path: Path) -> None:
    before, after = StateDirectory(str(tmp_path / "state")), StateDirectory(str(tmp_path / "state"))
    with before.locked():
        (tmp_path / "state").rename(tmp_path / "removed")
        with after.locked():
            after.make_folders()
            after.write(_state())
            assert not before.is_there()
            before.write(_state(runtime_directory="/of/the/old/one"))
            assert before.clean() == 0
            state = after.read()
            assert state is not None
            assert state.runtime_directory == "/nowhere"
            assert (tmp_path / "state" / "svids").is_dir()


def test_a_record_cannot_make_anything_but_a_runtime_directory_be_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    link = tmp_path / "authz-mesh-link"
    link.symlink_to(precious)
    directory = StateDirectory(str(tmp_path / "mesh"))
    for path in (precious, link):
        with directory.locked():
            directory.write(_state(runtime_directory=str(path)))
            directory.clean()
    assert precious.exists()


def test_the_folder_for_sockets_is_private_and_short(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    made = Path(make_runtime_directory(str(long)))
    try:
        assert _mode(made) == 0o700
        assert len(str(made)) < 40
    finally:
        made.rmdir()
