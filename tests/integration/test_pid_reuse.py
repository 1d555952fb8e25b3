"""A pid is given to another process, really: what the process before was known as, the other one is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/proc/sys/kernel/ns_last_pid").exists(),
    reason="root in a pid namespace of its own chooses the next pid, on a kernel with CONFIG_CHECKPOINT_RESTORE",
)


@pytest.fixture(scope="module")
def told() -> Iterator[dict[str, dict[str, Any]]]:
    with tempfile.TemporaryDirectory(prefix="pr-") as folder:
        played = subprocess.run(
            [
                *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-m", "tests.support.pid_reuse", folder),
            ],
            cwd=Path(__file__).parents[2],
            check=False,
            capture_output=True,
            text=True,
        )
        assert played.returncode == 0, played.stderr
        yield json.loads(played.stdout)


def test_a_connection_whose_process_has_gone_is_not_taken_for_that_of_the_pids_next_owner(
    told: dict[str, dict[str, Any]],
) -> None:
    assert told["kernel"] == {
        "the number is the victim's": True,  # which is what makes a number useless
        "kernel": "the process that connected has gone",
        "older kernel": told["kernel"]["older kernel"],
    }
    assert "younger than the connection may be" in told["kernel"]["older kernel"]


def test_facts_of_the_pids_next_owner_are_no_facts_of_the_peer(told: dict[str, dict[str, Any]]) -> None:
    assert told["facts"] == {
        "the victim itself": ["orders"],
        "attestor": "the process has ended",
        "attestation": "the process has ended",
    }


def test_the_next_owner_of_a_childs_pid_is_nobodys_workload(told: dict[str, dict[str, Any]]) -> None:
    assert told["child"] == {"the child": "orders", "registered": 1, "the other one": None, "registered later": 0}


def test_the_issuer_answers_nothing_to_a_connection_whose_process_has_gone(told: dict[str, dict[str, Any]]) -> None:
    assert told["whole"]["the victim lives"]
    assert told["whole"]["answered"] == ""
