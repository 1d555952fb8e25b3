"""The same calls through the engine and through the RBAC filter of a real Envoy, over mTLS, and what differs.

python -m tests.differential.comparison --sets 200 --calls 100
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Self

from authz.decision import Reason, Verdict
from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.policy.evaluation import evaluate
from authz.policy.index import compile_index
from authz.policy.policy_set import parse_policy_set
from authz.request import Call, Direction
from tests.differential.rbac_translation import DESTINATION, HTTP_RBAC, Translation
from tests.support.envoy_process import PATIENCE_S, EnvoyProcess
from tests.support.generated_sets import FEDERATED, FOREIGN, OTHER_OWN, OWN, GeneratedSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from authz.policy.index import PolicyIndex

#: the header by which the test's listener knows the set and the form of its translation
WHICH = "x-which"
FORMS = ("rules", "matcher")
#: the header of what RBAC let through
ALLOWED = b"x-allowed"
#: windows begin and end so far from each other, and never nearer to now than half of it
EDGE = timedelta(minutes=20)
#: how many are kept of the calls that chance makes most of
SPARED = {Reason.NO_POLICY: 0.15, Reason.MALFORMED: 0.4, Reason.UNTRUSTED: 0.5}
#: requests that are under way on one connection at a time
PIPELINED = 64

_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n(.*?)\r\n\r\n", re.DOTALL)
_LENGTH = re.compile(rb"(?i)content-length: (\d+)")


class SetAroundNow(GeneratedSet):
    """A set whose windows open and close around an instant, none of them near it."""

    def __init__(self, random: Random, now: datetime) -> None:
        self._epoch = now - 5.5 * EDGE
        super().__init__(random, hours=0, evidence=0)
        # What Envoy's RBAC has no words for is left out: Guardrails, conditions, observe mode, tokens.
        self.documents = [each for each in self.documents if each["kind"] != "Guardrail"]
        for each in self.documents:
            for name in ("when", "mode", "defaults"):
                each["spec"].pop(name, None)

    def _instant(self, days: int) -> str:
        return (self._epoch + days * EDGE).isoformat(timespec="milliseconds")

    def inbound_call(self) -> Call:
        """Give a call to one of the Services that a client of HTTP/1.1 can write down."""
        while True:
            call = self.call()
            call = replace(
                call,
                direction=Direction.INBOUND,
                service=self._random.choice(self.services),
                serial=None,
                headers=tuple(header for header in call.headers if header[0] == "content-type"),
            )
            # Whitespace would end the line's parts, and a CONNECT is no request to this server.
            if call.method not in {"", "CONNECT"} and call.path and not re.search(r"[\s#]", call.path + call.host):
                return call


@dataclass(kw_only=True)
class Case:
    """One call, and how the engine and Envoy have answered it; `status` by form."""

    which: str
    call: Call
    allowed: bool
    reason: Reason
    status: dict[str, int] = field(default_factory=dict)

    def differs(self, form: str) -> bool:
        """Whether Envoy's answer is not the engine's; what Envoy refuses by itself may only be a denied call."""
        return (self.status[form] == 200) != self.allowed

    def request(self, form: str) -> bytes:
        lines = [
            f"{self.call.method} {self.call.path} HTTP/1.1",
            f"host: {self.call.host}",
            f"{WHICH}: {self.which} {form}",
            f"{DESTINATION}: {self.call.service}",
            *(f"{name}: {value.decode('latin-1')}" for name, value in self.call.headers),
        ]
        return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


class RbacEnvoy:
    """An Envoy whose routes are the translations; the caller is whom the client's certificate says."""

    def __init__(self, folder: Path, configurations: dict[str, dict[str, dict[str, Any]]], now: datetime) -> None:
        self._now = now
        self._authorities = {
            domain: Authority.generate(TrustDomain.parse(domain), now, timedelta(hours=2))
            for domain in (OWN, OTHER_OWN, FEDERATED, FOREIGN)
        }
        self._folder = folder
        self._socket = str(folder / "rbac.sock")
        self._clients: dict[str, ssl.SSLContext] = {}
        admin = str(folder / "admin.sock")
        bootstrap = folder / "rbac.json"
        bootstrap.write_text(json.dumps(self._bootstrap(configurations, admin)))
        self._process = EnvoyProcess(bootstrap, admin)

    def __enter__(self) -> Self:
        self._process.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.__exit__()

    def ask(self, cases: Iterable[Case], form: str) -> None:
        """Send the cases of every caller over its own connections, and write down the status of each."""
        by_caller = defaultdict(list)
        for case in cases:
            by_caller["" if case.call.caller is None else str(case.call.caller)].append(case)
        for caller, some in by_caller.items():
            self._ask_as(caller, some, form)

    def _ask_as(self, caller: str, cases: list[Case], form: str) -> None:
        waiting = list(reversed(cases))
        while waiting:  # a request that is none ends its connection; the ones behind it come again
            with self._connection(caller) as connection:
                while waiting:
                    sent = waiting[: -PIPELINED - 1 : -1]
                    connection.sendall(b"".join(case.request(form) for case in sent))
                    answered = 0
                    for case, status in zip(sent, _statuses(connection, sent), strict=False):
                        case.status[form] = status
                        answered += 1
                    assert answered, f"no answer to {sent[0]}"
                    del waiting[-answered:]
                    if answered < len(sent) or sent[-1].status[form] == 400:
                        break

    def _connection(self, caller: str) -> ssl.SSLSocket:
        plain = socket.socket(socket.AF_UNIX)
        plain.settimeout(PATIENCE_S)
        plain.connect(self._socket)
        return self._client(caller).wrap_socket(plain, suppress_ragged_eofs=True)

    def _client(self, caller: str) -> ssl.SSLContext:
        if caller not in self._clients:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            if caller:
                svid = self._svid(caller)
                file = self._folder / "client.pem"
                file.write_bytes(svid.certificate_pem + svid.key_pem)
                context.load_cert_chain(file)
            self._clients[caller] = context
        return self._clients[caller]

    def _svid(self, caller: str) -> Any:
        spiffe_id = SpiffeId.parse(caller)
        authority = self._authorities[spiffe_id.trust_domain.name]
        return authority.issue_x509_svid(spiffe_id, self._now, timedelta(hours=1))

    # --- configuration

    def _bootstrap(self, configurations: dict[str, dict[str, dict[str, Any]]], admin: str) -> dict[str, Any]:
        routes = [
            {
                "match": {
                    "prefix": "/",
                    "headers": [
                        {"name": WHICH, "string_match": {"exact": f"{which} {form}"}},
                        *([{"name": DESTINATION, "string_match": {"exact": service}}] if service else []),
                    ],
                },
                "direct_response": {"status": 200},
                "response_headers_to_add": [{"header": {"key": ALLOWED.decode(), "value": "yes"}}],
                "typed_per_filter_config": {
                    "envoy.filters.http.rbac": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
                        "rbac": {key: value for key, value in rbac.items() if key != "@type"},
                    }
                },
            }
            for which, forms in configurations.items()
            for key, rbac in forms.items()
            for form, _, service in [key.partition("/")]
        ]
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
            ".HttpConnectionManager",
            "stat_prefix": "rbac",
            "normalize_path": False,
            "merge_slashes": False,
            "delayed_close_timeout": "0s",
            "http_protocol_options": {"allow_custom_methods": True},
            "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [
                {
                    "name": "envoy.filters.http.rbac",
                    "typed_config": {"@type": HTTP_RBAC, "rules": {"action": "ALLOW", "policies": {}}},
                },
                {
                    "name": "router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                },
            ],
        }
        server = self._svid(f"spiffe://{OWN}/server")
        tls = {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": False,
            "common_tls_context": {
                "tls_certificates": [
                    {
                        "certificate_chain": {"inline_string": server.certificate_pem.decode()},
                        "private_key": {"inline_string": server.key_pem.decode()},
                    }
                ],
                "validation_context": {
                    "trusted_ca": {
                        "inline_string": "".join(each.certificate_pem.decode() for each in self._authorities.values())
                    }
                },
            },
        }
        listener = {
            "name": "rbac",
            "address": {"pipe": {"path": self._socket}},
            "filter_chains": [
                {
                    "filters": [{"name": "http", "typed_config": manager}],
                    "transport_socket": {"name": "tls", "typed_config": tls},
                }
            ],
        }
        return {
            "admin": {"address": {"pipe": {"path": admin}}},
            "static_resources": {"listeners": [listener]},
            # The expressions for what is malformed are longer than Envoy allows by default.
            "layered_runtime": {
                "layers": [
                    {
                        "name": "static",
                        "static_layer": {
                            "re2.max_program_size.error_level": 100_000,
                            "re2.max_program_size.warn_level": 100_000,
                        },
                    }
                ]
            },
        }


def _statuses(connection: ssl.SSLSocket, sent: list[Case]) -> Iterator[int]:
    """Give the statuses of the answers, in order; ends early where the connection does."""
    data = b""
    for case in sent:
        while (head := _HEAD.match(data)) is None:
            more = connection.recv(65536)
            if not more:
                return
            data += more
        length = _LENGTH.search(head[2])
        end = head.end() + (int(length[1]) if length and case.call.method != "HEAD" else 0)
        while len(data) < end:
            more = connection.recv(65536)
            if not more:
                break
            data += more
        data = data[end:]
        status = int(head[1])
        yield 200 if ALLOWED in head[2] else 403 if status == 200 else status  # a denied gRPC call gets 200, too
        if status == 400:  # no request: the connection ends, and what is behind it is not read
            return


@dataclass(kw_only=True)
class Comparison:
    """What came of a run: every case, with the forms that it was put to."""

    cases: list[Case]
    envoy_s: float

    def differences(self) -> list[str]:
        return [
            f"{form}: engine {case.reason.value}, Envoy {case.status[form]}: {case.which} {case.call}"
            for case in self.cases
            for form in FORMS
            if case.differs(form)
        ]

    def __str__(self) -> str:
        reasons = Counter(case.reason.value for case in self.cases)
        statuses = Counter(case.status[form] for case in self.cases for form in FORMS)
        return (
            f"{len(self.cases)} calls in each of {len(FORMS)} forms, {len(self.differences())} differences; "
            f"Envoy {self.envoy_s:.1f} s\n"
            f"engine: {', '.join(f'{count} {reason}' for reason, count in reasons.most_common())}\n"
            f"Envoy: {', '.join(f'{count} x {status}' for status, count in statuses.most_common())}"
        )


def compare(folder: Path, *, sets: int, calls: int, seed: int) -> Comparison:
    """Ask the engine and a real Envoy the same questions; the sets and calls are those of the seed."""
    now = datetime.now(UTC)
    cases, configurations = [], {}
    for number in range(sets):
        made = SetAroundNow(Random(f"{seed} {number}"), now)  # noqa: S311 sets by chance, the same for a seed
        index = compile_index(parse_policy_set(made.files()))
        asked = list(islice(_telling_cases(made, index, str(number)), calls))
        cases += asked
        translation = Translation(made.documents)
        callers = {str(case.call.caller) for case in asked if case.call.caller is not None}
        configurations[str(number)] = {
            **{f"rules/{service}": translation.rules(service) for service in made.services},
            "matcher": translation.matcher(sorted(callers)),
        }
    with RbacEnvoy(folder, configurations, now) as envoy:
        began = time.perf_counter()
        for form in FORMS:
            envoy.ask(cases, form)
        envoy_s = time.perf_counter() - began
    # No window opens or closes between the engine's answer and Envoy's.
    assert datetime.now(UTC) - now < EDGE / 2
    return Comparison(cases=cases, envoy_s=envoy_s)


def _telling_cases(made: SetAroundNow, index: PolicyIndex, which: str) -> Iterator[Case]:
    """Give calls without end, most of those left out that no rule speaks of: by chance nearly all are of that kind."""
    random = Random(which)  # noqa: S311 same
    while True:
        call = made.inbound_call()
        got = evaluate(index, call, time.time_ns())
        if random.random() < SPARED.get(got.reason, 1.0):
            yield Case(which=which, call=call, allowed=got.verdict is Verdict.ALLOW, reason=got.reason)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--calls", type=int, default=100, help="for each set")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = compare(Path(folder), sets=arguments.sets, calls=arguments.calls, seed=arguments.seed)
    print(done)
    for difference in islice(done.differences(), 20):
        print(difference)
    return 1 if done.differences() else 0


if __name__ == "__main__":
    sys.exit(main())
