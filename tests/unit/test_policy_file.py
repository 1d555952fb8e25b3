"""A policy file is replaced whole, or stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from authz.policy.document import SourceFile
from authz.policy_file import PolicyFileError, replace_policy_file

if TYPE_CHECKING:
    from pathlib import Path


def test_what_somebody_else_has_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("theirs")
    with pytest.raises(PolicyFileError, match=r"a\.yaml: the file was changed meanwhile; run it again"):
        replace_policy_file(SourceFile(str(path), b"read"), b"new")
    assert path.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_has_gone_is_said_and_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(PolicyFileError, match=r"a\.yaml: no such file"):
        replace_policy_file(SourceFile(str(tmp_path / "a.yaml"), b"read"), b"new")
    assert list(tmp_path.iterdir()) == []
