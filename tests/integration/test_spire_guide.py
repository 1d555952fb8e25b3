"""docs/spire.md is run as written, in one shell: what it says is what comes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.spire import PATIENCE_S, PEERS, binary

pytestmark = [pytest.mark.peers, pytest.mark.envoy]

GUIDE = (Path(__file__).parents[2] / "docs/spire.md").read_text()
#: a block of commands, and what they print where that is shown
BLOCKS = re.findall(r"```sh\n(.*?)```\n(?:```text\n(.*?)```)?", GUIDE, re.DOTALL)
_MARK = "=== block"


def test_the_guide_leads_to_a_call_that_is_authorized_by_a_spire_identity() -> None:
    binary("spire-server")
    folder = Path(tempfile.mkdtemp(prefix="guide-"))
    script = "set -eu\n" + "".join(f"echo '{_MARK}'\n{commands}" for commands, _ in BLOCKS)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{PEERS}:{os.environ['PATH']}"}
    shell = subprocess.Popen(
        ["bash", "-c", script], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        said, _ = shell.communicate(timeout=PATIENCE_S)
        logs = "\n".join(f"{log}: {log.read_text()[-2000:]}" for log in folder.rglob("*.log"))
        assert shell.returncode == 0, f"{said}\n{logs}"
        printed = said.split(f"{_MARK}\n")[1:]
        assert len(printed) == len(BLOCKS)
        for output, (commands, expected) in zip(printed, BLOCKS, strict=True):
            assert output == expected, commands
    finally:
        # Whatever the guide has started belongs to its session.
        if shell.poll() is None or folder.exists():
            _end_session(shell.pid)
        shutil.rmtree(folder, ignore_errors=True)


def _end_session(session: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(session, number)
        except ProcessLookupError:
            return


def test_the_guide_shows_what_its_commands_print() -> None:
    assert sum(bool(expected) for _, expected in BLOCKS) >= 4
