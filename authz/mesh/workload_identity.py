"""Which SPIFFE ID a workload of the local mesh gets: one that the policy set gives to it and to nobody else.

The first exact identity, where there is one. Where there are only patterns, the pattern with the workload's name in
the place of `*` and `**`; if that very ID belongs to another owner (an exact entry beats a pattern, a more literal
pattern a less literal one), the name with a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from authz.identity.errors import IdentityError
from authz.identity.spiffe_id import SpiffeId
from authz.mesh.errors import MeshError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: With so many of them taken, the patterns are somebody else's in all but name.
_MAX_ATTEMPTS = 100


class Pattern(Protocol):
    """An identity entry of a Service or ThirdParty; its text is what the policy file says."""

    @property
    def exact(self) -> SpiffeId | None:
        """The one ID that it stands for, None if it is a pattern."""


def identity_of(name: str, entries: Sequence[Pattern], *, owner: Callable[[SpiffeId], str | None]) -> SpiffeId | None:
    """Give the SPIFFE ID of a workload; None if it has no identities, MeshError if every one of them is taken.

    `owner` gives the name of the Service or ThirdParty that an ID belongs to.
    """
    if not entries:
        return None
    for entry in entries:
        if entry.exact is not None:
            return entry.exact
    for candidate in _candidates(name, [str(entry) for entry in entries]):
        if owner(candidate) == name:
            return candidate
    raise MeshError(f"`{name}`: no SPIFFE ID can be made from its identity patterns that is not somebody else's")


def _candidates(name: str, patterns: Sequence[str]) -> Iterator[SpiffeId]:
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        segment = name if attempt == 1 else f"{name}-{attempt}"
        for pattern in patterns:
            scheme, _, rest = pattern.partition("://")
            parts = [segment if part in {"*", "**"} else part for part in rest.split("/")]
            try:
                yield SpiffeId.parse(f"{scheme}://{'/'.join(parts)}")
            except IdentityError:  # too long with this name
                continue
