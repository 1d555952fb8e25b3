"""docs/federation.md is run as written: its sets, its commands, and what it says comes of them."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.integration.test_issuers_bundle_endpoint import looked_up

if TYPE_CHECKING:
    from collections.abc import Iterator

GUIDE = (Path(__file__).parents[2] / "docs/federation.md").read_text()
PATIENCE_S = 60


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


@contextlib.contextmanager
def served(command: str, folder: Path, environment: dict[str, str], *said: str) -> Iterator[None]:
    """Run a command in the background once it has said all this on standard error."""
    with subprocess.Popen(
        ["/bin/sh", "-c", f"exec {command}"], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        watchdog = threading.Timer(PATIENCE_S, process.kill)
        watchdog.start()
        try:
            text, left = "", set(said)
            for line in process.stderr:
                text += line
                left -= {words for words in left if words in line}
                if not left:
                    break
            assert not left, text
            yield
        finally:
            watchdog.cancel()
            process.terminate()


def test_the_worked_example_works(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    acme, shop = (block.replace("8443", str(port)) for block in blocks("yaml"))
    serve, fetch, check = (block.replace("8443", str(port)) for block in blocks("sh"))
    for name, content in (("acme", acme), ("shop", shop)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "set.yaml").write_text(content)

    def run(command: str) -> str:
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    with served(serve.strip(), tmp_path, environment, "ready:"):
        curl, *commands = fetch.strip().splitlines()
        assert curl == f"curl --silent --insecure https://127.0.0.1:{port}/ > acme.json"
        (tmp_path / "acme.json").write_bytes(looked_up(port))  # what curl does; not every machine has it
        assert "acme.example" in [run(command) for command in commands][-1]
        asked, other = check.strip().splitlines()
        assert "allow" in run(asked)
        with served(other, tmp_path, environment, "ready:", "the bundle of `acme.example` was fetched"):
            [copy] = (tmp_path / "shop-state").rglob("acme.example.json")
            assert copy.stat().st_mode & 0o077 == 0
