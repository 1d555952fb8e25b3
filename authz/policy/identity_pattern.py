"""Which SPIFFE IDs a pattern stands for: `spiffe://td/a/b` exactly, `*` one segment, `**` one or more at the end.

The trust domain is always exact. Of the patterns that match one ID the most specific one says whose it is: an
exact one first, then the one with more literal segments.

# INVARIANT (one owner): :meth:`IdentityPattern.overlaps` is exact, so a set without overlaps of equally specific
# patterns gives every ID at most one owner.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from authz.identity.errors import IdentityError
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.policy.errors import PolicyError, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

ANY_SEGMENT: Final = "*"
ANY_SEGMENTS: Final = "**"

T = TypeVar("T")


class IdentityPatternError(PolicyError):
    """A text is no identity pattern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityPattern:
    """A set of workload identities of one trust domain; `exact` is its one member where it has no wildcard."""

    trust_domain: TrustDomain
    segments: tuple[str, ...]
    exact: SpiffeId | None

    @classmethod
    def parse(cls, text: str) -> IdentityPattern:
        """Read a pattern; raises IdentityPatternError that says what is wrong with it."""
        scheme, _, rest = text.partition("://")
        name, slash, path = rest.partition("/")
        if "*" in name and scheme == "spiffe":
            raise IdentityPatternError(f"{quoted(text)}: the trust domain must be written out, without `*`")
        segments = path.split("/") if slash else []
        for index, segment in enumerate(segments):
            if segment == ANY_SEGMENTS and index + 1 < len(segments):
                raise IdentityPatternError(f"{quoted(text)}: `**` must be the last segment")
            if "*" in segment and segment not in {ANY_SEGMENT, ANY_SEGMENTS}:
                raise IdentityPatternError(
                    f"{quoted(text)}: `*` stands for a whole segment, not for part of {quoted(segment)}"
                )
        wild = "*" in path
        try:
            # A wildcard stands for segments that are as valid as "any": the rest is judged as the ID that it would be.
            id_ = SpiffeId.parse(text.replace(ANY_SEGMENTS, "any").replace(ANY_SEGMENT, "any") if wild else text)
        except IdentityError as error:
            raise IdentityPatternError(f"{error}{_instead(text)}") from error
        if not id_.path:
            all_of_it = quoted(f"{text}/**")
            raise IdentityPatternError(f"{quoted(text)} is a trust domain, not a workload; {all_of_it} is all of it")
        return cls(trust_domain=id_.trust_domain, segments=tuple(segments), exact=None if wild else id_)

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{'/'.join(self.segments)}"

    @property
    def literals(self) -> int:
        """The number of literal segments: of two patterns, more of them are more specific."""
        return sum(segment not in {ANY_SEGMENT, ANY_SEGMENTS} for segment in self.segments)

    def matches(self, spiffe_id: SpiffeId) -> bool:
        """Whether the pattern stands for this ID."""
        if spiffe_id.trust_domain != self.trust_domain or not spiffe_id.path:
            return False
        given = spiffe_id.path[1:].split("/")
        if self.segments[-1] == ANY_SEGMENTS:
            fixed = self.segments[:-1]
            if len(given) <= len(fixed):
                return False
        else:
            fixed = self.segments
            if len(given) != len(fixed):
                return False
        return all(wanted in {ANY_SEGMENT, is_} for wanted, is_ in zip(fixed, given, strict=False))

    def overlaps(self, other: IdentityPattern) -> bool:
        """Whether there is an ID that both patterns stand for."""
        if self.trust_domain != other.trust_domain:
            return False
        for mine, theirs in zip(self.segments, other.segments, strict=False):
            if ANY_SEGMENTS in {mine, theirs}:
                return True
            if mine != theirs and ANY_SEGMENT not in {mine, theirs}:
                return False
        # One is used up; `a/**` needs one segment more than `a` has.
        return len(self.segments) == len(other.segments)

    def covers(self, other: IdentityPattern) -> bool:
        """Whether every ID that the other pattern stands for is one of this one's, too."""
        if self.trust_domain != other.trust_domain:
            return False
        open_end = self.segments[-1] == ANY_SEGMENTS
        if not open_end and (len(self.segments) != len(other.segments) or other.segments[-1] == ANY_SEGMENTS):
            return False
        if open_end and len(other.segments) < len(self.segments):
            return False
        fixed = self.segments[:-1] if open_end else self.segments
        return all(
            mine == theirs or (mine == ANY_SEGMENT and theirs != ANY_SEGMENTS)
            for mine, theirs in zip(fixed, other.segments, strict=False)
        )


def _instead(text: str) -> str:
    """Say what to write instead of a text that is no identity, where its form tells what it is."""
    if text.startswith("spiffe://"):
        return "; `*` is any one segment" if "{" in text.partition("://")[2] else ""
    if "://" in text:
        return ""
    if "*" in text:
        return "; `spiffe://TRUSTDOMAIN/**` is every workload of a trust domain"
    return (
        "; a name stands under `services` or `thirdParties`"
        if "/" not in text
        else f"; write {quoted(f'spiffe://{text}')}"
    )


@dataclass(slots=True)
class _Branch(Generic[T]):
    children: dict[str, _Branch[T]] = field(default_factory=dict)
    #: what was added for the pattern that ends here
    here: list[T] = field(default_factory=list)
    #: what was added for the pattern that goes on with `**`
    below: list[T] = field(default_factory=list)

    def everything(self) -> Iterator[T]:
        """Give every value here and further down."""
        open_branches = [self]
        while open_branches:
            branch = open_branches.pop()
            yield from branch.here
            yield from branch.below
            open_branches.extend(branch.children.values())


class IdentityTable(Generic[T]):
    """Values by identity pattern, found by an ID; built once, then only read.

    A look-up costs as many steps as there are ways to match the ID's segments, whatever the number of patterns.
    """

    def __init__(self) -> None:
        self._exact: dict[SpiffeId, list[T]] = {}
        self._roots: dict[TrustDomain, _Branch[T]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return not self._exact and not self._roots

    def add(self, pattern: IdentityPattern, value: T) -> None:
        """Add a value for every ID that the pattern stands for."""
        if pattern.exact is not None:
            self._exact.setdefault(pattern.exact, []).append(value)
            return
        branch = self._roots.setdefault(pattern.trust_domain, _Branch())
        for segment in pattern.segments:
            if segment == ANY_SEGMENTS:
                branch.below.append(value)
                return
            branch = branch.children.setdefault(segment, _Branch())
        branch.here.append(value)

    def exact(self, spiffe_id: SpiffeId) -> list[T] | tuple[()]:
        """Give the values that were added for exactly this ID."""
        return self._exact.get(spiffe_id, ())

    def matching(self, spiffe_id: SpiffeId) -> Iterator[T]:
        """Give the values of every pattern with a wildcard that stands for this ID."""
        root = self._roots.get(spiffe_id.trust_domain)
        if root is None or not spiffe_id.path:
            return
        segments = spiffe_id.path[1:].split("/")
        reached = [root]
        for segment in segments:
            onward: list[_Branch[T]] = []
            for branch in reached:
                yield from branch.below
                for key in (segment, ANY_SEGMENT):
                    child = branch.children.get(key)
                    if child is not None:
                        onward.append(child)
            if not onward:
                return
            reached = onward
        for branch in reached:
            yield from branch.here

    def overlapping(self, pattern: IdentityPattern) -> Iterator[T]:
        """Give the values of every pattern with a wildcard that can stand for one ID together with this one.

        Cost: what of the table lies along the pattern; only a wildcard of its own makes it look further.
        """
        root = self._roots.get(pattern.trust_domain)
        reached = [] if root is None else [root]
        for segment in pattern.segments:
            onward: list[_Branch[T]] = []
            for branch in reached:
                yield from branch.below
                if segment == ANY_SEGMENTS:
                    for child in branch.children.values():
                        yield from child.everything()
                elif segment == ANY_SEGMENT:
                    onward.extend(branch.children.values())
                else:
                    onward.extend(branch.children[key] for key in (segment, ANY_SEGMENT) if key in branch.children)
            reached = onward
        for branch in reached:
            yield from branch.here
