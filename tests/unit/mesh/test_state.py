from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from authz.mesh.errors import MeshError
from authz.mesh.process_mark import ProcessMark
from authz.mesh.state import MAX_STATE_BYTES, MeshState, Role, RunningProcess, RunningService, RunningThirdParty

_STATE = MeshState(
    supervisor=ProcessMark(pid=4711, started=99),
    policies="policies",
    runtime_directory="/run/authz-mesh-x",
    laid_out=True,
    services=(
        RunningService(
            name="orders",
            identity="spiffe://shop.example/orders",
            app="127.0.0.1:1",
            inbound="127.0.0.1:2",
            outbound="127.0.0.1:3",
            admin="unix:/run/authz-mesh-x/orders.admin",
            authz_socket="/run/authz-mesh-x/orders.authz",
            decision_log="/s/decisions/orders.jsonl",
            certificate="/s/svids/orders/svid.pem",
            key="/s/svids/orders/key.pem",
            bundle="/s/svids/orders/bundle.pem",
            sidecar_state="/s/sidecars/orders",
        ),
    ),
    third_parties=(
        RunningThirdParty(
            name="acme",
            hosts=("api.acme.example",),
            identity=None,
            address="127.0.0.1:4",
            certificate=None,
            key=None,
            bundle=None,
            authority="/s/authorities/acme.third-party.pem",
        ),
    ),
    processes=(
        RunningProcess(of="orders", role=Role.APP, mark=ProcessMark(pid=4712, started=100), ready=True),
        RunningProcess(of="orders", role=Role.ENVOY, mark=None, ready=False),
    ),
)


def test_a_record_reads_back_as_it_was_written() -> None:
    assert MeshState.from_json(_STATE.to_json().encode()) == _STATE


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("supervisor", "pid"), 1),
        (("supervisor", "pid"), -4711),
        (("supervisor", "pid"), True),
        (("supervisor",), None),
        (("policies",), 5),
        (("services", 0, "inbound"), None),
        (("services", 0), "orders"),
        (("third_parties", 0, "name"), None),
        (("third_parties", 0, "hosts"), "api.acme.example"),
        (("third_parties", 0, "identity"), ["spiffe://x/y"]),
        (("processes", 0, "role"), "boss"),
        (("hub",), 5),
        (("processes", 0, "mark", "pid"), "4712"),
        (("processes",), {}),
    ],
)
def test_a_damaged_record_is_refused(path: tuple[str | int, ...], value: object) -> None:
    data = json.loads(_STATE.to_json())
    at = data
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    with pytest.raises(MeshError):
        MeshState.from_json(json.dumps(data).encode())


def test_a_record_that_is_too_long_is_refused() -> None:
    with pytest.raises(MeshError, match="more than"):
        MeshState.from_json(_STATE.to_json().encode() + b" " * MAX_STATE_BYTES)


@given(st.binary())
def test_any_bytes_are_a_record_or_a_mesh_error(content: bytes) -> None:
    with pytest.raises(MeshError):
        MeshState.from_json(content)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.sampled_from(sorted(json.loads(_STATE.to_json()))), _JSON)
def test_a_record_with_any_part_replaced_is_a_record_or_a_mesh_error(part: str, value: object) -> None:
    data = {**json.loads(_STATE.to_json()), part: value}
    try:
        state = MeshState.from_json(json.dumps(data).encode())
    except MeshError:
        return
    assert isinstance(state, MeshState)
