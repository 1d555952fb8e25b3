"""The JSON Schema takes every set that loads, and refuses what an editor should underline."""

# ruff: noqa: S311 sets are made by chance from fixed seeds

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from authz.policy.document import SourceFile, Value
from authz.policy.document_reader import read_documents
from authz.policy.json_schema import json_schema
from authz.policy.schema import SPECS, Metadata
from authz.policy.schema_faults import _fields_by_path
from tests.support.generated_sets import GeneratedSet
from tests.support.json_schema_check import problems

if TYPE_CHECKING:
    from authz.policy.field_reading import Fields

ROOT = Path(__file__).parents[3]
SCHEMA = json_schema()
VECTORS = sorted((ROOT / "tests/conformance/vectors").glob("*.yaml"))


def values(content: bytes) -> list[Any]:
    """Read documents as a JSON reader has them."""
    read = read_documents(SourceFile("x.yaml", content))
    assert not read.faults
    return [as_json(document.root.value) for document in read.documents]


def as_json(value: Value) -> Any:
    if isinstance(value, dict):
        return {key: as_json(entry) for key, entry in value.items()}
    return [as_json(entry) for entry in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_the_sets_of_the_vectors_are_valid(path: Path) -> None:
    for document in values(yaml.safe_load(path.read_text("utf-8"))["set"].encode()):
        assert problems(SCHEMA, document) == []


@pytest.mark.parametrize("path", sorted(ROOT.glob("policies/**/*.yaml")), ids=lambda path: path.stem)
def test_the_shops_policies_are_valid(path: Path) -> None:
    for document in values(path.read_bytes()):
        assert problems(SCHEMA, document) == []


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Service", {"identities": ["spiffe://Shop.example/a"]}),
        ("Service", {"identities": ["spiffe://shop.example/a/"]}),
        ("Service", {"identities": ["spiffe://shop.example/a*"]}),
        ("Service", {"identities": ["spiffe://shop.example/a"], "hosts": ["catalog:8080"]}),
        ("Service", {"identities": ["spiffe://a/a"], "api": [{"name": "a", "methods": ["GET"], "paths": ["/*"]}]}),
        ("MicroPolicy", {"to": [{"services": ["b"], "operations": [{"methods": ["GET"], "paths": ["/a/{id}.json"]}]}]}),
        ("ThirdParty", {"hosts": ["https://api.x.example"]}),
        ("ThirdParty", {"hosts": ["api.x.example:80-90"]}),
        ("ThirdParty", {"hosts": ["*.*.x.example"]}),
    ],
)
def test_an_editor_underlines_what_other_languages_write(kind: str, spec: dict[str, Any]) -> None:
    whole: dict[str, Any] = {
        "Service": {},
        "MicroPolicy": {"from": [{"services": ["a"]}]},
        "ThirdParty": {"window": {"opens": "2026-01-01T00:00:00Z", "closes": "2027-01-01T00:00:00Z"}},
    }[kind]
    document = {"apiVersion": "authz/v1", "kind": kind, "metadata": {"name": "x"}, "spec": {**whole, **spec}}
    places = [place for problem in problems(SCHEMA, document) for place in problem.split(": ")[:1]]
    assert places
    assert all(place.startswith("$.spec.") for place in places)


def test_sets_made_by_chance_are_valid() -> None:
    for seed in range(200):
        for document in GeneratedSet(Random(seed)).documents:
            assert problems(SCHEMA, document) == [], document


def test_the_fields_of_each_kind_are_those_of_its_model() -> None:
    for kind, (model, _) in SPECS.items():
        assert set(SCHEMA["$defs"][kind]["properties"]) == fields_of(model), kind
    assert set(SCHEMA["$defs"]["metadata"]["properties"]) == fields_of(Metadata)


def fields_of(model: type[Fields]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


def test_the_fields_within_fields_are_those_of_the_models() -> None:
    for kind, (model, _) in SPECS.items():
        for path, names in _fields_by_path(model).items():
            schema = within(SCHEMA["$defs"][kind], path)
            assert set(schema["properties"]) == names, (kind, path)


def within(schema: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Give the schema of the mapping that the names lead to."""
    while True:
        if "$ref" in schema:
            schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
        elif "items" in schema:
            schema = schema["items"]
        elif "oneOf" in schema and "properties" not in schema:
            schema = schema["oneOf"][-1]
        elif path:
            schema, path = schema["properties"][path[0]], path[1:]
        else:
            return schema


def test_the_kinds_are_those_of_this_version() -> None:
    assert SCHEMA["properties"]["kind"]["enum"] == [str(kind) for kind in SPECS]


ENVELOPE = {"apiVersion": "authz/v1", "metadata": {"name": "x"}}
TARGET = {"services": ["b"], "operations": "all"}
WINDOW = {"opens": "2026-01-01T00:00:00Z", "closes": "2027-01-01T00:00:00Z"}
RULE = {"from": [{"services": ["a"]}], "to": [TARGET]}


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("Frob", {"x": 1}),
        ("MicroPolicy", {}),
        ("MicroPolicy", {"from": [{"services": ["a"]}]}),
        ("MicroPolicy", {**RULE, "selector": {}}),
        ("MicroPolicy", {**RULE, "from": []}),
        ("MicroPolicy", {**RULE, "from": [{"services": "a"}]}),
        ("MicroPolicy", {**RULE, "from": [{"services": ["A"]}]}),
        ("MicroPolicy", {**RULE, "from": [{"services": ["a"], "thirdParties": ["b"]}]}),
        ("MicroPolicy", {**RULE, "to": [{**TARGET, "attributes": {"a": "b"}}]}),
        ("MicroPolicy", {**RULE, "to": [{"services": ["b"]}]}),
        ("MicroPolicy", {**RULE, "to": [{**TARGET, "operations": "some"}]}),
        ("MicroPolicy", {**RULE, "to": [{**TARGET, "operations": [{"methods": ["GET"]}]}]}),
        ("MicroPolicy", {**RULE, "to": [{**TARGET, "operations": [{"methods": ["get"], "paths": "all"}]}]}),
        ("MicroPolicy", {**RULE, "to": [{**TARGET, "operations": [{"grpc": ["a.B/C"], "paths": "all"}]}]}),
        ("MicroPolicy", {**RULE, "to": [{**TARGET, "operations": [{"grpc": ["/a.B/C"]}]}]}),
        ("MicroPolicy", {**RULE, "window": {"opens": "2026-11-01"}}),
        ("MicroPolicy", {**RULE, "window": {}}),
        ("ThirdParty", {"hosts": ["x.example"], "window": {"opens": "2026-11-01T00:00:00Z"}}),
        ("Service", {"identities": ["shop.example/a"]}),
        ("Service", {"identities": ["spiffe://shop.example/a"], "attributes": {"port": 80}}),
        ("Service", {"identities": ["spiffe://shop.example/a"], "accepts": ["jwt"]}),
        ("Service", {"identities": ["spiffe://shop.example/a"], "egress": {"connect": ["x.example"]}}),
        ("Service", {"identities": ["spiffe://shop.example/a"], "attest": [{"unix": {"uid": "1"}}]}),
        ("Service", {"identities": ["spiffe://shop.example/a"], "attest": [{"unix": {"uid": 1}, "container": {}}]}),
        ("ThirdParty", {"certificates": [{"authority": "x.pem"}], "window": WINDOW}),
        ("ThirdParty", {"certificates": [{"authority": "x.pem", "dns": ["x"], "uri": ["x:y"]}], "window": WINDOW}),
        ("Mesh", {"trustDomains": ["a.example"], "federates": [{"trustDomain": "b.example"}]}),
        (
            "Mesh",
            {"trustDomains": ["a.example"], "federates": [{"trustDomain": "b", "endpoint": {"url": "https://b"}}]},
        ),
        ("Mesh", {"trustDomain": ["shop.example"]}),
        ("PolicyTest", {"cases": [{"name": "x", "call": {"to": "b"}, "expect": "allowed"}]}),
        ("PolicyTest", {"cases": [{"name": "x", "call": {"from": "b"}, "expect": "allow"}]}),
    ],
)
def test_an_editor_underlines_what_is_wrong(kind: str, spec: dict[str, Any]) -> None:
    assert problems(SCHEMA, {**ENVELOPE, "kind": kind, "spec": spec})


def test_an_editor_underlines_a_wrong_envelope() -> None:
    document = {**ENVELOPE, "kind": "MicroPolicy", "spec": RULE}
    assert problems(SCHEMA, document) == []
    assert problems(SCHEMA, {**document, "apiVersion": "v1"})
    assert problems(SCHEMA, {**document, "metadata": {}})
    assert problems(SCHEMA, {**document, "more": 1})
    assert problems(SCHEMA, {key: value for key, value in document.items() if key != "kind"})
