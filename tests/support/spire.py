"""A real SPIRE server and agent, built by `make test-peers`."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest

PEERS = Path(__file__).parents[2] / ".cache/peers"
#: a bound for what must happen, never a measure of how fast it does
PATIENCE_S = 120
_SERVER = """\
server {{
  trust_domain = "shop.example"
  bind_address = "127.0.0.1"
  bind_port = "{port}"
  socket_path = "{folder}/server.sock"
  data_dir = "{folder}/server"
  default_x509_svid_ttl = "{ttl}"
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "{folder}/server.sqlite3" }} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
}}
"""
_AGENT = """\
agent {{
  trust_domain = "shop.example"
  server_address = "127.0.0.1"
  server_port = "{port}"
  socket_path = "{folder}/agent.sock"
  data_dir = "{folder}/agent"
  insecure_bootstrap = true
}}
plugins {{
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""
_AGENT_ID = "spiffe://shop.example/agent"


def binary(name: str) -> str:
    found = shutil.which(name, path=str(PEERS)) or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: make test-peers builds it, with Go")
    return found


class Spire:
    """`socket` is the agent's Workload API; every process of this user gets the identities that are entered."""

    def __init__(self, folder: Path, *, ttl: str) -> None:
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._server_binary, self._agent_binary = binary("spire-server"), binary("spire-agent")
        self._configuration = {"port": port, "folder": folder, "ttl": ttl}
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def socket(self) -> str:
        return f"{self._folder}/agent.sock"

    def enter(self, *spiffe_ids: str) -> None:
        for spiffe_id in spiffe_ids:
            self._ask(
                *("entry", "create", "-parentID", _AGENT_ID, "-spiffeID", spiffe_id),
                *("-selector", f"unix:uid:{os.geteuid()}"),
            )

    def kill_agent(self) -> None:
        agent = self._processes.pop()
        agent.kill()
        agent.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        (self._folder / "server.conf").write_text(_SERVER.format(**self._configuration))
        (self._folder / "agent.conf").write_text(_AGENT.format(**self._configuration))
        try:
            self._start("server", self._server_binary, "run", "-config", f"{self._folder}/server.conf")
            self._wait(self._server_binary, "server.sock")
            token = self._ask("token", "generate", "-spiffeID", _AGENT_ID).removeprefix("Token: ").strip()
            configuration = f"{self._folder}/agent.conf"
            self._start("agent", self._agent_binary, "run", "-config", configuration, "-joinToken", token)
            self._wait(self._agent_binary, "agent.sock")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        while self._processes:
            process = self._processes.pop()
            process.terminate()
            process.wait(PATIENCE_S)

    def _start(self, name: str, *command: str) -> None:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def _wait(self, program: str, name: str) -> None:
        end_s = time.monotonic() + PATIENCE_S
        command = [program, "healthcheck", "-socketPath", f"{self._folder}/{name}"]
        while subprocess.run(command, capture_output=True, check=False).returncode:
            assert self._processes[-1].poll() is None, self._logs()
            assert time.monotonic() < end_s, self._logs()
            time.sleep(0.1)

    def _ask(self, *words: str) -> str:
        command = [self._server_binary, *words, "-socketPath", f"{self._folder}/server.sock"]
        asked = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert asked.returncode == 0, asked.stderr
        return asked.stdout

    def _logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self._folder.glob("*.log")))
