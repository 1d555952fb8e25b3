"""Windows that open and close are told of once, when they do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from authz.hub.known_policies import Known
from authz.hub.window_stages import WindowStages
from authz.insight.window_dates import windows_of
from authz.policy.document import SourceFile
from authz.policy.index import compile_index
from authz.policy.policy_set import parse_policy_set
from authz.policy.window import NS_PER_DAY, parse_instant_ns

if TYPE_CHECKING:
    from authz.hub.events import Event

OPENS, CLOSES = parse_instant_ns("2027-01-01T00:00:00Z"), parse_instant_ns("2027-03-01T00:00:00Z")


def known(closes: str = "2027-03-01T00:00:00Z") -> Known:
    text = f"""\
apiVersion: authz/v1
kind: Mesh
metadata: {{name: mesh}}
spec: {{trustDomains: [shop.example]}}
---
apiVersion: authz/v1
kind: ThirdParty
metadata: {{name: acme}}
spec:
  hosts: [api.acme.example]
  window: {{opens: "2027-01-01T00:00:00Z", closes: "{closes}"}}
"""
    policy_set = parse_policy_set([SourceFile(path="set.yaml", content=text.encode())])
    return Known(policy_set=policy_set, index=compile_index(policy_set), windows=windows_of(policy_set))


def states(events: list[Event]) -> list[tuple[str, str]]:
    return [(event.data["name"], event.data["state"]) for event in events]


def test_each_stage_is_told_once_when_it_begins() -> None:
    stages, policies = WindowStages(), known()
    instants = (OPENS - 1, OPENS, OPENS + 1, CLOSES - 14 * NS_PER_DAY, CLOSES - 1, CLOSES, CLOSES + NS_PER_DAY)
    told = [states(list(stages.events(policies, at_ns))) for at_ns in instants]
    assert told == [[], [("acme", "open")], [], [("acme", "closing")], [], [("acme", "ended")], []]


def test_an_end_that_is_moved_is_told() -> None:
    stages = WindowStages()
    assert states(list(stages.events(known(), OPENS + NS_PER_DAY))) == []
    assert states(list(stages.events(known("2027-01-02T00:00:00Z"), OPENS + NS_PER_DAY))) == [("acme", "ended")]


def test_without_policies_nothing_is_told() -> None:
    assert list(WindowStages().events(None, OPENS)) == []
