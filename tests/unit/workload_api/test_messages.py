"""The Workload API's messages, compared with those of py-spiffe, which are generated from the standard's file."""

from __future__ import annotations

import contextlib

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError, Message
from hypothesis import given, strategies as st
from spiffe._proto import workload_pb2

from authz.workload_api import messages

_NAMES = sorted(messages._SHAPES)


@pytest.mark.parametrize("name", _NAMES)
def test_each_message_has_the_fields_and_numbers_of_the_standard(name: str) -> None:
    ours = getattr(messages, name).DESCRIPTOR
    theirs = getattr(workload_pb2, name).DESCRIPTOR
    assert _fields(ours) == _fields(theirs)


def test_the_service_and_its_methods_are_those_of_the_standard() -> None:
    theirs = workload_pb2.DESCRIPTOR.services_by_name[messages.SERVICE]
    assert theirs.full_name == messages.SERVICE
    ours = [value for value in vars(messages).values() if isinstance(value, messages.Method)]
    for method in ours:
        other = theirs.methods_by_name[method.name]
        assert (other.input_type.name, other.output_type.name, other.server_streaming) == (
            method.request.DESCRIPTOR.name,
            method.response.DESCRIPTOR.name,
            method.streams,
        )
        assert method.path == f"/SpiffeWorkloadAPI/{other.name}"
    assert {method.name for method in ours} == {one.name for one in theirs.methods}


def test_they_stand_beside_messages_of_the_same_names_in_one_process() -> None:
    assert messages.X509SVID.DESCRIPTOR.full_name == workload_pb2.X509SVID.DESCRIPTOR.full_name
    assert messages.X509SVID.DESCRIPTOR.file.pool is not descriptor_pool.Default()
    assert messages.X509SVID is not workload_pb2.X509SVID


def test_what_one_writes_the_other_reads() -> None:
    ours = messages.X509SVIDResponse(
        svids=[messages.X509SVID(spiffe_id="spiffe://a.example/b", x509_svid=b"c", bundle=b"d", hint="internal")],
        crl=[b"e"],
        federated_bundles={"spiffe://f.example": b"g"},
    )
    theirs = workload_pb2.X509SVIDResponse.FromString(ours.SerializeToString())
    assert theirs.svids[0].hint == "internal"
    assert dict(theirs.federated_bundles) == {"spiffe://f.example": b"g"}
    validated = workload_pb2.ValidateJWTSVIDResponse(spiffe_id="spiffe://a.example/b")
    validated.claims.update({"aud": ["h"], "exp": 1.0})
    read = messages.ValidateJWTSVIDResponse.FromString(validated.SerializeToString())
    assert read.claims["exp"] == 1.0
    assert list(read.claims["aud"]) == ["h"]


@given(data=st.binary(max_size=200), name=st.sampled_from(_NAMES))
def test_any_bytes_are_a_message_or_a_decode_error(data: bytes, name: str) -> None:
    kind: type[Message] = getattr(messages, name)
    with contextlib.suppress(DecodeError):
        assert kind.FromString(data).SerializeToString() is not None


def _fields(descriptor) -> list[tuple[object, ...]]:  # noqa: ANN001 no two pools share a class
    return [
        (
            field.name,
            field.number,
            field.type,
            field.is_repeated,
            None
            if field.message_type is None
            else (field.message_type.full_name, _fields(field.message_type))
            if field.message_type.GetOptions().map_entry
            else field.message_type.full_name,
        )
        for field in descriptor.fields
    ]
