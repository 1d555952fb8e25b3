"""Policy sets as text, short enough to be read in a test."""

from __future__ import annotations

from authz.policy.document import SourceFile
from authz.policy.errors import PolicySetFaults
from authz.policy.policy_set import PolicySet, parse_policy_set

MESH = """\
apiVersion: authz/v1
kind: Mesh
metadata: {name: m}
spec: {trustDomains: [shop.example], federates: [{trustDomain: acme.example, bundle: acme.pem}]}
"""


def document(kind: str, name: str, spec: str, *, metadata: str = "") -> str:
    """Give a document of four lines, `spec` in the last."""
    return f"apiVersion: authz/v1\nkind: {kind}\nmetadata: {{name: {name}{metadata}}}\nspec: {spec}\n"


def service(name: str, *, more: str = "", identity: str | None = None) -> str:
    return document("Service", name, f"{{identities: [{identity or f'spiffe://shop.example/{name}'}]{more}}}")


def rule(
    name: str, *, callers: str = "[{services: [a]}]", to: str = "{services: [b]}", more: str = "", **words: str
) -> str:
    target = to.removesuffix("}") + f", operations: {words.get('operations', '[{methods: [GET], paths: [/x]}]')}}}"
    return document(
        "MicroPolicy", name, f"{{from: {callers}, to: [{target}]{more}}}", metadata=words.get("metadata", "")
    )


def joined(*documents: str) -> bytes:
    return "---\n".join(documents).encode()


def parsed(*documents: str) -> PolicySet:
    return parse_policy_set([SourceFile("set.yaml", joined(MESH, *documents))])


def faults(*documents: str, mesh: bool = True) -> list[str]:
    """Give the faults of documents, with lines counted within the document that has the fault."""
    files = [SourceFile(f"{number}.yaml", each.encode()) for number, each in enumerate(documents)]
    try:
        parse_policy_set([*([SourceFile("mesh.yaml", MESH.encode())] if mesh else []), *files])
    except PolicySetFaults as raised:
        return [str(fault) for fault in raised.faults]
    return []
