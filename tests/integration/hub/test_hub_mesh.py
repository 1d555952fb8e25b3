"""A mesh with its hub: what the client called is what the map says, to the last call."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from authz.cli.main import main
from authz.mesh.calls.call import MeshCall
from authz.mesh.running_mesh import Mesh
from tests.support.hub_process import PATIENCE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy
POLICIES = str(Path(__file__).parents[3] / "policies")
ALLOWED, DENIED = 12, 5


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = str(tmp_path_factory.mktemp("mesh") / "state")
    with Mesh.start(POLICIES, state=directory, only=("storefront", "catalog"), hub=True) as mesh:
        for method, number in ((b"GET", ALLOWED), (b"DELETE", DENIED)):
            for _ in range(number):
                mesh.call(MeshCall(caller="storefront", destination="catalog", method=method, path=b"/items/42"))
        yield directory


def said(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(words) in {0, 1}, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_every_call_of_the_client_is_one_call_on_the_map(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = [("storefront", "catalog", ALLOWED + DENIED, ALLOWED, DENIED)]
    deadline_s = time.monotonic() + PATIENCE_S
    while True:  # flows are shipped when their interval has ended
        edges = said(capsys, "map", "--state", state, "--since", "1h", "-o", "json")["edges"]
        counted = [(each["from"], each["to"], each["calls"], each["allowed"], each["denied"]) for each in edges]
        if counted == expected or time.monotonic() > deadline_s:
            break
        time.sleep(0.2)
    assert counted == expected


def test_every_denial_is_kept_in_full_and_explained(state: str, capsys: pytest.CaptureFixture[str]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        assert main(["observe", "--state", state, "--decision", "deny", "-o", "json"]) == 0
        denied = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        if len(denied) == DENIED or time.monotonic() > deadline_s:
            break
        time.sleep(0.2)
    assert [(each["method"], each["path"], each["reason"]) for each in denied] == [
        ("DELETE", "/items/42", "no_policy")
    ] * DENIED
    assert [each["name"] for each in said(capsys, "windows", "list", "--state", state, "-o", "json")["windows"]]


def test_every_sidecar_reports_and_decides_by_the_policies_that_the_hub_knows(
    state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = said(capsys, "status", "--state", state, "-o", "json")
    assert [each["name"] for each in status["sidecars"]] == ["catalog", "storefront"]
    assert {each["revision"] for each in status["sidecars"]} == {status["policies"]["revision"]}
    assert [each["lost"] for each in status["sidecars"]] == [0, 0]
