"""The calls that are measured, and the rules that decide them: the same for whoever decides.

One workload, `s1`, is asked for in both directions: `s0` calls it, and it calls `s2`. Of the rules both of these pairs
have five; the call that is measured needs the last of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from authz.request import Direction
from tests.bench.rules import rules

if TYPE_CHECKING:
    from tests.bench.rules import Rule

TRUST_DOMAIN = "shop.example"
CALLER, WORKLOAD, DESTINATION = "s0", "s1", "s2"
A_PAIR = 5
DENIED_PATH = "/rx/42"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    caller: str
    host: str
    path: str


ASKED = {
    Direction.INBOUND: Asked(caller=CALLER, host=WORKLOAD, path=f"/r{A_PAIR - 1}/42"),
    Direction.OUTBOUND: Asked(caller=WORKLOAD, host=DESTINATION, path=f"/r{2 * A_PAIR - 1}/42"),
}


def identity(service: str) -> str:
    return f"spiffe://{TRUST_DOMAIN}/{service}"


def asked_rules(count: int) -> list[Rule]:
    """Give so many rules, those of the two pairs among them; at least 10."""
    return list(rules(count, a_pair=A_PAIR))
