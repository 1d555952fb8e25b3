from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from typing import TYPE_CHECKING

import pytest
from envoy.service.auth.v3 import external_auth_pb2
from hypothesis import given, strategies as st

from authz.identity.spiffe_id import SpiffeId
from authz.identity.verification import VerifiedIdentity
from authz.policy.index import compile_index
from authz.sidecar.check.bearer import MAX_TOKEN_BYTES, names_a_workload
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.in_force import InForce, PolicyInForce
from tests.support.certificates import NOW_NS, SPIFFE_ID, leaf, pem
from tests.support.check_request import check_request
from tests.support.decision_record import unpack_decision
from tests.support.policy_sets import document, parsed, service

if TYPE_CHECKING:
    from tests.support.decision_record import DecisionRecord

WORKLOAD = b'{"sub": "spiffe://shop.example/batch", "aud": ["spiffe://shop.example/catalog"]}'


def token(payload: bytes) -> bytes:
    return b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in (b'{"alg": "ES256"}', payload, b"signature"))


@pytest.mark.parametrize(
    "value",
    [
        b"Bearer " + token(WORKLOAD),
        b"bearer   " + token(WORKLOAD) + b" ",
        b"BEARER\t" + token(WORKLOAD),
        b"Basic YTpi, Bearer " + token(WORKLOAD),
        b"Bearer abc,Bearer " + token(WORKLOAD),
        b"Bearer " + token(WORKLOAD).rpartition(b".")[0],
        b"Bearer h." + b64encode(WORKLOAD) + b".s",
        b"Bearer " + token(b'{"sub": "spiffe://a/b", "sub": "anna"}'),
        b"Bearer " + token(b'{"sub": "anna", "sub": "spiffe://a/b"}'),
        b"Bearer " + token(b'{"\\u0073ub": "spiffe:\\/\\/a/b"}'),
        b"Bearer " + token(b' \n{"sub": "spiffe://a/b"} and more'),
        b"Bearer " + token(b'\xef\xbb\xbf{"sub": "spiffe://a/b", "name": "\xff\n"}'),
        b"Bearer " + token(b'{"exp": ' + b"9" * 5000 + b', "sub": "spiffe://a/b"}'),
        b"Bearer " + token(b'{"a": ' + b"[" * 5000),
        b"Bearer " + b"x" * (MAX_TOKEN_BYTES + 1),
    ],
)
def test_what_any_reader_could_take_for_a_workloads_token_is_one(value: bytes) -> None:
    assert names_a_workload([value])
    assert names_a_workload([b"Basic YTpi", value])


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Bearer",
        b"Bearer " + token(b'{"sub": "anna"}'),
        b"Bearer " + token(b'{"sub": "SPIFFE://shop.example/a"}'),
        b"Bearer " + token(b'{"sub": "https://spiffe://a"}'),
        b"Bearer " + token(b'{"sub": ["spiffe://shop.example/a"]}'),
        b"Bearer " + token(b'{"act": {"sub": "spiffe://shop.example/a"}}'),
        b"Bearer " + token(b'["sub", "spiffe://shop.example/a"]'),
        b"Bearer " + token(b'"spiffe://shop.example/a"'),
        b"Bearer " + token(b"not json"),
        b"Bearer " + token(b""),
        b"Bearer opaque-token",
        b"Bearer a.%%%%%.b",
        b"Basic " + token(WORKLOAD),
        token(WORKLOAD),
    ],
)
def test_any_other_token_is_the_apps_own(value: bytes) -> None:
    assert not names_a_workload([value])
    assert not names_a_workload([b"Basic YTpi", value])


@given(value=st.binary(max_size=200), payload=st.binary(max_size=200))
def test_any_bytes_are_judged(value: bytes, payload: bytes) -> None:
    for each in (value, b"Bearer " + value, b"Bearer " + token(payload), b"Bearer a." + value):
        assert names_a_workload([each]) in {True, False}


@given(claims=st.dictionaries(st.text(max_size=8), st.text(max_size=8) | st.integers() | st.none(), max_size=4))
def test_a_token_is_judged_by_its_subject(claims: dict[str, str | int | None]) -> None:
    value = b"Bearer " + token(json.dumps({**claims, "sub": "spiffe://shop.example/a"}).encode())
    assert names_a_workload([value])
    claims.pop("sub", None)
    assert not names_a_workload([b"Bearer " + token(json.dumps(claims).encode())])


# --- in front of a decision

ALLOWED = "{from: [{services: [orders]}], to: [{services: [tokens, plain], operations: all}]}"
SET = parsed(
    document("Mesh", "m", "{trustDomains: [shop.example]}"),
    service("orders", SPIFFE_ID),
    service("tokens", more=", accepts: [x509-svid, jwt-svid], forwarders: [orders]"),
    service("plain"),
    document("MicroPolicy", "r", ALLOWED),
)


def asked(of: str, direction: str, destination: str, *headers: tuple[str, bytes]) -> tuple[str, DecisionRecord]:
    """Ask the sidecar of a Service; orders is whoever calls."""
    records: list[bytes] = []
    own = VerifiedIdentity(spiffe_id=SpiffeId.parse(SPIFFE_ID), serial="1", not_before_ns=0, not_after_ns=NOW_NS + 1)
    in_force = InForce()
    in_force.policy = PolicyInForce(index=compile_index(SET))

    def taken(packed: bytes) -> bool:
        records.append(packed)
        return True

    checker = Checker(
        workload=Workload(service=of, identity=lambda: own),
        in_force=in_force,
        record=taken,
        clock=lambda: NOW_NS,
    )
    message = check_request(direction=direction, host=destination, headers=headers, certificate_pem=pem(leaf()))
    response = external_auth_pb2.CheckResponse.FromString(checker.answer(message.SerializeToString()))
    assert not checker.faults
    return response.dynamic_metadata["reason"], unpack_decision(records[0], of)


SIDES = pytest.mark.parametrize(("of", "direction"), [("", "inbound"), ("orders", "outbound")])


@SIDES
def test_the_peer_is_never_taken_for_the_subject_of_its_token(of: str, direction: str) -> None:
    header = ("authorization", b"Bearer " + token(WORKLOAD))
    reason, record = asked(of or "tokens", direction, "tokens", header)
    assert reason == "unidentified"
    assert (record.call.caller, record.decision.caller_service) == (None, None)


@SIDES
@pytest.mark.parametrize(
    ("destination", "header"),
    [
        ("tokens", ("accept", b"*/*")),
        ("tokens", ("authorization", b"Bearer " + token(b'{"sub": "anna"}'))),
        ("plain", ("authorization", b"Bearer " + token(WORKLOAD))),
    ],
)
def test_every_other_call_is_its_peers(of: str, direction: str, destination: str, header: tuple[str, bytes]) -> None:
    reason, record = asked(of or destination, direction, destination, header)
    assert reason == "allowed"
    assert record.decision.caller_service == "orders"
