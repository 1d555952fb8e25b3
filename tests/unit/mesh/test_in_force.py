"""When an edit counts as in force in a mesh: by what each living sidecar has said, and nothing else."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from authz.mesh.in_force import follows, wait_until_in_force
from authz.mesh.process_mark import ProcessMark, mark_of
from authz.mesh.state import MeshState, Role, RunningProcess, RunningService

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NEW, OLD = "b" * 64, "a" * 64


def sidecar(folder: Path, name: str, mark: ProcessMark | None, **says: Any) -> tuple[RunningService, RunningProcess]:
    state = folder / name
    state.mkdir()
    if says:
        told = {"service": name, "pid": os.getpid(), "ready": True, "stale": False, "faults": [], **says}
        (state / "status.json").write_text(json.dumps(told))
    service = RunningService(
        name=name,
        identity="",
        app="",
        inbound="",
        outbound="",
        admin="",
        authz_socket="",
        decision_log="",
        certificate="",
        key="",
        bundle="",
        sidecar_state=str(state),
    )
    return service, RunningProcess(of=name, role=Role.SIDECAR, mark=mark, ready=True)


def mesh(folder: Path, *parts: tuple[RunningService, RunningProcess]) -> MeshState:
    mark = mark_of(os.getpid())
    assert mark is not None
    return MeshState(
        supervisor=mark,
        policies=str(folder / "policies"),
        runtime_directory="",
        laid_out=True,
        services=tuple(service for service, _ in parts),
        third_parties=(),
        processes=tuple(process for _, process in parts),
    )


def test_an_edit_is_in_force_where_each_living_sidecar_says_so(tmp_path: Path) -> None:
    own = mark_of(os.getpid())
    state = mesh(tmp_path, sidecar(tmp_path, "a", own, revision=NEW), sidecar(tmp_path, "b", own, revision=NEW))
    told = wait_until_in_force(state, NEW)
    assert (told.by, told.missing) == (("a", "b"), ())


def test_what_does_not_decide_by_it_is_named_with_what_is_known(tmp_path: Path) -> None:
    own = mark_of(os.getpid())
    assert own is not None
    gone = ProcessMark(pid=own.pid, started=own.started + 1)
    state = mesh(
        tmp_path,
        sidecar(tmp_path, "good", own, revision=NEW),
        sidecar(tmp_path, "late", own, revision=OLD),
        sidecar(tmp_path, "faulty", own, revision=OLD, stale=True, faults=["set.yaml:1:1: no mapping"]),
        sidecar(tmp_path, "dead", gone, revision=NEW),
        sidecar(tmp_path, "starting", None, revision=NEW),
        sidecar(tmp_path, "silent", own),
        sidecar(tmp_path, "before", own, revision=NEW, pid=own.pid + 1),
    )
    told = wait_until_in_force(state, NEW, patience_s=0)
    assert told.by == ("good",)
    assert dict(told.missing) == {
        "late": "its sidecar decides by another set",
        "faulty": "set.yaml:1:1: no mapping",
        "dead": "its sidecar does not run, so its Envoy refuses every call",
        "starting": "its sidecar does not run, so its Envoy refuses every call",
        "silent": "its sidecar has said nothing yet",
        "before": "its sidecar has said nothing yet",
    }


def test_only_who_follows_that_very_folder_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = mesh(tmp_path)
    (tmp_path / "policies").mkdir()
    (tmp_path / "link").symlink_to("policies")
    monkeypatch.chdir(tmp_path)
    assert [follows(state, each) for each in ("policies", "link", "other")] == [True, True, False]
