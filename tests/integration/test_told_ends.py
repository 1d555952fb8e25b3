"""Which ends of calls Envoy tells of: those that CEL means, no fewer, though other filters are asked before it.

Each listener of both Envoys gets three more access logs, into files: of all ends, of those that the filter of
`authz.proxy.access_log` lets through, and of those that its CEL lets through alone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest

from authz.proxy.access_log_names import CUTS_LOG
from authz.proxy.header_names import DRAINED_DETAILS, EXT_AUTHZ, HOLD_CUT_DETAILS, HOLD_LOST_DETAILS, OVER_DETAILS
from tests.integration.test_drained_calls import listeners_of
from tests.support.conditions import eventually
from tests.support.local_mesh import LocalMesh, request
from tests.support.revoking_edit import (
    DRAINED_KINDS,
    HELD_KINDS,
    allow_for_an_hour,
    cut_by,
    ends_of,
    hold_of,
    opened,
    remove_policy,
)
from tests.support.window_close import PATIENCE_S, SET, close_on_every_stream, closing, put

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.envoy

SIDES: Final = ("orders", "catalog")
ALL, BOTH, CEL = "all", "both", "cel"
#: Envoy writes its files out every ten seconds
WRITTEN_S: Final = 60.0
_SAID: Final = f"%DYNAMIC_METADATA({EXT_AUTHZ}:decision_id)%"
_LINE: Final = f"%REQ(:PATH)% %RESPONSE_FLAGS% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% {_SAID}\n"
_FILE_LOG: Final = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
#: the instant before a close at which a call begins that is over in less than a second
SOON_S: Final = 0.6


def with_files(mesh: LocalMesh, side: str, folder: Path) -> None:
    """Have an Envoy write the ends of calls into files."""
    file = listeners_of(mesh, side)
    document = json.loads(file.read_bytes())
    for listener in document["resources"]:
        for chain in listener["filter_chains"]:
            manager = chain["filters"][0]["typed_config"]
            (cuts,) = (
                one for one in manager["access_log"] if one["typed_config"]["common_config"]["log_name"] == CUTS_LOG
            )
            kind, before, cel = cuts["filter"]["and_filter"]["filters"]
            assert "log_type_filter" in kind
            assert "or_filter" in before
            assert "extension_filter" in cel
            for name, filters in ((ALL, [kind, kind]), (BOTH, [kind, before, cel]), (CEL, [kind, cel])):
                path = str(folder / f"{side}.{name}")
                config = {
                    "@type": _FILE_LOG,
                    "path": path,
                    "log_format": {"text_format_source": {"inline_string": _LINE}},
                }
                manager["access_log"].append(
                    {
                        "name": "envoy.access_loggers.file",
                        "filter": {"and_filter": {"filters": filters}},
                        "typed_config": config,
                    }
                )
    draft = file.with_name("draft")
    draft.write_text(json.dumps(document))
    draft.replace(file)


class Ends:
    """What each Envoy has said of ends, sorted, by what was asked of its log."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, side: str, name: str) -> list[str]:
        try:
            return sorted((self._folder / f"{side}.{name}").read_text().splitlines())
        except FileNotFoundError:
            return []

    def has(self, path: str) -> bool:
        """Whether every file tells of a call of this path."""
        return all(
            any(line.startswith(f"{path} ") for line in self.of(side, name))
            for side in SIDES
            for name in (ALL, BOTH, CEL)
        )


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def call_and_leave(outbound: str, path: str, *, lasting_s: float) -> None:
    """Begin a call, and hang up after a while."""
    end_s = time.monotonic() + lasting_s
    with connected(outbound) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nhost: catalog\r\nx-echo-stream: 60\r\n\r\n".encode())
        assert connection.recv(1)
        while time.monotonic() < end_s:
            assert connection.recv(4096)


def call_grpc(outbound: str) -> grpc.StatusCode:
    with grpc.insecure_channel(outbound, options=[("grpc.default_authority", "catalog")]) as channel:
        try:
            channel.unary_unary("/shop.v1.Catalog/Get")(b"m", timeout=PATIENCE_S)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()  # type: ignore[attr-defined] # a call that failed is a Call, too
            return code
    return grpc.StatusCode.OK


def call_just_before_the_close(mesh: LocalMesh, outbound: str) -> None:
    """Have calls cut whose whole permission was shorter than a second."""
    closes = datetime.now(UTC) + timedelta(seconds=4)
    put(mesh, closing(closes))
    time.sleep(max(0.0, closes.timestamp() - SOON_S - time.time()))
    with connected(outbound) as connection:
        connection.sendall(b"GET /soon HTTP/1.1\r\nhost: catalog\r\nx-echo-stream: 60\r\n\r\n")
        while connection.recv(4096):
            pass


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    """Have calls of every kind end in every way."""
    folder = tmp_path_factory.mktemp("mesh")
    policies = folder / "policies"
    policies.mkdir()
    (policies / "set.yaml").write_text(SET)
    told = Ends(folder)
    with LocalMesh(policies=policies, state=folder / "state").running() as mesh:
        outbound = mesh.service("orders")["outbound"]
        allow_for_an_hour(mesh)
        for side in SIDES:
            with_files(mesh, side, folder)
        assert eventually(lambda: told_of_both(outbound, told), WRITTEN_S)
        assert request(outbound, "GET", "/plain", "catalog").status == 200
        assert request(outbound, "OPTIONS", "*", "catalog").status == 404
        assert request(outbound, "GET", "/plain", "nobody").status == 403
        assert call_grpc(outbound) is grpc.StatusCode.OK
        call_and_leave(outbound, "/left", lasting_s=0)
        call_and_leave(outbound, "/left-late", lasting_s=1.5)
        while not any(line.startswith("/soon ") and OVER_DETAILS in line for line in told.of("orders", ALL)):
            # On a machine that is too slow it comes after the close, and is refused.
            call_just_before_the_close(mesh, outbound)
            assert request(outbound, "GET", "/refused", "catalog").status == 403
            assert call_grpc(outbound) is grpc.StatusCode.PERMISSION_DENIED
            eventually(lambda: any(line.startswith("/soon ") for line in told.of("orders", ALL)), WRITTEN_S)
        close_on_every_stream(mesh)
        cut_by(mesh, remove_policy, HELD_KINDS)
        cut_by(mesh, remove_policy, DRAINED_KINDS)
        allow_for_an_hour(mesh)
        streams = opened(mesh, HELD_KINDS)
        os.kill(hold_of(mesh.service("catalog")["pids"]["sidecar"]), signal.SIGKILL)
        ends_of(streams)
        request(outbound, "GET", "/last", "catalog", (("x-echo-stream", "1.5"),))
        assert eventually(lambda: told.has("/last"), WRITTEN_S)
        yield told


def told_of_both(outbound: str, told: Ends) -> bool:
    request(outbound, "GET", "/first", "catalog")
    return all(told.of(side, ALL) for side in SIDES)


@pytest.mark.parametrize("side", SIDES)
def test_every_end_that_cel_means_is_told_and_no_other(ends: Ends, side: str) -> None:
    meant = ends.of(side, CEL)
    assert ends.of(side, BOTH) == meant
    assert len(meant) == len(set(meant)) < len(ends.of(side, ALL))


def test_ends_of_every_kind_are_among_them(ends: Ends) -> None:
    # One of the two sidecars is first; the other one sees a reset, or a refusal.
    told = "\n".join(line for side in SIDES for line in ends.of(side, BOTH))
    for details in (OVER_DETAILS, HOLD_CUT_DETAILS, HOLD_LOST_DETAILS, DRAINED_DETAILS):
        assert details in told
    # No flag, and over in less than a second: by the deadline alone it is known.
    assert f"/soon - 200 {OVER_DETAILS}" in told


@pytest.mark.parametrize("side", SIDES)
def test_calls_that_were_cut_or_ran_long_are_among_them_and_short_ones_are_not(ends: Ends, side: str) -> None:
    told = {line.split()[0] for line in ends.of(side, BOTH)}
    assert {"/soon", "/left-late", "/last"} <= told
    assert not told & {"*", "/first", "/plain", "/refused", "/left", "/shop.v1.Catalog/Get"}


@pytest.mark.parametrize("side", SIDES)
def test_a_drained_end_has_a_flag(ends: Ends, side: str) -> None:
    drained: list[Any] = [line.split() for line in ends.of(side, ALL) if DRAINED_DETAILS in line]
    assert all(flags != "-" for _, flags, *_ in drained)
