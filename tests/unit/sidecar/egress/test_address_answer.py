"""What Envoy is told when it asks where a call to a ThirdParty may go."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import TYPE_CHECKING

import pytest
from envoy.service.auth.v3 import external_auth_pb2
from hypothesis import given, strategies as st

from authz.decision import Reason
from authz.sidecar.egress.address_answer import AddressAnswers, is_this_machines
from authz.sidecar.egress.networks import ReachableNetworks
from authz.sidecar.egress.resolution import NameResolution, ResolutionError
from authz.sidecar.errors import CheckMessageError

if TYPE_CHECKING:
    from authz.records.cut_call import CutCall
    from authz.sidecar.egress.resolution import Addresses

DECISION_ID = "0123456789abcdef0123456789abcdef"


class Answers:
    """Answers that nobody else listens to; `names` has the addresses."""

    def __init__(self, **names: list[str]) -> None:
        self.names = {name.replace("_", "."): addresses for name, addresses in names.items()}
        self.asked: list[str] = []
        self.refused: list[CutCall] = []
        self._answers = AddressAnswers(
            resolution=NameResolution(self._lookup),
            networks=ReachableNetworks(),
            refused=self.refused.append,
            is_own=lambda address: str(address) == "203.0.113.99",
        )

    def _lookup(self, name: str) -> Addresses:
        self.asked.append(name)
        if name not in self.names:
            raise ResolutionError(f"`{name}` cannot be resolved")
        return tuple(ipaddress.ip_address(address) for address in self.names[name])

    def to(self, *requests: external_auth_pb2.CheckRequest) -> list[external_auth_pb2.CheckResponse]:
        async def answered() -> list[bytes]:
            return [await self._answers.answer(request) for request in requests]

        return [external_auth_pb2.CheckResponse.FromString(answer) for answer in asyncio.run(answered())]


def asked(
    host: str = "", *, port: str = "443", authority: str = "api.acme.example", method: str = "GET", grpc: bool = False
) -> external_auth_pb2.CheckRequest:
    request = external_auth_pb2.CheckRequest()
    attributes = request.attributes
    attributes.context_extensions.update(
        {"third_party": "acme", "host": host, "port": port, "workload": "spiffe://shop.example/orders"}
    )
    attributes.request.http.host = authority
    attributes.request.http.method = method
    attributes.request.http.path = "/items?secret=1"
    attributes.request.http.protocol = "HTTP/2"
    header = attributes.request.http.header_map.headers.add()
    header.key, header.raw_value = ("content-type", b"application/grpc") if grpc else ("x-request-id", b"a-request")
    said = attributes.metadata_context.filter_metadata["envoy.filters.http.ext_authz"]
    said.update({"decision_id": DECISION_ID, "policy": "orders-use-acme"})
    return request


def address_in(response: external_auth_pb2.CheckResponse) -> str:
    assert response.status.code == 0
    assert response.HasField("ok_response")
    return str(response.dynamic_metadata["upstream_address"])


def test_an_allow_names_the_one_address_and_the_routes_port() -> None:
    answers = Answers(api_acme_example=["203.0.113.1"], six_cdn_example=["2001:db8::1"])
    first, second = answers.to(asked("api.acme.example"), asked(port="8443", authority="SIX.cdn.example:8443"))
    assert (address_in(first), address_in(second)) == ("203.0.113.1:443", "[2001:db8::1]:8443")
    assert answers.asked == ["api.acme.example", "six.cdn.example"]
    assert not answers.refused


def test_addresses_of_the_first_ones_family_take_turns() -> None:
    answers = Answers(api_acme_example=["203.0.113.1", "2001:db8::1", "203.0.113.2"])
    told = [address_in(one) for one in answers.to(*[asked("api.acme.example")] * 4)]
    assert sorted(set(told)) == ["203.0.113.1:443", "203.0.113.2:443"]
    assert told[0] != told[1]


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["203.0.113.1", "10.0.0.1"], ["203.0.113.99"]])
def test_a_refusal_is_told_under_the_id_of_its_decision_and_goes_to_the_records(addresses: list[str]) -> None:
    answers = Answers(api_acme_example=addresses)
    (response,) = answers.to(asked("api.acme.example"))
    assert response.status.code != 0
    assert response.denied_response.status.code == 403
    headers = {one.header.key: one.header.value for one in response.denied_response.headers}
    assert (headers["x-authz-reason"], headers["x-authz-decision-id"]) == ("unknown_destination", DECISION_ID)
    (call,) = answers.refused
    assert (call.decision_id, call.policy, call.reason) == (
        DECISION_ID,
        "orders-use-acme",
        Reason.UNKNOWN_DESTINATION,
    )
    assert (str(call.caller), call.third_party, call.request_id) == (
        "spiffe://shop.example/orders",
        "acme",
        "a-request",
    )


def test_a_grpc_call_hears_it_as_grpc_does() -> None:
    answers = Answers(api_acme_example=["::1"])
    (response,) = answers.to(asked("api.acme.example", grpc=True))
    assert (response.status.code, answers.refused[0].protocol) == (7, "grpc")


@pytest.mark.parametrize(
    "authority", ["127.0.0.1", "2130706433", "0x7f.1", "[::1]", "*.cdn.example", "", "a..example", "a.example:x", "a b"]
)
def test_what_is_no_name_is_refused_and_never_resolved(authority: str) -> None:
    answers = Answers()
    (response,) = answers.to(asked(authority=authority))
    assert response.denied_response.status.code == 403
    assert answers.asked == []


@given(st.text(max_size=80))
def test_whatever_a_wildcards_host_says_only_a_name_is_resolved(authority: str) -> None:
    answers = Answers()
    try:
        answers.to(asked(authority=authority))
    except ResolutionError:
        (name,) = answers.asked
        assert authority.lower().partition(":")[0].removesuffix(".") == name
        with pytest.raises(ValueError, match="does not appear"):
            ipaddress.ip_address(name)


@pytest.mark.parametrize("missing", ["host", "port"])
def test_a_route_that_does_not_say_where_it_leads_gets_no_answer(missing: str) -> None:
    request = asked("api.acme.example")
    del request.attributes.context_extensions[missing]
    with pytest.raises(CheckMessageError, match="do not say whose address"):
        Answers().to(request)


def test_refusals_are_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    answers = Answers(api_acme_example=["169.254.169.254"])
    with caplog.at_level(logging.WARNING):
        answers.to(*[asked("api.acme.example")] * 5)
    (line,) = caplog.messages
    assert "`api.acme.example` leads to 169.254.169.254, cloud metadata" in line
    assert len(answers.refused) == 5


def test_the_machines_own_addresses_are_known() -> None:
    assert is_this_machines(ipaddress.ip_address("127.0.0.1"))
    assert not is_this_machines(ipaddress.ip_address("203.0.113.1"))
