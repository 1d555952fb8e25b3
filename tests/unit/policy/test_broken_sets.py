"""Sets that a new user may write: all that is wrong is said, where it is, with what to write; and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from authz.policy.document import SourceFile
from authz.policy.document_reader import read_documents
from authz.policy.envelope import placed_document
from authz.policy.errors import PolicySetFaults
from authz.policy.ownership import ownership_faults
from authz.policy.policy_set import parse_policy_set
from authz.policy.references import reference_faults
from authz.policy.schema import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

REST = """\
apiVersion: authz/v1
kind: Mesh
metadata: {name: mesh}
spec: {trustDomains: [shop.example], federates: [{trustDomain: acme.example, bundle: acme.json}]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: orders}
spec: {identities: [spiffe://shop.example/ns/shop/sa/orders], attributes: {env: prod}}
---
apiVersion: authz/v1
kind: Service
metadata: {name: catalog}
spec:
  identities: [spiffe://shop.example/ns/shop/sa/catalog]
  attributes: {env: prod}
  api: [{name: getItem, methods: [GET], paths: ["/items/{id}"]}]
---
apiVersion: authz/v1
kind: ThirdParty
metadata: {name: acme}
spec: {hosts: [api.acme.example], window: {opens: 2026-01-01T00:00:00Z, closes: 2027-01-01T00:00:00Z}}
"""

#: policies without a fault of their own: with names that are there and names that are not
SOUND = """\
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: sound}
spec: {from: [{services: [orders]}], to: [{services: [catalog], operations: [{api: [getItem]}]}]}
---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: unknown}
spec:
  from: [{services: [nobody]}, {thirdParties: [orders]}, {identities: ["spiffe://other.example/a"]}]
  to: [{services: [catalog], operations: [{api: [getNothing]}]}, {thirdParties: [nobody], operations: all}]
---
apiVersion: authz/v1
kind: Guardrail
metadata: {name: guard}
spec:
  from: [{services: [orders], identities: ["spiffe://other.example/b"]}]
  to: [{services: [gone], operations: all}]
"""


def faults_of(content: bytes, *, alone: bool = False) -> list[str]:
    files = [SourceFile("x.yaml", content), *([] if alone else [SourceFile("rest.yaml", REST.encode())])]
    try:
        parse_policy_set(files)
    except PolicySetFaults as faults:
        return [str(fault) for fault in faults.faults]
    return []


def broken_sets() -> Iterator[object]:
    text = Path(__file__).with_name("broken_sets.txt").read_text("utf-8")
    for case in text.split("\n\n")[1:]:
        name, *lines = case.strip().splitlines()
        kind = "".join(line[2:] for line in lines if line.startswith("= "))
        head = f"apiVersion: authz/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec:\n" if kind else ""
        body = "".join(f"{line[2:]}\n" for line in lines if line.startswith("|"))
        yield pytest.param(head + body, [line[2:] for line in lines if line.startswith("> ")], id=name[2:])


@pytest.mark.parametrize(("text", "expected"), list(broken_sets()))
def test_a_broken_set_says_what_to_change_and_nothing_that_only_follows(text: str, expected: list[str]) -> None:
    assert faults_of(text.encode(), alone="kind: Mesh" in text) == [f"x.yaml:{line}" for line in expected]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "kind: Mesh\n".encode("utf-16"),
            "1:1: the file is not UTF-8 from here on; it looks like UTF-16: save it as UTF-8",
        ),
        (b"\x1f\x8b\x08\x00", "1:2: the file is not UTF-8 from here on"),
        (b"a: b\x00c\n", "1:5: the character U+0000 is not allowed; write it escaped"),
        (b'a: "\xe2\x80\xae"\n', "1:5: the character U+202E is not allowed; write it escaped"),
    ],
)
def test_a_file_that_is_no_text_is_named_as_such(content: bytes, expected: str) -> None:
    assert faults_of(content) == [f"x.yaml:{expected}"]


@pytest.mark.parametrize("content", [b"", b"# nothing yet\n", b"\xef\xbb\xbf", b"\n\n"])
def test_a_file_without_a_document_is_no_fault(content: bytes) -> None:
    assert faults_of(content) == []
    assert [fault.partition(";")[0] for fault in faults_of(content, alone=True)] == ["x.yaml:1:1: the set has no Mesh"]


def test_a_byte_order_mark_and_line_ends_of_windows_change_nothing() -> None:
    assert faults_of(b"\xef\xbb\xbf" + REST.replace("\n", "\r\n").encode(), alone=True) == []


def test_a_document_without_a_line_between_hides_no_names() -> None:
    run_together = REST.replace("---\n", "", 1)
    users = (
        "apiVersion: authz/v1\nkind: MicroPolicy\nmetadata: {name: r}\n"
        "spec: {from: [{services: [orders]}], to: [{services: [catalog], operations: all}]}\n"
    )
    assert faults_of(f"{run_together}---\n{users}".encode(), alone=True) == [
        "x.yaml:5:1: duplicate key `apiVersion`; the first is in line 1; a new document begins with a line `---`"
    ]


@pytest.mark.parametrize("place", ["from", "to", "operations", "methods", "identities", "services", "federates", "key"])
@pytest.mark.parametrize("text", ["a\\nb/c", "x\\u0007 /\\nforged.yaml:1:1: all is well", "`\\u202e`"])
def test_no_hint_repeats_what_would_forge_a_line(place: str, text: str) -> None:
    value = f'"{text}"'
    spec = {
        "from": f"{{from: [{value}], to: {value}}}",
        "to": f"{{from: {value}, to: [{value}]}}",
        "operations": f"{{from: [], to: [{{services: [catalog], operations: [{value}]}}]}}",
        "methods": f"{{from: [], to: [{{services: [catalog], operations: [{{methods: {value}, paths: [{value}]}}]}}]}}",
        "identities": f"{{from: [{{identities: [{value}]}}], to: {value}}}",
        "services": f"{{from: [{{services: {value}}}, {{services: [{value}]}}], to: [{{operations: {value}}}]}}",
        "federates": f"{{federates: [{value}], mode: {value}, window: {value}}}",
        "key": f"{{{value}: {value}}}",
    }[place]
    kind = "Mesh" if place == "federates" else "MicroPolicy"
    found = faults_of(f"apiVersion: authz/v1\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n".encode())
    assert found
    assert all(line.isprintable() for line in found)


@pytest.mark.parametrize(("content", "_said"), list(broken_sets()))
def test_what_is_told_of_names_is_told_by_documents_as_by_their_values(content: str, _said: list[str]) -> None:
    texts = (REST, content, SOUND)
    documents = [each for text in texts for each in read_documents(SourceFile("x.yaml", text.encode())).documents]
    placed = [found for document in documents if (found := placed_document(document)[0]) is not None]
    policies = {Kind.MICRO_POLICY, Kind.GUARDRAIL}
    without = [replace(each, value=None) if each.kind in policies else each for each in placed]
    assert list(reference_faults(placed, ())) == list(reference_faults(without, ()))
    assert list(ownership_faults(placed)) == list(ownership_faults(without))
