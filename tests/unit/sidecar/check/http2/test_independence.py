"""The package is one that another program could take: it imports nothing of authz but itself and the root of errors."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[5] / "authz/sidecar/check/http2"


def test_it_imports_nothing_of_authz_but_itself_and_the_root_of_errors() -> None:
    modules = sorted(PACKAGE.glob("*.py"))
    assert len(modules) > 10
    imported = set()
    for module in modules:
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
            elif isinstance(node, ast.Import):
                imported.update(each.name for each in node.names)
    ours = {
        name for name in imported if name.split(".")[0] == "authz" and not name.startswith("authz.sidecar.check.http2")
    }
    assert ours == {"authz.errors"}
