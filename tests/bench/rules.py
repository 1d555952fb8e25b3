"""The policies that engines are measured on, and the calls: the same for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from authz.policy.document import MAX_FILE_BYTES, SourceFile

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES = 1_000
#: the most rules for one caller and destination, where they are not all for one
RULES_A_PAIR = 20
OPENS, CLOSES = "2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"
OPENS_S, CLOSES_S = 1_577_836_800, 4_070_908_800
NOW_S = 1_800_000_000
CALLS = 1_000
#: what else a set may have, each for all of its rules
PLAIN, CONDITION, HOURS, MAX_WINDOW, LATER_GUARD = "", "condition", "hours", "maxWindow", "later guardrail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`caller` may GET `/rN/{id}` of `destination`, within the window that all have."""

    name: str
    caller: str
    destination: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One call and what is to be answered."""

    caller: str
    destination: str
    path: str
    allowed: bool


def rules(count: int, *, a_pair: int = RULES_A_PAIR) -> Iterator[Rule]:
    """Give so many rules, `a_pair` of them for each caller and destination."""
    for number in range(count):
        pair = number // a_pair
        caller, away = pair % SERVICES, 1 + pair // SERVICES
        yield Rule(
            name=f"r{number}",
            caller=f"s{caller}",
            destination=f"s{(caller + away) % SERVICES}",
            path=f"/r{number}/{{id}}",
        )


def asked(of: list[Rule]) -> list[Asked]:
    """Give calls by chance, the same every time: four of five are allowed, the others are to a path of no rule."""
    random = Random(1)  # noqa: S311 the same calls in every run
    found = []
    for number in range(CALLS):
        rule = random.choice(of)
        allowed = number % 5 > 0
        path = f"/r{rule.name[1:] if allowed else 'x'}/{random.randrange(10**6)}"
        found.append(Asked(caller=rule.caller, destination=rule.destination, path=path, allowed=allowed))
    return found


def source_files(of: list[Rule], also: str = PLAIN) -> list[SourceFile]:
    """Write a policy set of these rules and all Services, in files as large as they may be."""
    mesh = "apiVersion: authz/v1\nkind: Mesh\nmetadata: {name: shop}\nspec: {trustDomains: [shop.example]}\n"
    added = _ADDED.get(also, "")
    documents = [mesh, *_GUARDRAILS.get(also, ()), *map(_service, range(SERVICES))]
    documents += [_micro_policy(rule) + added for rule in of]
    a_file = MAX_FILE_BYTES // 512
    return [
        SourceFile(f"{start}.yaml", "---\n".join(documents[start : start + a_file]).encode())
        for start in range(0, len(documents), a_file)
    ]


def _service(number: int) -> str:
    return (
        f"apiVersion: authz/v1\nkind: Service\nmetadata: {{name: s{number}}}\n"
        f'spec: {{identities: ["spiffe://shop.example/s{number}"]}}\n'
    )


def _micro_policy(rule: Rule) -> str:
    return (
        f"apiVersion: authz/v1\nkind: MicroPolicy\nmetadata: {{name: {rule.name}}}\nspec:\n"
        f"  from: [{{services: [{rule.caller}]}}]\n"
        f'  to: [{{services: [{rule.destination}], operations: [{{methods: [GET], paths: ["{rule.path}"]}}]}}]\n'
        f"  window:\n    opens: {OPENS}\n    closes: {CLOSES}\n"
    )


#: A rule's document goes on with it: hours within its window, or a condition beside it.
_ADDED = {
    HOURS: '    during: [{days: [mon, tue, wed, thu, fri], from: "08:00", until: "18:00", timezone: Europe/Berlin}]\n',
    CONDITION: "  when: [\"request.headers['x-tenant'] == 'a' && caller.service != 'nobody'\"]\n",
}
#: Guardrails that match every call and forbid none of these: one for longer windows, one that opens in some months.
_GUARDRAILS = {
    MAX_WINDOW: [
        "apiVersion: authz/v1\nkind: Guardrail\nmetadata: {name: short}\nspec: {require: {maxWindow: 36500d}}\n"
    ],
    LATER_GUARD: [
        (
            "apiVersion: authz/v1\nkind: Guardrail\nmetadata: {name: later}\n"
            "spec: {window: {opens: 2027-06-01T00:00:00Z}}\n"
        )
    ],
}
