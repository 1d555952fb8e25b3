"""What a worker refuses without deciding, and what must not leave without its record."""

from __future__ import annotations

import pytest
from envoy.service.auth.v3 import external_auth_pb2

from authz.decision import Reason
from authz.policy.index import compile_index
from authz.sidecar.backoff import Backoff
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.check.guarded_answer import CHECKS_A_LOOK, SHED_TOGETHER, GuardedAnswer, RingRecorder
from authz.sidecar.check.overload import OWN_WORK_S, Overload
from authz.sidecar.check.ring_entry import RECORD
from authz.sidecar.in_force import InForce, PolicyInForce
from authz.sidecar.record_ring import RingConsumer, RingProducer, ring_memory
from authz.sidecar.settings import Audit
from authz.sidecar.worker_cells import WorkerCells
from tests.support.certificates import NOW_NS, SPIFFE_ID, leaf, pem
from tests.support.check_request import check_request
from tests.support.decision_record import unpack_decision
from tests.support.policy_sets import document, parsed, service

SET = parsed(
    document("Mesh", "m", "{trustDomains: [shop.example]}"),
    service("orders", SPIFFE_ID),
    service("catalog"),
    document("MicroPolicy", "r", "{from: [{services: [orders]}], to: [{services: [catalog], operations: all}]}"),
)
CHECK = check_request(certificate_pem=pem(leaf())).SerializeToString()


class Guarded:
    """A worker's answer over a ring that holds a few records."""

    def __init__(self, audit: Audit) -> None:
        self.now_s = 100.0
        memory = ring_memory(4096)
        self.consumer = RingConsumer(memory)
        self.overload = Overload()
        self.cell = WorkerCells(1).cells[0]
        strict = audit is Audit.STRICT
        in_force = InForce()
        in_force.policy = PolicyInForce(index=compile_index(SET))
        checker = Checker(
            workload=Workload(service="catalog", identity=lambda: None),
            in_force=in_force,
            record=RingRecorder(RingProducer(memory, wake=lambda: None), cell=self.cell, strict=strict),
            strict=strict,
            clock=lambda: NOW_NS,
        )
        self._answer = GuardedAnswer(
            checker.answer, checker.shed, cell=self.cell, overload=self.overload, clock=lambda: self.now_s
        )

    def reason(self) -> str:
        """Give the reason of one answer, which is a 503 if it is `overloaded`."""
        response = external_auth_pb2.CheckResponse.FromString(self._answer(CHECK))
        reason: str = response.dynamic_metadata["reason"]
        overloaded = (response.status.code, response.denied_response.status.code) == (14, 503)
        assert overloaded == (reason == "overloaded")
        return reason


def test_strict_answers_what_is_recorded_and_nothing_else() -> None:
    guarded = Guarded(Audit.STRICT)
    reasons = [guarded.reason() for _ in range(20)]
    recorded = len(guarded.consumer.take())
    assert 0 < recorded < 20
    assert reasons == ["allowed"] * recorded + ["overloaded"] * (20 - recorded)
    assert guarded.cell.refused == 20 - recorded
    guarded.consumer.commit(guarded.consumer.take()[-1].end)
    assert guarded.reason() == "allowed"


def test_best_effort_answers_all_and_counts_what_is_lost() -> None:
    guarded = Guarded(Audit.BEST_EFFORT)
    assert [guarded.reason() for _ in range(20)] == ["allowed"] * 20
    assert guarded.consumer.lost == 20 - len(guarded.consumer.take())
    assert guarded.cell.refused == 0


def test_what_is_shed_is_recorded() -> None:
    guarded = Guarded(Audit.BEST_EFFORT)
    for _ in range(2):
        guarded.overload.observe(1.0)
    assert guarded.reason() == "overloaded"
    (entry,) = guarded.consumer.take()
    record = unpack_decision(entry.record[len(RECORD) :], "catalog")
    assert (record.decision.reason, record.call.caller) == (Reason.OVERLOADED, None)


@pytest.mark.parametrize(
    ("late_s", "on"),
    [
        ((0.09, 0.09, 0.09), False),
        ((0.5,), False),
        ((0.11, 0.05, 0.11), False),
        ((0.11, 0.11), True),
        ((0.11, 0.11, 0.05), True),
        ((0.11, 0.11, 0.019), False),
        ((0.11, 0.11, 0.019, 0.11), False),
    ],
)
def test_a_worker_that_is_late_again_and_again_refuses_until_it_is_on_time(
    late_s: tuple[float, ...], *, on: bool
) -> None:
    guarded = Guarded(Audit.BEST_EFFORT)
    for late in late_s:
        guarded.overload.observe(late)
    assert guarded.reason() == ("overloaded" if on else "allowed")
    assert guarded.cell.refused == int(on)


def test_a_worker_that_the_machine_leaves_no_time_is_late_and_refuses_nothing() -> None:
    guarded = Guarded(Audit.BEST_EFFORT)
    for _ in range(10):
        guarded.overload.observe(1.0, spent_s=0.9 * OWN_WORK_S)
        assert guarded.reason() == "allowed"
    guarded.overload.observe(1.0, spent_s=OWN_WORK_S)
    assert guarded.reason() == "allowed", "once is not lasting"
    guarded.overload.observe(1.0, spent_s=OWN_WORK_S)
    assert guarded.reason() == "overloaded"


def test_a_worker_that_the_machine_leaves_no_time_and_peers_that_wait_for_it_are_an_overload() -> None:
    overload = Overload()
    for _ in range(2):
        overload.observe(1.0, lag_s=0.2, slept=False, spent_s=0.0)
    assert overload.on


def test_of_what_is_shed_together_one_is_decided_one_recorded_and_all_counted() -> None:
    guarded = Guarded(Audit.BEST_EFFORT)
    for _ in range(2):
        guarded.overload.observe(1.0)
    assert [guarded.reason() for _ in range(SHED_TOGETHER)] == ["overloaded"] * (SHED_TOGETHER - 1) + ["allowed"]
    records = [unpack_decision(each.record[len(RECORD) :], "catalog") for each in guarded.consumer.take()]
    assert [each.decision.reason for each in records] == [Reason.OVERLOADED, Reason.ALLOWED]
    assert guarded.cell.refused == SHED_TOGETHER - 1


def test_an_iteration_that_answers_for_too_long_refuses_the_rest_of_it() -> None:
    guarded = Guarded(Audit.BEST_EFFORT)
    guarded.overload.observe(0.0, next_s=guarded.now_s + 0.1)
    reasons = []
    for _ in range(4 * CHECKS_A_LOOK):
        guarded.now_s += 0.2 / CHECKS_A_LOOK
        reasons.append(guarded.reason())
    first = reasons.index("overloaded")
    assert 0 < first <= 2 * CHECKS_A_LOOK
    assert reasons[first:].count("allowed") == (len(reasons) - first) // SHED_TOGETHER
    guarded.overload.observe(0.01)
    assert guarded.reason() == "allowed"


def test_a_machine_that_stood_still_sheds_nothing() -> None:
    guarded = Guarded(Audit.BEST_EFFORT)
    guarded.overload.observe(0.0, next_s=guarded.now_s + 0.1)
    guarded.now_s += 5.0
    assert {guarded.reason() for _ in range(3 * CHECKS_A_LOOK)} == {"allowed"}
    guarded.overload.observe(5.0)
    assert guarded.reason() == "allowed"


@pytest.mark.parametrize(("slept", "on"), [(False, True), (True, False)])
def test_checks_that_wait_in_the_peer_are_an_overload_only_of_a_worker_that_never_sleeps(
    *, slept: bool, on: bool
) -> None:
    overload = Overload()
    for _ in range(3):
        overload.observe(0.01, lag_s=0.2, slept=slept)
    assert overload.on is on


def test_an_overload_lasts_while_a_peer_waits_and_much_is_refused_and_ends_at_once_with_either() -> None:
    overload = Overload()

    def is_on_after(times: int, *, lag_s: float, refused: int) -> bool:
        for _ in range(times):
            overload.observe(0.0, lag_s=lag_s, refused=refused, slept=True)
        return overload.on

    for _ in range(2):
        overload.observe(0.0, lag_s=0.2, slept=False)
    assert is_on_after(50, lag_s=0.05, refused=1000)
    assert is_on_after(9, lag_s=0.2, refused=0)
    assert is_on_after(1, lag_s=0.2, refused=1000), "it asks in bursts"
    assert not is_on_after(10, lag_s=0.2, refused=0)
    for _ in range(2):
        overload.observe(0.0, lag_s=0.2, slept=False)
    assert not is_on_after(1, lag_s=0.0, refused=1000)


def test_who_ends_again_and_again_is_started_ever_later_until_it_has_lasted() -> None:
    backoff, now_s, delays = Backoff(), 100.0, []
    for _ in range(9):
        backoff.ended(now_s)
        delays.append(round(backoff.due_s - now_s, 3))
        now_s += 0.1
    assert delays == [0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    backoff.ended(now_s + 60)
    assert backoff.due_s == now_s + 60
