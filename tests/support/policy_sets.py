"""Policy sets for meshes and sidecars: tiny ones, one with every kind of ThirdParty, and one of eleven Services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.policy.document import SourceFile
from authz.policy.policy_set import PolicySet, parse_policy_set
from tests.support.policy_texts import document

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

OPEN = "{opens: 2026-01-01T00:00:00Z, closes: 2099-01-01T00:00:00Z}"
ENDED = "{opens: 2020-01-01T00:00:00Z, closes: 2021-01-01T00:00:00Z}"
TO_COME = "{opens: 2098-01-01T00:00:00Z, closes: 2099-01-01T00:00:00Z}"


def service(name: str, *identities: str, more: str = "") -> str:
    quoted = ", ".join(f'"{identity}"' for identity in identities or (f"spiffe://shop.example/{name}",))
    return document("Service", name, f"{{identities: [{quoted}]{more}}}")


def parsed(*documents: str) -> PolicySet:
    return parse_policy_set([SourceFile(path="set.yaml", content="---\n".join(documents).encode())])


def write(folder: Path, *documents: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "set.yaml").write_text("---\n".join(documents))
    return str(folder)


#: two Services, and the one call that is allowed
ORDERS_AND_CATALOG = (
    document("Mesh", "shop", "{trustDomains: [shop.example]}"),
    service("orders"),
    service("catalog"),
)
ORDERS_READ_CATALOG = document(
    "MicroPolicy",
    "orders-read-catalog",
    "{from: [{services: [orders]}],"
    ' to: [{services: [catalog], operations: [{methods: [GET], paths: ["/items/{id}"]}]}]}',
)

ONE_SERVICE = (document("Mesh", "one", "{trustDomains: [shop.example]}"), service("alone"))

#: every kind of ThirdParty, several own trust domains, identities as patterns
MIXED = (
    document(
        "Mesh",
        "mixed",
        "{trustDomains: [shop.example, edge.example], federates: [{trustDomain: acme.example, bundle: acme.pem}, "
        "{trustDomain: web.example, endpoint: {url: https://web.example/bundle, profile: https_web}}]}",
    ),
    service("orders", "spiffe://shop.example/ns/*/sa/orders", more=', egress: {connect: ["api.psp.example:443"]}'),
    service(
        "catalog",
        "spiffe://shop.example/catalog",
        more=", hosts: [catalog.shop.local], accepts: [x509-svid, jwt-svid], forwarders: [gateway]",
    ),
    service("gateway", "spiffe://edge.example/**"),
    service("admin", "spiffe://edge.example/gateway"),
    document(
        "ThirdParty",
        "psp",
        f'{{hosts: [api.psp.example, "*.psp.example:8443", old.psp.example:9443], tls: TLSv1_3, window: {OPEN}}}',
    ),
    document("ThirdParty", "wild", f'{{hosts: ["*.wild.example"], window: {OPEN}}}'),
    document("ThirdParty", "acme", f'{{identities: ["spiffe://acme.example/**"], window: {OPEN}}}'),
    document(
        "ThirdParty",
        "certified",
        f"{{certificates: [{{authority: partner.pem, dns: [client.partner.example]}}], window: {OPEN}}}",
    ),
    document(
        "ThirdParty", "gone", f"{{identities: [spiffe://shop.example/gone], hosts: [gone.example], window: {ENDED}}}"
    ),
)


def eleven_services() -> tuple[str, ...]:
    """Give a set of eleven Services, four ThirdParties and twenty MicroPolicies, with every kind of window."""
    names = [f"s{number}" for number in range(11)]
    documents = [
        document(
            "Mesh",
            "eleven",
            "{trustDomains: [shop.example, edge.example], federates: [{trustDomain: acme.example, bundle: acme.pem}]}",
        )
    ]
    for number, name in enumerate(names):
        identity = f"spiffe://{'edge' if number % 4 == 3 else 'shop'}.example/ns/{'*' if number % 2 else 'x'}/sa/{name}"
        documents.append(
            service(name, identity, more=f", attributes: {{tier: t{number % 3}}}, hosts: [{name}.shop.local]")
        )
    documents += [
        document(
            "ThirdParty",
            "acme",
            f"{{identities: [spiffe://acme.example/pull], hosts: [api.acme.example], window: {OPEN}}}",
        ),
        document(
            "ThirdParty",
            "left",
            f"{{identities: [spiffe://acme.example/left], hosts: [left.example], window: {ENDED}}}",
        ),
        document("ThirdParty", "hooks", f'{{hosts: ["hooks.example:8443"], window: {OPEN}}}'),
        document("ThirdParty", "wild", f'{{hosts: ["*.wild.example"], window: {OPEN}}}'),
    ]
    documents += [document("MicroPolicy", f"p{number:02}", _policy(number, names)) for number in range(20)]
    return tuple(documents)


def _policy(number: int, names: Sequence[str]) -> str:
    """Give one of twenty policies that differ in who, whom, what and when."""
    caller = [
        f"{{services: [{names[number % 11]}, {names[(number * 3 + 1) % 11]}]}}",
        f"{{attributes: {{tier: t{number % 3}}}}}",
        f'{{identities: ["spiffe://shop.example/ns/*/sa/{names[number % 11]}"]}}',
        "{thirdParties: [acme, left]}",
    ][number % 4]
    operations = [
        '[{methods: [GET], paths: ["/items/{id}", /]}]',
        "[{methods: [POST], paths: [/orders]}, {grpc: [shop.v1.Orders/Get]}]",
        "all",
        '[{methods: all, paths: ["/files/{path=**}"]}]',
        "[{methods: [GET, PUT], paths: all}]",
    ][number % 5]
    target = [
        f"{{services: [{names[(number * 5 + 2) % 11]}, {names[(number * 7 + 3) % 11]}], operations: {operations}}}",
        f"{{attributes: {{tier: t{(number + 1) % 3}}}, operations: {operations}}}",
    ][number % 2]
    if number % 4 == 0:
        target += f", {{thirdParties: [acme, left, hooks, wild], operations: {operations}}}"
    window = ["", "", f", window: {OPEN}", f", window: {ENDED}", f", window: {TO_COME}"][number * 2 % 5]
    return f"{{from: [{caller}], to: [{target}]{window}}}"
