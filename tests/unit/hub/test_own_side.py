"""A sidecar whose Service is proven tells of calls that this Service received or made, and of no others."""

from __future__ import annotations

from typing import Any

import pytest

from authz.hub.own_side import Sender, own_side
from authz.identity.spiffe_id import SpiffeId
from tests.support.hub_process import flow, identity, record
from tests.unit.hub.test_stores import arrival

CATALOG = Sender(
    service="catalog",
    identity=SpiffeId.parse(identity("catalog")),
    owner_of=lambda each: each.path.rpartition("/")[2].removesuffix("-canary"),
)
NOBODY = {"identity": None, "service": None, "third_party": None, "presented_by": None, "address": None}
NOWHERE = {"service": None, "third_party": None, "host": ""}


def caller(name: str, **fields: Any) -> dict[str, Any]:
    return {**NOBODY, "identity": identity(name), "service": name, **fields}


def outbound(name: str, target: str = "orders", **fields: Any) -> dict[str, Any]:
    return {
        "direction": "outbound",
        "sidecar": "catalog",
        "caller": caller(name),
        "destination": {"service": target, "third_party": None, "host": target},
        **fields,
    }


OWN: list[dict[str, Any]] = [
    {},
    {"caller": caller("anybody")},
    {"caller": NOBODY},
    {"destination": NOWHERE},
    outbound("catalog"),
    outbound("catalog", caller=caller("catalog-canary", service="catalog")),
    outbound("catalog", caller=caller("catalog", service=None)),
    outbound("catalog", caller=NOBODY),
    outbound("catalog", destination={"service": None, "third_party": "payments", "host": "api.payments.example"}),
]
OF_OTHERS: list[dict[str, Any]] = [
    {"destination": {"service": "orders", "third_party": None, "host": "orders"}},
    {"destination": {"service": None, "third_party": "payments", "host": "catalog"}},
    outbound("orders", "catalog"),
    outbound("catalog", caller=caller("orders", service="catalog")),
    outbound("catalog", caller=caller("orders", service=None)),
    outbound("catalog", caller={**NOBODY, "third_party": "partner"}),
    outbound("catalog", caller=caller("orders", identity=None)),
    outbound("catalog", caller=caller("catalog", identity="no id")),
]


@pytest.mark.parametrize("fields", OWN)
def test_its_own_are_kept(fields: dict[str, Any]) -> None:
    whole = arrival(1, flow(count=4, **fields), records=[record(1, **fields)])
    assert own_side(whole, CATALOG) == (whole, 0)


@pytest.mark.parametrize("fields", OF_OTHERS)
def test_those_of_others_are_left_out_and_counted_and_the_rest_is_kept(fields: dict[str, Any]) -> None:
    mixed = arrival(1, flow(count=4, **fields), flow(count=2), records=[record(1, **fields), record(2)])
    kept, left_out = own_side(mixed, CATALOG)
    assert left_out == 4 + 1
    assert [row[2] for row in kept.rows] == [2]
    assert {each.target for each in kept.series.values()} == {"catalog"}
    assert [int(each.decision_id, 16) for each in kept.records] == [2]
