"""The one number that a drain changes in the file of listeners, and what it does not take for such a file."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from authz.proxy.listener_file import listeners_file
from authz.request import Direction
from authz.sidecar.control import drained_listeners
from authz.sidecar.control.drained_listeners import Chain, drain, with_drained
from authz.sidecar.errors import SidecarError
from tests.support.sidecar_specs import draining_sidecar

if TYPE_CHECKING:
    from pathlib import Path

MAIN = Chain(Direction.INBOUND, "main")
FILE = listeners_file(draining_sidecar()).encode()


def numbers(content: bytes) -> dict[tuple[str, str], int]:
    return {
        (listener["name"], chain["name"]): chain["metadata"]["filter_metadata"]["authz"]["drained"]
        for listener in json.loads(content)["resources"]
        for chain in listener["filter_chains"]
    }


def test_a_drain_counts_the_chains_that_are_meant_and_no_others() -> None:
    before = numbers(FILE)
    after = numbers(with_drained(with_drained(FILE, {MAIN}), {MAIN, Chain(Direction.OUTBOUND, "main")}))
    assert before == {("inbound", "main"): 0, ("inbound", "held"): 0, ("outbound", "main"): 0}
    assert after == {("inbound", "main"): 2, ("inbound", "held"): 0, ("outbound", "main"): 1}


def test_a_chain_that_is_not_there_is_no_drain() -> None:
    with pytest.raises(SidecarError, match="has no filter chain inbound/other"):
        with_drained(FILE, {Chain(Direction.INBOUND, "other")})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"resources": 1}',
        b'{"resources": [{"name": "inbound"}]}',
        FILE.replace(b'"drained": 0', b'"drained": true'),
    ],
)
def test_what_is_no_file_of_listeners_is_refused(content: bytes) -> None:
    with pytest.raises(SidecarError, match="no file of listeners"):
        with_drained(content, {MAIN})


def test_a_file_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drained_listeners, "MAX_LISTENERS_BYTES", len(FILE) - 1)
    with pytest.raises(SidecarError, match="more than"):
        with_drained(FILE, {MAIN})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["resources", "name", "filter_chains", "metadata", "filter_metadata", "authz", "drained"]),
            inner,
        )
    ),
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_file_or_an_error_of_its_own(content: bytes) -> None:
    with contextlib.suppress(SidecarError):
        with_drained(content, {MAIN})


def test_a_file_that_is_not_there_is_left_so(tmp_path: Path) -> None:
    with pytest.raises(SidecarError, match="cannot be read"):
        drain(str(tmp_path / "listeners.json"), {MAIN})
    assert not list(tmp_path.iterdir())


def test_whoever_could_read_the_file_still_can(tmp_path: Path) -> None:
    file = tmp_path / "listeners.json"
    file.write_bytes(FILE)
    file.chmod(0o640)
    drain(str(file), {MAIN})
    changed: Any = numbers(file.read_bytes())
    assert changed["inbound", "main"] == 1
    assert file.stat().st_mode & 0o777 == 0o640
