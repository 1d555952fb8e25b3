"""What may be true of a call and cannot be told from an example: which combinations are looked at, and in which words.

A condition depends on headers, queries and what else a call has. So each one is taken as true and as false; of a few
together, every combination is looked at, of many, those that a policy depends on: one or two of them, or all but one.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Final

from authz.policy.errors import quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence, Set as AbstractSet

    from authz.policy.standing import Variable

#: 64 combinations; more conditions on one call are rare.
MAX_WHOLLY: Final = 6
#: Of different combinations in which something is so, so many are told.
MAX_TOLD: Final = 3

_Combination = frozenset["Variable"]


def assumptions(variables: AbstractSet[Variable]) -> tuple[_Combination, ...]:
    """Give the combinations to be looked at, each as what is true in it; the fewest first."""
    ordered = sorted(variables)
    sizes: Collection[int] = range(len(ordered) + 1)
    if len(ordered) > MAX_WHOLLY:
        sizes = (0, 1, 2, len(ordered) - 1, len(ordered))
    return tuple(frozenset(each) for size in sizes for each in combinations(ordered, size))


def where_words(variables: AbstractSet[Variable], known: Sequence[_Combination], found: Sequence[_Combination]) -> str:
    """Say in which of the known combinations something is so; nothing, where it is so in all of them."""
    if len(found) == len(known):
        return ""
    cases = [_case(variables, each) for each in _merged(variables, known, frozenset(found))]
    more = f", or in {len(cases) - MAX_TOLD} more cases" if len(cases) > MAX_TOLD else ""
    return " where " + ", or ".join(cases[:MAX_TOLD]) + more


def _merged(
    variables: AbstractSet[Variable], known: Sequence[_Combination], found: frozenset[_Combination]
) -> Iterator[tuple[_Combination, _Combination]]:
    """Give cases that together are the combinations found, each as what is true and what is false in it."""
    left = dict.fromkeys(each for each in known if each in found)
    while left:
        first = next(iter(left))
        true, false = set(first), variables - first
        # What can be left out without another combination coming in makes no difference.
        for each in sorted(variables):
            if all(other in found for other in _within(known, true - {each}, false - {each})):
                true.discard(each)
                false = false - {each}
        for other in _within(known, true, false):
            left.pop(other, None)
        yield frozenset(true), frozenset(false)


def _within(
    known: Sequence[_Combination], true: AbstractSet[Variable], false: AbstractSet[Variable]
) -> Iterator[_Combination]:
    return (each for each in known if true <= each and each.isdisjoint(false))


def _case(variables: AbstractSet[Variable], case: tuple[_Combination, _Combination]) -> str:
    words = []
    for which, (one, many) in zip(case, (("holds", "hold"), ("does not hold", "do not hold")), strict=True):
        texts = [_words(each, variables) for each in sorted(which)]
        if texts:
            words.append(f"{' and '.join(texts)} {one if len(texts) == 1 else many}")
    return " and ".join(words)


def _words(variable: Variable, variables: AbstractSet[Variable]) -> str:
    text = " and ".join(quoted(each) for each in variable.texts)
    if any(other.texts == variable.texts and other.guardrail is not variable.guardrail for other in variables):
        text += " of a Guardrail" if variable.guardrail else " of a rule"
    if any(other.texts == variable.texts and other.facts != variable.facts for other in variables):
        text += f" with {', '.join(variable.facts) or 'nothing'}"
    return text
