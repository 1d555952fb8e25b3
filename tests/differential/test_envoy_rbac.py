"""Envoy's own RBAC, another program, decides every call as the engine does; where not, the difference is known."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.identity.spiffe_id import SpiffeId
from authz.policy.document import SourceFile
from authz.policy.evaluation import evaluate
from authz.policy.index import compile_index
from authz.policy.policy_set import parse_policy_set
from authz.request import Call, Direction
from tests.differential.comparison import FORMS, Case, RbacEnvoy, compare
from tests.differential.rbac_translation import Translation
from tests.support.generated_sets import OWN, as_yaml

pytestmark = pytest.mark.envoy

DIFFERENCES: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("differences.yaml").read_text("utf-8"))
EXPLAINED = Path(__file__).parents[2] / "docs/differences-from-envoy-rbac.md"


def test_a_real_envoy_decides_as_the_engine_does(tmp_path: Path) -> None:
    # 20,000 calls and more: python -m tests.differential.comparison
    done = compare(tmp_path, sets=40, calls=50, seed=7)
    assert not done.differences()
    assert sum(case.allowed for case in done.cases) > 200
    assert {"allowed", "closed", "not_yet_open", "no_policy", "malformed", "unidentified", "untrusted"} <= {
        case.reason.value for case in done.cases
    }


def document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "authz/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def test_where_envoy_differs_it_does_so_as_written(tmp_path: Path) -> None:
    documents = [
        document("Mesh", "m", {"trustDomains": [OWN]}),
        document("Service", "caller", {"identities": [f"spiffe://{OWN}/caller"]}),
    ]
    for number, each in enumerate(DIFFERENCES):
        documents.append(document("Service", f"d{number}", {"identities": [f"spiffe://{OWN}/d{number}"]}))
        target = {"services": [f"d{number}"], "operations": [each["rule"]]}
        documents.append(document("MicroPolicy", f"r{number}", {"from": [{"services": ["caller"]}], "to": [target]}))
    index = compile_index(parse_policy_set([SourceFile("set.yaml", as_yaml(documents))]))
    cases = []
    for number, each in enumerate(DIFFERENCES):
        asked = each["call"]
        call = Call(
            direction=Direction.INBOUND,
            service=f"d{number}",
            caller=SpiffeId.parse(f"spiffe://{OWN}/caller"),
            method=asked.get("method", "GET"),
            path=asked["path"] + "x" * asked.get("repeated", 0),
            host="d",
            headers=tuple((name, value.encode()) for name, value in asked.get("headers", {}).items()),
        )
        got = evaluate(index, call, 0)
        assert got.reason.value == each["engine"], each["name"]
        cases.append(Case(which="all", call=call, allowed=False, reason=got.reason))
    translation = Translation(documents)
    services = [f"d{number}" for number in range(len(DIFFERENCES))]
    configuration = {
        **{f"plain/{service}": translation.rules(service, plain=True) for service in services},
        **{f"rules/{service}": translation.rules(service) for service in services},
        "matcher": translation.matcher([f"spiffe://{OWN}/caller"]),
    }
    forms = ("plain", *FORMS)
    with RbacEnvoy(tmp_path, {"all": configuration}, datetime.now(UTC)) as envoy:
        for form in forms:
            envoy.ask(cases, form)
    for each, case in zip(DIFFERENCES, cases, strict=True):
        got = {form: {200: "allow", 403: "deny"}[case.status[form]] for form in forms}
        assert got == {"plain": each["plain"], **dict.fromkeys(FORMS, each["translated"])}, each["name"]
        assert (each["plain"] == "allow") != (each["engine"] == "allowed"), each["name"]


def test_every_difference_is_explained() -> None:
    headings = [line[4:] for line in EXPLAINED.read_text("utf-8").splitlines() if line.startswith("### ")]
    assert headings == [each["name"] for each in DIFFERENCES]
