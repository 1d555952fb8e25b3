"""Where a Workload API is: Workload Endpoint 4, each rule a row."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from authz.workload_api.endpoint import grpc_target
from authz.workload_api.errors import WorkloadApiError


@pytest.mark.parametrize(
    ("endpoint", "target"),
    [
        ("unix:///run/spire/agent.sock", "unix:/run/spire/agent.sock"),
        ("/run/spire/agent.sock", "unix:/run/spire/agent.sock"),
        ("agent.sock", "unix:agent.sock"),
        ("tcp://127.0.0.1:8000", "ipv4:127.0.0.1:8000"),
        ("tcp://[::1]:8000", "ipv6:[::1]:8000"),
    ],
)
def test_each_form_of_the_standard_is_an_address(endpoint: str, target: str) -> None:
    assert grpc_target(endpoint) == target


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("", "no path"),
        ("unix://", "absolute path"),
        ("unix://run/agent.sock", "absolute path"),
        ("unix://host/run/agent.sock", "absolute path"),
        ("unix:///", "more than"),
        ("unix:///run/agent.sock?x=1", "more than"),
        ("unix:///run/agent.sock#x", "more than"),
        ("unix:///run/%61gent.sock", "more than"),
        ("unix:///run/agent.sock\n", "more than"),
        ("unix:///" + "a" * 120, "107 bytes"),
        ("tcp://127.0.0.1", "tcp://IP:port"),
        ("tcp://127.0.0.1:8000/foo", "tcp://IP:port"),
        ("tcp://localhost:8000", "tcp://IP:port"),
        ("tcp://user@127.0.0.1:8000", "tcp://IP:port"),
        ("tcp://127.0.0.1:0", "port"),
        ("tcp://127.0.0.1:65536", "port"),
        ("tcp://1.2.3.4.5:1", "no ip address"),
        ("https://127.0.0.1:8000", "tcp://IP:port"),
    ],
)
def test_anything_else_is_refused_with_the_form_that_is_wanted(endpoint: str, words: str) -> None:
    with pytest.raises(WorkloadApiError, match=words):
        grpc_target(endpoint)


@given(text=st.text(max_size=200))
def test_any_text_is_an_address_or_a_workload_api_error(text: str) -> None:
    try:
        target = grpc_target(text)
    except WorkloadApiError:
        return
    assert target.startswith(("unix:", "ipv4:", "ipv6:"))
