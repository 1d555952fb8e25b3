"""From a sidecar to a hub: every decision is counted once, whoever is killed and whatever is full."""

from __future__ import annotations

import collections
import os
import signal
from typing import TYPE_CHECKING

import pytest

from authz.request import Direction
from tests.integration.test_sidecar_processes import ASKED, Caller, another, calling, only
from tests.support.check_request import check_request
from tests.support.conditions import eventually
from tests.support.intake import Intake
from tests.support.policy_sets import ORDERS_AND_CATALOG, ORDERS_READ_CATALOG, write
from tests.support.sidecar_process import SidecarProcess, ask, reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PATIENCE_S = 150


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., SidecarProcess]]:
    started: list[SidecarProcess] = []
    policies = tmp_path / "policies"
    write(policies, *ORDERS_AND_CATALOG, ORDERS_READ_CATALOG)

    def starter(*arguments: str, **settings: object) -> SidecarProcess:
        state = str(tmp_path / "state")
        words = ("--workers", "2", "--state", state, *arguments)
        given = {"workers": 2, "state": state, **settings} if settings else None
        sidecar = SidecarProcess(*words, service="orders", policies=policies, folder=tmp_path, settings=given)
        started.append(sidecar)
        sidecar.wait_for("READY=1")
        return sidecar

    yield starter
    for process in started:
        process.__exit__()


def answered(callers: tuple[Caller, ...]) -> list[str]:
    return [one for caller in callers for one in caller.decision_ids]


def test_every_decision_reaches_the_hub_in_one_flow(start: Callable[..., SidecarProcess]) -> None:
    with Intake() as hub:
        sidecar = start("--hub", hub.url)
        with calling(sidecar) as callers:
            assert all(caller.answered(200) for caller in callers)
        many = len(answered(callers))
        assert eventually(lambda: hub.taken.total("count") == many, PATIENCE_S), hub.taken.total("count")
        assert sidecar.stop() == 0
    (key,) = {flow.key for batch in hub.taken.in_order for flow in batch.flows}
    assert (key.direction, key.reason, key.route, key.method) == (Direction.OUTBOUND, "allowed", "/items/{id}", "GET")
    assert (key.caller.identity, key.destination.service) == ("spiffe://shop.example/orders", "catalog")
    assert [batch.sequence for batch in hub.taken.in_order] == list(range(1, len(hub.taken.batches) + 1))
    assert hub.taken.again == hub.taken.status("lost") == hub.taken.status("dropped") == 0


def test_control_may_be_killed_at_any_time_and_every_decision_is_counted_once(
    start: Callable[..., SidecarProcess],
) -> None:
    with Intake(answers=[503, 0, 200, 0, 503]) as hub:
        sidecar = start("--hub", hub.url)
        with calling(sidecar) as callers:
            for _ in range(6):
                assert all(caller.answered(150) for caller in callers)
                before = only(sidecar, "authz-control")
                os.kill(before, signal.SIGKILL)
                assert another(sidecar, "authz-control", before)
            assert all(caller.answered(100) for caller in callers)
        many = len(answered(callers))
        assert eventually(lambda: hub.taken.total("count") >= many, PATIENCE_S)
        assert sidecar.stop() == 0
        assert [caller.errors for caller in callers] == [[], []]
        assert hub.taken.total("count") == many
        assert hub.taken.status("lost") == 0


def test_a_denial_reaches_the_hub_in_full_and_soon(start: Callable[..., SidecarProcess]) -> None:
    with Intake() as hub:
        sidecar = start("--hub", hub.url)
        with sidecar.channel() as channel:
            denied = ask(channel, check_request(direction="outbound", method="DELETE"))
            assert reason(denied) == "no_policy"
        decision_id = str(denied.dynamic_metadata["decision_id"])
        assert eventually(lambda: decision_id in {record.decision_id for record in hub.taken.records}, PATIENCE_S)
        assert not hub.taken.total("count")  # its interval has not ended
        (record,) = [one for one in hub.taken.records if one.decision_id == decision_id]
        assert (record.method, record.reason, record.sidecar) == ("DELETE", "no_policy", "orders")


def test_what_a_hub_that_is_down_did_not_hear_waits_on_disk_beyond_the_sidecars_end(
    start: Callable[..., SidecarProcess],
) -> None:
    with Intake() as hub:
        port = hub.port
    first = start("--hub", hub.url)
    with calling(first) as callers:
        assert all(caller.answered(100) for caller in callers)
    assert first.stop() == 0
    with Intake(port=port) as hub:
        second = start("--hub", hub.url)
        many = len(answered(callers))
        assert eventually(lambda: hub.taken.total("count") == many, PATIENCE_S)
        assert second.stop() == 0
    assert len({batch.boot for batch in hub.taken.in_order}) >= 1


def test_a_batch_that_the_hub_refuses_for_good_is_set_aside_and_its_decisions_are_counted_as_dropped(
    start: Callable[..., SidecarProcess], tmp_path: Path
) -> None:
    with Intake(answers=[422]) as hub:
        sidecar = start("--hub", hub.url)
        for _ in range(10):
            assert reason(sidecar.check(ASKED)) == "allowed"
        assert eventually((tmp_path / "state" / "spool" / "refused.json.gz").exists, PATIENCE_S)
        assert eventually(lambda: hub.taken.total("count") + hub.taken.status("dropped") == 10, PATIENCE_S)
        assert sidecar.stop() == 0


def test_the_token_is_shown_and_read_anew(start: Callable[..., SidecarProcess], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    with Intake() as hub:
        sidecar = start("--hub", hub.url, "--hub-token-file", str(token))
        assert eventually(lambda: len(hub.headers) > 0, PATIENCE_S)
        token.write_text("second")
        seen = len(hub.headers)
        assert reason(sidecar.check(check_request(direction="outbound", method="PUT"))) == "no_policy"
        assert eventually(lambda: len(hub.headers) > seen, PATIENCE_S)
        assert hub.headers[0]["Authorization"] == "Bearer first"
        assert collections.Counter(each["Authorization"] for each in hub.headers)["Bearer second"] >= 1
