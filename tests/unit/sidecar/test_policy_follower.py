"""What the follower does by the clock: hours are worked out anew in time, whatever stands in the folder by then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.decision import Reason
from authz.identity.spiffe_id import SpiffeId
from authz.policy.evaluation import evaluate
from authz.policy.window import NS_PER_DAY, parse_instant_ns
from authz.request import Call, Direction
from authz.sidecar.control.policy_follower import PolicyFollower
from authz.sidecar.in_force import InForce
from tests.support.policy_texts import MESH, joined, rule, service

if TYPE_CHECKING:
    from pathlib import Path

START_NS = parse_instant_ns("2026-06-01T09:00:00Z")  # a Monday
HOURS = ', window: {during: [{days: [mon], from: "08:00", until: "18:00", timezone: UTC}]}'
CALL = Call(
    direction=Direction.INBOUND,
    service="b",
    caller=SpiffeId.parse("spiffe://shop.example/a"),
    method="GET",
    path="/x",
    host="b",
)


class Clock:
    def __init__(self) -> None:
        self.now_ns = START_NS

    def __call__(self) -> int:
        return self.now_ns


def followed(folder: Path, clock: Clock, more: str = HOURS) -> tuple[InForce, PolicyFollower]:
    (folder / "set.yaml").write_bytes(joined(MESH, service("a"), service("b"), rule("r", more=more)))
    in_force = InForce()
    follower = PolicyFollower(folder=str(folder), in_force=in_force, state=None, changed=lambda _: None, clock=clock)
    follower.load()
    return in_force, follower


def answered(in_force: InForce, at_ns: int) -> tuple[Reason, int | None]:
    assert in_force.policy.index is not None
    decision = evaluate(in_force.policy.index, CALL, at_ns)
    return decision.reason, decision.valid_until_ns


def test_hours_are_worked_out_anew_every_day(tmp_path: Path) -> None:
    clock = Clock()
    in_force, follower = followed(tmp_path, clock)
    first = in_force.policy.index
    assert answered(in_force, START_NS) == (Reason.ALLOWED, START_NS + 9 * 3600 * 10**9)
    clock.now_ns += NS_PER_DAY - 1
    follower.load()
    assert in_force.policy.index is first
    clock.now_ns += 1
    follower.load()
    assert in_force.policy.index is not first
    assert in_force.policy.revision == first.revision  # type: ignore[union-attr]


def test_past_the_horizon_nothing_is_allowed_until_they_are(tmp_path: Path) -> None:
    clock = Clock()
    in_force, follower = followed(tmp_path, clock)
    clock.now_ns += 70 * 7 * NS_PER_DAY  # a Monday again
    assert answered(in_force, clock.now_ns)[0] is Reason.OUTSIDE_HOURS
    follower.load()
    assert answered(in_force, clock.now_ns)[0] is Reason.ALLOWED


def test_also_while_a_set_with_faults_stands_in_the_folder(tmp_path: Path) -> None:
    clock = Clock()
    in_force, follower = followed(tmp_path, clock)
    revision = in_force.policy.revision
    (tmp_path / "set.yaml").write_text("kind: [")
    follower.load()
    faults = in_force.policy.faults
    clock.now_ns += 70 * 7 * NS_PER_DAY
    follower.load()
    assert answered(in_force, clock.now_ns)[0] is Reason.ALLOWED
    assert (in_force.policy.revision, in_force.policy.faults) == (revision, faults)
    assert faults


def test_also_when_the_clock_is_set_back(tmp_path: Path) -> None:
    clock = Clock()
    in_force, follower = followed(tmp_path, clock)
    clock.now_ns -= 70 * 7 * NS_PER_DAY
    follower.load()
    assert answered(in_force, clock.now_ns)[0] is Reason.ALLOWED


def test_a_set_without_hours_is_compiled_once(tmp_path: Path) -> None:
    clock = Clock()
    in_force, follower = followed(tmp_path, clock, more="")
    first = in_force.policy.index
    clock.now_ns += 70 * 7 * NS_PER_DAY
    follower.load()
    assert in_force.policy.index is first
