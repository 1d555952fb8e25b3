"""What is measured side by side: one table, in which a variant says how it guards, with how many rules, and its flags.

A variant whose part is not there (a flag of `authz sidecar`, a binary of OPA) is left out, with a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

#: the path of a binary of opa-envoy-plugin
OPA_ENVOY = "OPA_ENVOY"


class Guard(Enum):
    """Who decides."""

    NONE = auto()
    #: Envoy's own filter: a list that is looked through, a tree that is looked up
    RBAC_LIST = auto()
    RBAC_MATCHER = auto()
    #: somebody who says yes
    FLOOR = auto()
    PICOSEG = auto()
    OPA = auto()

    @property
    def decides(self) -> bool:
        return self not in {Guard.NONE, Guard.FLOOR}

    @property
    def asks(self) -> bool:
        return self in {Guard.FLOOR, Guard.PICOSEG, Guard.OPA}


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """`needs` are flags of `authz sidecar` without which there is no such variant; `takes` those used where known.

    `closes`: calls go on to an app, with these parts of what ends long ones; None: Envoy answers by itself.
    """

    name: str
    title: str
    guard: Guard
    rules: int = 0
    needs: tuple[tuple[str, str], ...] = ()
    takes: tuple[tuple[str, str], ...] = ()
    logs: bool = True
    closes: frozenset[str] | None = None

    def flags(self, known: Collection[str]) -> tuple[str, ...]:
        """Give the words for `authz sidecar`."""
        given = (*self.needs, *(pair for pair in self.takes if pair[0] in known))
        return tuple(word for pair in given for word in pair)

    def sockets(self, path: str, known: Collection[str]) -> tuple[str, ...]:
        """Give the unix sockets that Envoy asks on: PATH, and PATH.2 and so on for further workers."""
        words = self.flags(known)
        workers = int(words[words.index("--workers") + 1]) if "--workers" in words else 1
        return (path, *(f"{path}.{number}" for number in range(2, workers + 1)))


_TWO_WORKERS = (("--workers", "2"),)
_GRPCIO = (("--check-transport", "grpcio"),)

VARIANTS = (
    Variant(name="none", title="no authz", guard=Guard.NONE),
    Variant(name="rbac-10", title="native RBAC, list of 10", guard=Guard.RBAC_LIST, rules=10),
    Variant(name="rbac-10000", title="native RBAC, matcher, 10,000", guard=Guard.RBAC_MATCHER, rules=10_000),
    Variant(name="floor", title="do-nothing answerer", guard=Guard.FLOOR),
    Variant(name="ours-10", title="picoseg, 10", guard=Guard.PICOSEG, rules=10, takes=_TWO_WORKERS),
    Variant(name="ours-10000", title="picoseg, 10,000", guard=Guard.PICOSEG, rules=10_000, takes=_TWO_WORKERS),
    Variant(name="ours-100000", title="picoseg, 100,000", guard=Guard.PICOSEG, rules=100_000, takes=_TWO_WORKERS),
    Variant(
        name="ours-one-10000",
        title="picoseg, 10,000, one worker",
        guard=Guard.PICOSEG,
        rules=10_000,
        needs=(("--workers", "1"),),
    ),
    Variant(name="grpcio-10000", title="picoseg by grpcio, 10,000", guard=Guard.PICOSEG, rules=10_000, needs=_GRPCIO),
    Variant(name="opa-10", title="OPA, 10, no log", guard=Guard.OPA, rules=10, logs=False),
    Variant(name="opa-10000", title="OPA, 10,000, no log", guard=Guard.OPA, rules=10_000, logs=False),
    Variant(name="opa-log-10", title="OPA, 10, decision log", guard=Guard.OPA, rules=10),
    Variant(name="opa-log-10000", title="OPA, 10,000, decision log", guard=Guard.OPA, rules=10_000),
)


def chosen(
    only: Sequence[str], *, known: Collection[str], opa: str | None
) -> tuple[tuple[Variant, ...], tuple[str, ...]]:
    """Give the variants to measure, and a line for each that is left out.

    `only` are names or their first words (`ours` for all whose name begins so); none means all. `known` are the flags
    that `authz sidecar` has. Raises ValueError for a word that names none.
    """
    for word in only:
        if not any(_is_named(variant, word) for variant in VARIANTS):
            raise ValueError(f"there is no variant `{word}`; there are {', '.join(each.name for each in VARIANTS)}")
    found, left_out = [], []
    for variant in VARIANTS:
        if only and not any(_is_named(variant, word) for word in only):
            continue
        missing = [flag for flag, _ in variant.needs if flag not in known]
        if missing:
            left_out.append(f"{variant.name} is left out: `authz sidecar` has no {' and no '.join(missing)}")
        elif variant.guard is Guard.OPA and opa is None:
            left_out.append(f"{variant.name} is left out: {OPA_ENVOY} names no binary of opa-envoy-plugin")
        else:
            found.append(variant)
    return tuple(found), tuple(left_out)


def _is_named(variant: Variant, word: str) -> bool:
    return variant.name == word or variant.name.startswith(f"{word}-")
