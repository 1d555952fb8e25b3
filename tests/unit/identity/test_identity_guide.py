"""The commands of docs/identity.md, as they stand there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SHOWN = re.findall(r"^\$ (.*)$", (ROOT / "docs/identity.md").read_text(), re.MULTILINE)


def test_the_commands_of_the_guide_end_as_it_says(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "policies", tmp_path / "policies")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    assert len(SHOWN) >= 9
    for line in SHOWN:
        command, _, remark = line.partition("#")
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == (1 if "exit status 1" in remark else 0), (command, done.stderr)
        assert "PRIVATE KEY" not in done.stdout + done.stderr
