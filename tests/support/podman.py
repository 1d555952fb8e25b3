"""A real podman with its Docker-compatible API, where this machine has one, in a mount namespace of its own.

Everything of it lies in one folder and goes with it. Containers have no network and one image: a root file system
that is empty but for folders, over which this machine's own programs are mounted, so that nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 60
_BETWEEN_LOOKS_S = 0.05
#: the machine's programs and their libraries
_PROGRAMS = tuple(path for path in ("/usr", "/lib", "/lib64", "/bin") if Path(path).exists())
#: hybrid cgroups have a second tree that podman takes for the only one
_START = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec podman "$@"'
_SETTINGS = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
"""


def missing() -> str | None:
    """Say in one line what is missing for podman to run, None where nothing is."""
    if os.geteuid() != 0:
        return "podman is tried as root only: run the tests as root"
    for program in ("podman", "crun", "conmon", "unshare"):
        if shutil.which(program) is None:
            return f"{program} is missing: apt-get install podman crun netavark aardvark-dns"
    if not Path("/usr/bin/python3").exists():
        return "/usr/bin/python3 is missing, which the containers run"
    return None


class Podman:
    """The engine's API at `socket`; an image `name:tag` is made by `import_image`."""

    def __init__(self, folder: Path) -> None:
        self.socket = str(folder / "engine.sock")
        self._folder = folder

    @contextlib.contextmanager
    def running(self) -> Iterator[Podman]:
        (self._folder / "containers.conf").write_text(_SETTINGS)
        places = ("--root", str(self._folder / "root"), "--runroot", str(self._folder / "run"))
        command = [*places, "--storage-driver", "vfs", "system", "service", "--time", "0", f"unix://{self.socket}"]
        with (self._folder / "log").open("wb") as log:
            service = subprocess.Popen(
                ["unshare", "-m", "--propagation", "private", "sh", "-c", _START, "podman", *command],
                stdout=log,
                stderr=log,
                env={**os.environ, "CONTAINERS_CONF": str(self._folder / "containers.conf")},
            )
        try:
            end_s = time.monotonic() + PATIENCE_S
            while not self._answers():  # it tells nobody when it is ready
                assert service.poll() is None, self.log()
                assert time.monotonic() < end_s, self.log()
                time.sleep(_BETWEEN_LOOKS_S)
            yield self
        finally:
            with contextlib.suppress(OSError, AssertionError):
                for one in self.ask("GET", "/containers/json", all="true"):
                    self.ask("DELETE", f"/containers/{one['Id']}", force="true")
            service.terminate()
            service.wait(PATIENCE_S)

    def log(self) -> str:
        return (self._folder / "log").read_text()

    def import_image(self, name: str, tag: str, *, different: str = "") -> None:
        """Make an image of folders; `different` makes it another one."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for folder in ("proc", "sys", "dev", "tmp", "etc", "sock", *(path[1:] for path in _PROGRAMS)):
                entry = tarfile.TarInfo(folder)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            entry = tarfile.TarInfo("etc/what")
            entry.size = len(different)
            archive.addfile(entry, io.BytesIO(different.encode()))
        made = self.ask("POST", "/images/create", content.getvalue(), fromSrc="-", repo=name)
        self.ask("POST", f"/images/{made['status']}/tag", repo=name, tag=tag)

    def start(self, image: str, *command: str, labels: dict[str, str], shared: Path, also: tuple[str, ...] = ()) -> str:
        """Start a container with `shared` at /sock, and `also` these folders, to read; gives its id."""
        binds = [f"{path}:{path}:ro" for path in (*_PROGRAMS, *also)]
        made = self.ask(
            "POST",
            "/containers/create",
            {
                "Image": image,
                "Cmd": command,
                "Labels": labels,
                "NetworkDisabled": True,
                "HostConfig": {"Binds": [*binds, f"{shared}:/sock"], "NetworkMode": "none"},
            },
        )
        container_id: str = made["Id"]
        self.ask("POST", f"/containers/{container_id}/start")
        return container_id

    def remove(self, container_id: str) -> None:
        with contextlib.suppress(AssertionError):  # it may have ended by itself
            self.ask("POST", f"/containers/{container_id}/kill")
        self.ask("POST", f"/containers/{container_id}/wait")
        self.ask("DELETE", f"/containers/{container_id}")

    def ask(self, method: str, path: str, body: bytes | dict[str, Any] | None = None, **query: str) -> Any:
        """Ask the API; gives what it answers in JSON, if anything."""
        connection = _Connection(self.socket)
        with contextlib.closing(connection):
            content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            kind = "application/x-tar" if isinstance(body, bytes) else "application/json"
            connection.request(method, f"{path}?{urlencode(query)}", content, {"content-type": kind})
            response = connection.getresponse()
            said = response.read()
            assert response.status < 400, (path, response.status, said, self.log())
        try:
            return json.loads(said)
        except ValueError:
            return None

    def _answers(self) -> bool:
        try:
            self.ask("GET", "/_ping")
        except (OSError, http.client.HTTPException):
            return False
        return True


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(self._path)
