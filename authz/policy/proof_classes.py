"""The ways to prove who calls that two policy sets can tell apart at a destination.

A caller is proven by the certificate of its connection, by a token of its own beside that, or by a token that somebody
else presents: whoever presents is then judged, too.

# INVARIANT (complete): if two sets answer calls to a destination differently, they do so for one of these ways.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from authz.policy.compared_set import Features, Meaning

#: Whether the old set takes something for a proof, and whether the new one does.
Accepted: TypeAlias = tuple[bool, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofClass:
    """One way to prove who calls: a certificate, or a token, with the classes that present it where others do.

    Calls that are proven as in `like` are answered alike, unless Guardrails mean the presenters: then both are asked
    about. None, where no other way counts in the same sets.
    """

    is_token: bool
    presenters: tuple[int, ...] = ()
    like: ProofClass | None = None


_CERTIFICATE = ProofClass(is_token=False)


def proof_classes(
    features: tuple[Features, Features],
    meanings: Sequence[Meaning],
    kinds: Sequence[Hashable],
    *,
    conditions: bool,
) -> Iterator[ProofClass]:
    """Give the ways that count in one of the sets, but for those that are answered as another one is.

    `kinds` are equal for callers of whom the same counts besides rules. With `conditions` every presenter is asked
    about: what they come to may depend on who it is.
    """
    before, after = features
    like: dict[Accepted, ProofClass] = {}
    for proof, accepted in (
        (_CERTIFICATE, _both(features, (before.accepts_x509, after.accepts_x509))),
        (ProofClass(is_token=True), _both(features, (before.accepts_jwt, after.accepts_jwt))),
    ):
        if any(accepted) and accepted not in like:
            like[accepted] = proof
            yield proof
    presenters = before.presenters | after.presenters
    if not presenters:
        return
    judging = [each.callers for each in meanings if each.is_guardrail and not presenters.isdisjoint(each.callers)]
    alike: defaultdict[tuple[Accepted, Hashable, tuple[bool, ...]], list[int]] = defaultdict(list)
    for number in sorted(presenters):
        accepted = _both(features, (number in before.presenters, number in after.presenters))
        alike[accepted, kinds[number], tuple(number in each for each in judging)].append(number)
    for (accepted, _, judged), numbers in alike.items():
        known = like.get(accepted)
        # What forbids something to everyone forbids it to the caller, too.
        if known is None or (any(judged) and (conditions or not _is_everyone(judging, judged, len(kinds)))):
            yield ProofClass(is_token=True, presenters=tuple(numbers), like=known)


def _both(features: tuple[Features, Features], accepted: Accepted) -> Accepted:
    """Where a destination is in one set only, the other refuses whatever proof there is: it tells none apart."""
    before, after = features
    return (accepted[0] if before.exists else accepted[1]), (accepted[1] if after.exists else accepted[0])


def _is_everyone(judging: Sequence[frozenset[int]], judged: Sequence[bool], everyone: int) -> bool:
    return all(len(callers) == everyone for callers, here in zip(judging, judged, strict=True) if here)
