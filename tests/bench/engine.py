"""What one decision costs, by the number of policies; and what a check costs from bytes to bytes, without transport.

Run by `make bench`. Sizes take turns within each round, so that the machine's drift hits all alike.
"""

from __future__ import annotations

import statistics
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.policy.document import SourceFile
from authz.policy.evaluation import evaluate
from authz.policy.index import compile_index
from authz.policy.policy_set import parse_policy_set
from authz.request import Call, Direction
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.in_force import InForce, PolicyInForce
from tests.support.check_request import check_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from authz.identity.verification import VerifiedIdentity
    from authz.policy.index import PolicyIndex
    from authz.records.decision_record import DecisionRecord

SIZES = (10, 1_000, 10_000)
ROUNDS = 5
CALLS_A_ROUND = 4_000
SERVICES = 100


def policy_set(policies: int) -> bytes:
    """Write a set of so many MicroPolicies over a fixed number of Services, `orders` calling `catalog` among them."""
    mesh = "apiVersion: authz/v1\nkind: Mesh\nmetadata: {name: shop}\nspec: {trustDomains: [shop.example]}\n"
    return "---\n".join([mesh, *_services(), *_policies(policies)]).encode()


def _services() -> Iterator[str]:
    for name in ("orders", "catalog", *(f"s{number}" for number in range(SERVICES))):
        yield (
            f"apiVersion: authz/v1\nkind: Service\nmetadata: {{name: {name}}}\n"
            f'spec: {{identities: ["spiffe://shop.example/{name}"]}}\n'
        )


def _policies(count: int) -> Iterator[str]:
    yield _policy("measured", "orders", "catalog", "/items/{id}")
    for number in range(count - 1):
        yield _policy(f"p{number}", f"s{number % SERVICES}", f"s{number // SERVICES % SERVICES}", f"/r{number}/{{id}}")


def _policy(name: str, caller: str, destination: str, path: str) -> str:
    return (
        f"apiVersion: authz/v1\nkind: MicroPolicy\nmetadata: {{name: {name}}}\nspec:\n"
        f"  from: [{{services: [{caller}]}}]\n"
        f'  to: [{{services: [{destination}], operations: [{{methods: [GET], paths: ["{path}"]}}]}}]\n'
        "  window: {opens: 2020-01-01T00:00:00Z, closes: 2099-01-01T00:00:00Z}\n"
    )


def index_of(policies: int) -> tuple[PolicyIndex, float]:
    """Load and compile a set; gives the seconds that it took, too."""
    began = time.perf_counter()
    index = compile_index(parse_policy_set([SourceFile(path="set.yaml", content=policy_set(policies))]))
    return index, time.perf_counter() - began


def main() -> None:
    rows: list[tuple[str, float, Callable[[], object]]] = []
    for size in SIZES:
        index, loading_s = index_of(size)
        rows.append((f"decision, {size} policies", loading_s, _decision(index)))
    rows.append((f"bytes to bytes, {SIZES[-1]} policies", 0.0, _check(index_of(SIZES[-1])[0])))
    taken: dict[str, list[int]] = {name: [] for name, _, _ in rows}
    for _ in range(ROUNDS):
        for name, _, once in rows:
            for _ in range(CALLS_A_ROUND):
                began = time.perf_counter_ns()
                once()
                taken[name].append(time.perf_counter_ns() - began)
    print(f"python {sys.version.split()[0]}, {ROUNDS} interleaved rounds of {CALLS_A_ROUND} calls")
    print(f"{'':34} {'p50 us':>8} {'p99 us':>8} {'load s':>8}")
    for name, loading_s, _ in rows:
        cuts = statistics.quantiles(taken[name], n=100)
        print(f"{name:34} {cuts[49] / 1000:8.1f} {cuts[98] / 1000:8.1f} {f'{loading_s:8.2f}' if loading_s else '':>8}")


def _decision(index: PolicyIndex) -> Callable[[], object]:
    call = Call(
        direction=Direction.INBOUND,
        service="catalog",
        caller=SpiffeId.parse("spiffe://shop.example/orders"),
        method="GET",
        path="/items/42?page=7",
        host="catalog",
    )
    now_ns = time.time_ns()
    assert evaluate(index, call, now_ns).policy == "measured"
    return lambda: evaluate(index, call, now_ns)


def _check(index: PolicyIndex) -> Callable[[], object]:
    now = datetime.now(UTC)
    authority = Authority.generate(TrustDomain.parse("shop.example"), now, timedelta(hours=1))
    orders = SpiffeId.parse("spiffe://shop.example/orders")
    certificate = authority.issue_x509_svid(orders, now, timedelta(hours=1)).certificate_pem
    headers = tuple((f"x-header-{number}", b"some value of a usual length") for number in range(16))
    message = check_request(certificate_pem=certificate, headers=headers).SerializeToString()
    in_force = InForce()
    in_force.policy = PolicyInForce(index=index)
    checker = Checker(workload=Workload(service="catalog", identity=_nobody), in_force=in_force, record=_written_out)
    assert b"allowed" in checker.answer(message)
    return lambda: checker.answer(message)


def _nobody() -> VerifiedIdentity | None:
    return None


def _written_out(record: DecisionRecord) -> None:
    record.json_line()


if __name__ == "__main__":
    main()
