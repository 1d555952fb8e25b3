"""A real issuer, `authz identity serve`, for a policy folder of its own; and processes that ask it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
#: generous: the machine has other things to do
PATIENCE_S = 60.0

MESH = """\
apiVersion: authz/v1
kind: Mesh
metadata: {name: mesh}
spec: {trustDomains: [shop.example]}
"""


def service(name: str, *, attest: str = "", identity: str | None = None) -> str:
    """Write a Service document; `attest` is a flow sequence in YAML."""
    identity = identity or f"spiffe://shop.example/ns/shop/sa/{name}"
    return textwrap.dedent(f"""\
        apiVersion: authz/v1
        kind: Service
        metadata: {{name: {name}}}
        spec:
          identities: [{identity}]
        """) + (f"  attest: {attest}\n" if attest else "")


class Issuer:
    """The process, its folder and its socket; ready when it is entered."""

    def __init__(self, *documents: str, arguments: Sequence[str] = (), keep: bool = False) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="is-")
        self.folder = Path(self._temporary.name)
        self.folder.chmod(0o755)
        self.policies = self.folder / "policies"
        self.policies.mkdir(mode=0o700)
        self.socket = self.folder / "w.sock"
        self.log = self.folder / "log"
        self.refusals = self.folder / "refused"
        self.state = self.folder / "state"
        self.write(*documents)
        keys = ["--state", str(self.state)] if keep else ["--in-memory"]
        self.command = [
            *(sys.executable, "-m", "authz", "identity", "serve", "--policies", str(self.policies)),
            *("--socket", str(self.socket), "--decision-log", str(self.refusals), *keys, *arguments),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, *documents: str) -> None:
        """Put other policies in the place of those that are there, in one step."""
        draft = self.policies / ".draft"
        draft.write_text("---\n".join(documents), "utf-8")
        draft.replace(self.policies / "set.yaml")

    def start(self) -> None:
        """Start the process and wait until it says that it is ready."""
        path = self.folder / "notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, self.log.open("ab") as log:
            told.bind(str(path))
            path.chmod(0o666)  # also for an issuer that is another user
            told.settimeout(PATIENCE_S)
            environment = {**os.environ, "NOTIFY_SOCKET": str(path)}
            self.process = subprocess.Popen(self.command, cwd=ROOT, env=environment, stderr=log, stdout=log)
            ended = os.pidfd_open(self.process.pid)
            try:
                ready, _, _ = select.select([told, ended], [], [], PATIENCE_S)
            finally:
                os.close(ended)
            if told not in ready:
                raise AssertionError(f"it is not ready: {self.log.read_text('utf-8')}")
            assert told.recv(100) == b"READY=1"

    def kill(self) -> None:
        """Kill it as the kernel would, and wait until it has gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.process is not None and self.process.poll() is None:
                self.process.terminate()
                assert self.process.wait(PATIENCE_S) == 0, self.log.read_text("utf-8")
                assert not self.socket.exists()
        finally:
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._temporary.cleanup()

    def refused(self) -> list[dict[str, Any]]:
        """Give the records of who was refused."""
        if not self.refusals.exists():
            return []
        return [json.loads(line) for line in self.refusals.read_text("utf-8").splitlines()]

    def logged(self) -> str:
        """Give what it has said."""
        return self.log.read_text("utf-8")


#: asks for X.509-SVIDs, once a line of its standard input, and says what it got: SPIFFE IDs and hints, or the status
WORKLOAD = """\
import json, os, sys
import grpc
from authz.workload_api import messages as m
if len(sys.argv) > 2:  # another user, after everything has been read: who connects is who counts
    os.setgroups([])
    os.setresgid(*[int(sys.argv[2])] * 3)
    os.setresuid(*[int(sys.argv[2])] * 3)
channel = grpc.insecure_channel("unix:" + sys.argv[1], options=[("grpc.use_local_subchannel_pool", 1)])
ask = channel.unary_stream(
    m.FETCH_X509_SVID.path,
    request_serializer=m.X509SVIDRequest.SerializeToString,
    response_deserializer=m.X509SVIDResponse.FromString,
)
for _ in sys.stdin:
    try:
        call = ask(m.X509SVIDRequest(), metadata=(m.SECURITY_HEADER,), timeout=60, wait_for_ready=True)
        answer = next(call)
        print(json.dumps([[svid.spiffe_id, svid.hint] for svid in answer.svids]), flush=True)
        call.cancel()
    except grpc.RpcError as error:
        print(json.dumps(error.code().name), flush=True)
"""


class Workload:
    """A process that asks when it is told to; `command` is what runs the workload's Python."""

    def __init__(self, path: Path, *, command: Sequence[str] = (sys.executable,), user: int | None = None) -> None:
        self.process = subprocess.Popen(
            [*command, "-c", WORKLOAD, str(path), *([] if user is None else [str(user)])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self) -> Any:
        """Give its SPIFFE IDs with their hints, or the gRPC status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        """Kill it and wait until it has gone."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@contextlib.contextmanager
def workload(path: Path, *, command: Sequence[str] = (sys.executable,), user: int | None = None) -> Iterator[Workload]:
    """Start a workload, and end it at the end."""
    process = Workload(path, command=command, user=user)
    try:
        yield process
    finally:
        process.end()
