"""opa-envoy-plugin with the same rules, written as one who knows how OPA indexes would write them.

The caller, the method and the first segment of the path are looked up in one document; nothing is looked through.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from authz.instant import NS_PER_S
from tests.bench.check_path.question import asked_rules, identity
from tests.bench.rules import CLOSES_S, OPENS_S

if TYPE_CHECKING:
    from pathlib import Path

POLICY = """package envoy.authz

default allow := false

attributes := input.attributes

caller := attributes.source.principal if attributes.contextExtensions.direction == "inbound"

caller := attributes.contextExtensions.workload if attributes.contextExtensions.direction == "outbound"

allow if {
    rule := data.rules[caller][attributes.request.http.method][input.parsed_path[0]]
    count(input.parsed_path) == 2
    now := time.now_ns()
    now >= rule.opens_ns
    now < rule.closes_ns
}
"""


def arguments(count: int, folder: Path, socket: str, *, logs: bool) -> list[str]:
    """Write the policy and so many rules into a folder, and give what OPA is started with."""
    document: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    for rule in asked_rules(count):
        of_caller = document.setdefault(identity(rule.caller), {"GET": {}})
        prefix = rule.path.strip("/").partition("/")[0]
        of_caller["GET"][prefix] = {"opens_ns": OPENS_S * NS_PER_S, "closes_ns": CLOSES_S * NS_PER_S}
    (folder / "data.json").write_text(json.dumps({"rules": document}))
    (folder / "authz.rego").write_text(POLICY)
    return [
        "run", "--server", "--skip-version-check", "--disable-telemetry",
        f"--addr=unix://{folder / 'api.sock'}", f"--log-level={'info' if logs else 'error'}",
        f"--set=plugins.envoy_ext_authz_grpc.addr=unix://{socket}",
        "--set=plugins.envoy_ext_authz_grpc.path=envoy/authz/allow",
        *(["--set=decision_logs.console=true"] if logs else []),
        str(folder / "data.json"), str(folder / "authz.rego"),
    ]  # fmt: skip
