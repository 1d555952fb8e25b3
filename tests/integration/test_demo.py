"""The demo is a test that people can watch; here it is one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.envoy

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120


def test_every_step_of_the_story_comes_out_as_told(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "authz", "mesh", "demo", "--exit"],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "✗" not in ended.stdout
    assert list(tmp_path.iterdir()) == [], "something is left behind"


def test_ctrl_c_ends_the_demo_and_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "authz", "mesh", "demo"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
    ) as demo:  # fmt: skip
        try:
            assert demo.stdout is not None
            for line in demo.stdout:
                if "until Ctrl-C" in line:
                    break
            demo.send_signal(signal.SIGINT)
            assert demo.wait(PATIENCE_S) == 0
        finally:
            demo.kill()
    assert list(tmp_path.iterdir()) == []
