"""Policy folders of many policies, one a file, of which one allows `orders` to read `catalog`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: so many Services that the others' policies spread over
_SERVICES = 50
_HEAD = "apiVersion: authz/v1\nkind: "
ALLOWED = (
    f"{_HEAD}MicroPolicy\nmetadata: {{name: orders-read-catalog}}\nspec:\n  from: [{{services: [orders]}}]\n"
    "  to: [{services: [catalog], operations: [{methods: [GET], paths: ['/items/{id}']}]}]\n"
)
MESH = f"{_HEAD}Mesh\nmetadata: {{name: shop}}\nspec:\n  trustDomains: [shop.example]\n"


def service(name: str) -> str:
    return f"{_HEAD}Service\nmetadata: {{name: {name}}}\nspec: {{identities: ['spiffe://shop.example/{name}']}}\n"


def write_large_set(folder: Path, policies: int) -> None:
    """Write a Mesh, Services and so many MicroPolicies."""
    folder.mkdir()
    (folder / "mesh.yaml").write_text(MESH)
    (folder / "allowed.yaml").write_text(ALLOWED)
    names = [f"s{number}" for number in range(_SERVICES)]
    (folder / "services.yaml").write_text("---\n".join(map(service, ("orders", "catalog", *names))))
    for number in range(policies - 1):
        caller, called = names[number % _SERVICES], names[(number // _SERVICES) % _SERVICES]
        below = folder / f"d{number // 1000}"
        below.mkdir(exist_ok=True)
        (below / f"p{number}.yaml").write_text(
            f"{_HEAD}MicroPolicy\nmetadata: {{name: p{number}}}\nspec:\n  from: [{{services: [{caller}]}}]\n"
            f"  to: [{{services: [{called}], operations: [{{methods: [GET], paths: ['/r{number}/{{id}}']}}]}}]\n"
        )
