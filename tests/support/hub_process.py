"""A real hub, `authz hub`, in a folder of its own; and what sidecars would send to it."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from authz.instant import NS_PER_S, rfc3339_from_ns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: generous: the machine has other things to do
PATIENCE_S = 120.0
_SERVES = re.compile(r"serves (https?)://[^:]*:([0-9]+)/")
REVISION = "c" * 64


class Hub:
    """The process, its folder and its address; ready when it is entered. `folder` outlives it when it is given."""

    def __init__(self, *arguments: str, folder: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="hub-") if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary is not None else folder or Path()
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self, port: int = 0) -> None:
        """Start the process and wait until it says that it is ready."""
        path = self.folder / "notify"
        path.unlink(missing_ok=True)
        said = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", "authz", "hub", "--data", str(self.data), "--listen", f"127.0.0.1:{port}"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told, self.log.open("ab") as log:
            told.bind(str(path))
            environment = {**os.environ, "NOTIFY_SOCKET": str(path)}
            self.process = subprocess.Popen(
                [*command, *self.arguments], env=environment, stdout=log, stderr=log, cwd=Path(__file__).parents[2]
            )
            ended = os.pidfd_open(self.process.pid)
            try:
                readable, _, _ = select.select([told, ended], [], [], PATIENCE_S)
            finally:
                os.close(ended)
            if told not in readable:
                self.process.kill()
                self.process.wait()
                raise AssertionError(self.log.read_text())
        text = self.log.read_bytes()[said:].decode()
        scheme, port_text = _SERVES.findall(text)[-1]
        self.url = f"{scheme}://127.0.0.1:{port_text}"

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """Kill it, as nobody may survive it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Tell it to end, and give its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Ask, and give the status and the JSON of the answer."""
        status, _, body = self.ask(path, headers)
        return status, json.loads(body)

    def ask(self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> tuple[int, Any, bytes]:
        request = urllib.request.Request(  # noqa: S310 our own process
            self.url + path,
            headers={name.replace("_", "-"): text for name, text in (headers or {}).items()},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 same
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def answer(self, path: str) -> Any:
        """Ask what is answered."""
        status, body = self.get("/api/v1" + path)
        assert status == 200, body
        return body

    def send(self, batch: Mapping[str, Any] | bytes, **headers: str) -> tuple[int, Any]:
        """Send a batch."""
        content = batch if isinstance(batch, bytes) else json.dumps(batch).encode()
        request = urllib.request.Request(  # noqa: S310 our own process
            self.url + "/intake/v1/batches",
            data=content,
            headers={name.replace("_", "-"): text for name, text in headers.items()},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:  # noqa: S310 same
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()


def now_s() -> int:
    """Give the beginning of the present interval of flows."""
    now = int(time.time())
    return now - now % 10


def identity(name: str) -> str:
    return f"spiffe://shop.example/ns/shop/sa/{name}"


def flow(source: str | None = "storefront", target: str = "catalog", **fields: Any) -> dict[str, Any]:
    """Give a flow from one Service to another, at the callee's sidecar, with some fields that are not usual."""
    count = fields.get("count", 1)
    return {
        "time": rfc3339_from_ns(now_s() * NS_PER_S),
        "interval_s": 10,
        "sidecar": target,
        "direction": "inbound",
        "caller": {
            "identity": None if source is None else identity(source),
            "service": source,
            "third_party": None,
            "presented_by": None,
            "address": None,
        },
        "destination": {"service": target, "third_party": None, "host": target},
        "method": "GET",
        "route": "/items/{id}",
        "protocol": "http/2",
        "decision": "allow",
        "reason": "allowed",
        "policy": "storefront-reads-catalog",
        "shadow": None,
        "revision": REVISION,
        "tls": {"version": "TLSv1_3", "cipher": "TLS_AES_128_GCM_SHA256", "peer_serial": None},
        "count": 1,
        "cut": 0,
        "unreached": 0,
        "unjoined": 0,
        "statuses": {"200": count},
        "bytes_received": 100 * count,
        "bytes_sent": 1000 * count,
        "duration_us_log2": [0] * 11 + [count],
        "check_us_sum": 50 * count,
        **fields,
    }


def record(
    number: int = 1, source: str | None = "storefront", target: str = "catalog", **fields: Any
) -> dict[str, Any]:
    """Give the record of a call that was denied, with some fields that are not usual."""
    return {
        "decision_id": f"{number:032x}",
        "request_id": f"request-{number}",
        "time": rfc3339_from_ns(now_s() * NS_PER_S + number % 1000 * 1_000_000),
        "sidecar": target,
        "direction": "inbound",
        "caller": {
            "identity": None if source is None else identity(source),
            "service": source,
            "third_party": None,
            "presented_by": None,
            "address": "127.0.0.1:40000",
        },
        "destination": {"service": target, "third_party": None, "host": target},
        "method": "DELETE",
        "route": None,
        "path": "/items/42",
        "protocol": "http/2",
        "decision": "deny",
        "reason": "no_policy",
        "policy": None,
        "shadow": None,
        "revision": REVISION,
        "valid_until": None,
        "tls": {"version": "TLSv1_3", "cipher": "TLS_AES_128_GCM_SHA256", "peer_serial": None},
        "check_us": 60,
        "status": 403,
        "bytes_received": 0,
        "bytes_sent": 90,
        "duration_ms": 1.5,
        "cut": False,
        **fields,
    }


def batch(
    sequence: int = 1,
    flows: Sequence[Mapping[str, Any]] = (),
    records: Sequence[Mapping[str, Any]] = (),
    sidecar: str = "catalog",
    **fields: Any,
) -> dict[str, Any]:
    """Give a batch of one sidecar."""
    return {
        "sidecar": sidecar,
        "boot": "0123456789abcdef",
        "sequence": sequence,
        "service": sidecar,
        "sent": rfc3339_from_ns(time.time_ns()),
        "records": list(records),
        "flows": list(flows),
        "status": {
            "revision": REVISION,
            "svid_expires": None,
            "spooled": 1,
            "lost": 0,
            "unjoined": 0,
            "dropped": 0,
            "failed_handshakes": 0,
            "ready": True,
        },
        "catalog": None,
        **fields,
    }
