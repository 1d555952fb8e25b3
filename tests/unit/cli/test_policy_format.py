"""`authz fmt` as it is typed."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from authz.cli.main import main
from authz.policy_folder import load_policy_folder
from tests.support.policy_texts import MESH

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CARELESS = MESH.replace("metadata: {name: m}", "metadata:   { name: 'm' }  # who")
CAREFUL = MESH.replace("metadata: {name: m}", 'metadata: {name: "m"}  # who').split("spec:")[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mesh.yaml").write_text(CARELESS)
    return tmp_path / "policies"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run_words(*words: Any) -> tuple[int, str, str]:
        status = main(["fmt", *map(str, words)])
        out, err = capfd.readouterr()
        return status, out, err

    return run_words


def test_check_names_the_files_and_changes_none(folder: Path, run: Any) -> None:
    status, out, _ = run(folder, "--check", "-o", "pretty")
    assert (status, out) == (1, f"not formatted: {folder}/mesh.yaml\n1 file: 1 not formatted, 0 as they should be\n")
    assert (folder / "mesh.yaml").read_text() == CARELESS


def test_files_are_formatted_and_then_there_is_nothing_to_do(folder: Path, run: Any) -> None:
    revision = load_policy_folder(str(folder)).revision
    assert run(folder, "-o", "pretty")[:2] == (
        0,
        f"formatted: {folder}/mesh.yaml\n1 file: 1 formatted, 0 as they should be\n",
    )
    assert (folder / "mesh.yaml").read_text().startswith(CAREFUL)
    assert load_policy_folder(str(folder)).revision == revision
    assert [each.name for each in folder.iterdir()] == ["mesh.yaml"]
    assert run(folder, "--check")[0] == 0
    assert json.loads(run(folder, "-o", "json")[1]) == {"files": 1, "changed": [], "left": []}


def test_a_file_keeps_its_mode_and_a_link_stays_a_link(folder: Path, run: Any, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.yaml"
    (folder / "mesh.yaml").rename(elsewhere)
    elsewhere.chmod(0o640)
    (folder / "mesh.yaml").symlink_to(elsewhere)
    assert run(folder)[0] == 0
    assert (folder / "mesh.yaml").is_symlink()
    assert elsewhere.read_text().startswith(CAREFUL)
    assert stat.S_IMODE(elsewhere.stat().st_mode) == 0o640


def test_what_cannot_be_formatted_is_left_as_it_is_with_a_word(folder: Path, run: Any) -> None:
    (folder / "bad.yaml").write_text("a: [b\n")
    status, _, err = run(folder)
    assert status == 0
    assert err.startswith(f"{folder}/bad.yaml:2: left as it is: not YAML")
    assert (folder / "bad.yaml").read_text() == "a: [b\n"
    assert (folder / "mesh.yaml").read_text().startswith(CAREFUL)


def test_one_file_can_be_formatted(folder: Path, run: Any) -> None:
    assert run(folder / "mesh.yaml", "--check")[0] == 1
    assert run(folder / "mesh.yaml")[0] == 0
    assert run(folder, "--check")[0] == 0


def test_a_folder_that_is_not_there_is_status_2(run: Any, tmp_path: Path) -> None:
    assert run(tmp_path / "nowhere") == (2, "", f"{tmp_path}/nowhere: there is no such folder\n")
