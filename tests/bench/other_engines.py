"""Other policy engines with the same rules and calls: what an honest user of each would write.

None of them has windows: times are compared as numbers in the rule. Cedar's `like` and Casbin's `keyMatch2` are not
quite path patterns, which does not matter for these calls.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.rules import CLOSES_S, NOW_S, OPENS_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.rules import Asked, Rule

#: the path of a binary of Open Policy Agent
OPA = "OPA"
READY_WITHIN_S = 120


class Cedar:
    """Cedar through `cedarpy`: parsed policies are kept, each call is one request; a decision looks at every policy."""

    def __init__(self, rules: list[Rule]) -> None:
        import cedarpy  # noqa: PLC0415 no part of the installation

        self._cedarpy = cedarpy
        self._policies = cedarpy.PolicySet.from_str("\n".join(map(self._policy, rules)))
        self._entities = cedarpy.Entities.from_json_str("[]")

    @staticmethod
    def _policy(rule: Rule) -> str:
        return (
            f'permit(principal == Service::"{rule.caller}", action == Action::"GET", '
            f'resource == Service::"{rule.destination}") '
            f'when {{ context.path like "{rule.path.replace("{id}", "*")}" '
            f"&& context.now >= {OPENS_S} && context.now < {CLOSES_S} }};"
        )

    def decider(self, asked: Asked) -> Callable[[], bool]:
        request = {
            "principal": {"type": "Service", "id": asked.caller},
            "action": {"type": "Action", "id": "GET"},
            "resource": {"type": "Service", "id": asked.destination},
            "context": {"path": asked.path, "now": NOW_S},
        }
        return lambda: bool(self._cedarpy.is_authorized(request, self._policies, self._entities).allowed)


class Casbin:
    """Casbin in Python: one matcher over a list of policies; a decision ends at the first that matches."""

    MODEL = """
[request_definition]
r = sub, obj, act, path, now
[policy_definition]
p = sub, obj, act, path, opens, closes
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = r.sub == p.sub && r.obj == p.obj && r.act == p.act && keyMatch2(r.path, p.path) && r.now >= p.opens \
&& r.now < p.closes
"""

    def __init__(self, rules: list[Rule]) -> None:
        import casbin  # noqa: PLC0415 no part of the installation

        model = casbin.Model()
        model.load_model_from_text(self.MODEL)
        self._enforcer = casbin.Enforcer(model)
        self._enforcer.add_policies(
            [
                [rule.caller, rule.destination, "GET", rule.path.replace("{id}", ":id"), OPENS_S, CLOSES_S]
                for rule in rules
            ]
        )

    def decider(self, asked: Asked) -> Callable[[], bool]:
        return lambda: bool(self._enforcer.enforce(asked.caller, asked.destination, "GET", asked.path, NOW_S))


class OpenPolicyAgent:
    """OPA as a server on a unix socket, its rules a document indexed by caller and destination.

    What counts is the time that OPA itself says it took to evaluate: HTTP is no part of it.
    """

    POLICY = """package authz

default allow := false

allow if {
    some rule in data.rules[input.caller][input.destination].GET
    glob.match(rule.path, ["/"], input.path)
    input.now >= rule.opens
    input.now < rule.closes
}
"""

    def __init__(self, rules: list[Rule]) -> None:
        self.took_ns = 0
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        document: dict[str, Any] = {}
        for rule in rules:
            by_destination = document.setdefault(rule.caller, {})
            by_destination.setdefault(rule.destination, {}).setdefault("GET", []).append(
                {"path": rule.path.replace("{id}", "*"), "opens": OPENS_S, "closes": CLOSES_S}
            )
        (folder / "data.json").write_text(json.dumps({"rules": document}))
        (folder / "authz.rego").write_text(self.POLICY)
        self._socket = str(folder / "opa.sock")
        self.process = subprocess.Popen(
            [os.environ[OPA], "run", "--server", f"--addr=unix://{self._socket}", "--log-level=error",
             "--skip-version-check", str(folder / "data.json"), str(folder / "authz.rego")],
        )  # fmt: skip
        end_s = time.monotonic() + READY_WITHIN_S
        while not self._is_ready():
            assert self.process.poll() is None
            assert time.monotonic() < end_s
            time.sleep(0.01)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()
        self._folder.cleanup()

    def decider(self, asked: Asked) -> Callable[[], bool]:
        question = {"caller": asked.caller, "destination": asked.destination, "path": asked.path, "now": NOW_S}
        body = json.dumps({"input": question})

        def decide() -> bool:
            self._connection.request("POST", "/v1/data/authz/allow?metrics=true", body)
            answer = json.load(self._connection.getresponse())
            self.took_ns = int(answer["metrics"]["timer_rego_query_eval_ns"])
            return bool(answer["result"])

        return decide

    def _is_ready(self) -> bool:
        try:
            plain = socket.socket(socket.AF_UNIX)
            plain.connect(self._socket)
        except OSError:
            return False
        self._connection = http.client.HTTPConnection("opa")
        self._connection.sock = plain
        self._connection.request("GET", "/health")
        response = self._connection.getresponse()
        response.read()
        return response.status == 200
