"""How a trust domain's authority is replaced by the next one, so that at no time anybody refuses what was issued.

The next authority stands in the bundle before it signs, and the one before stays there until nothing that it signed can
be valid any more. Decides when; who asks brings the time, publishes the bundle and keeps the value.

    began ......... half ............. 5/6 ......... end        of one authority's life
                    the next one is    it signs
                    published          from now on

# INVARIANT (published before it signs): an authority signs `propagation` after it was published, or later; sooner only
# where there was no other one left, because nobody asked for so long.
# INVARIANT (stays as long as it counts): an authority is in the bundle until its own end, and issues nothing beyond it.
# INVARIANT (rising): `sequence` rises with each change of the bundle, also over a start from nothing: it is never less
# than the seconds since 1970 at which the bundle changed.

https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE_Trust_Domain_and_Bundle.md
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from authz.identity.authority import BACKDATED, MAX_AUTHORITY_LIFETIME, MIN_LIFETIME, Authority
from authz.identity.bundle import Bundle
from authz.identity.errors import AuthorityError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography import x509

    from authz.identity.public_key import PublicKey
    from authz.identity.spiffe_id import TrustDomain

#: until everybody has a new bundle: streams bring it at once, federated trust domains ask every few minutes
PROPAGATION: Final = timedelta(minutes=10)
#: what an authority issues must end before it does, and is issued for a sixth of its life after the next one is there
LIVES_OF_WHAT_IT_ISSUES: Final = 6
#: verifiers' clocks lag, and may take a token for a while after its `exp`
_KEPT_AFTER_ITS_END: Final = timedelta(minutes=1)
#: more authorities than this in one bundle come of a clock that runs wild
MAX_RETIRED: Final = 64
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationPlan:
    """How long an authority lives, and how long it takes until everybody has a new bundle.

    `ends` is the end of an upstream root, beyond which there can be no authority.
    """

    lifetime: timedelta
    propagation: timedelta = PROPAGATION
    ends: datetime | None = None

    def __post_init__(self) -> None:
        if not LIVES_OF_WHAT_IT_ISSUES * MIN_LIFETIME <= self.lifetime <= MAX_AUTHORITY_LIFETIME:
            raise AuthorityError("an authority that is to be replaced lives for six seconds to ten years")
        # A third of the life lies between the two.
        object.__setattr__(self, "propagation", min(self.propagation, self.lifetime / LIVES_OF_WHAT_IT_ISSUES))

    @property
    def refresh_hint(self) -> timedelta:
        """How often others should look: twice in the time that they have."""
        return max(timedelta(seconds=1), timedelta(seconds=self.propagation // timedelta(seconds=2)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RetiredAuthority:
    """What stays of an authority that signs no more: what its SVIDs are verified with, and until when."""

    root: x509.Certificate = field(repr=False)
    key_id: str | None
    key: PublicKey | None = field(repr=False)
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RotatingAuthority:
    """The authorities of one trust domain at one time; changed by taking in its place what :meth:`advanced` gives.

    `prepared` is published, and signs from `activates_at` on.
    """

    plan: RotationPlan
    current: Authority
    prepared: Authority | None = None
    activates_at: datetime | None = None
    retired: tuple[RetiredAuthority, ...] = ()
    sequence: int

    def __post_init__(self) -> None:
        if (self.prepared is None) != (self.activates_at is None):
            raise AuthorityError("an authority is prepared for an instant")
        if self.prepared is not None and self.prepared.trust_domain != self.current.trust_domain:
            raise AuthorityError("the next authority is one of the same trust domain")

    @classmethod
    def begin(cls, plan: RotationPlan, now: datetime, generate: Callable[[datetime], Authority]) -> RotatingAuthority:
        """Begin with a new authority, which signs at once."""
        return cls(plan=plan, current=generate(now), sequence=_seconds(now))

    @property
    def trust_domain(self) -> TrustDomain:
        """Whose authorities these are."""
        return self.current.trust_domain

    @property
    def bundle(self) -> Bundle:
        """What is published: by it everything verifies that was issued here and is still valid."""
        # Oldest first: so the order stays when the next one begins to sign, which changes nothing.
        roots = [old.root for old in self.retired]
        keys = {old.key_id: old.key for old in self.retired if old.key_id is not None and old.key is not None}
        for one in (self.current, *(() if self.prepared is None else (self.prepared,))):
            roots.append(one.root)
            if one.jwt is not None:
                keys[one.jwt.key_id] = one.jwt.public_key
        return Bundle(
            trust_domain=self.trust_domain,
            x509_authorities=tuple(roots),
            jwt_authorities=keys,
            sequence=self.sequence,
            refresh_hint=self.plan.refresh_hint,
        )

    def advanced(self, now: datetime, generate: Callable[[datetime], Authority]) -> RotatingAuthority:
        """Give what is to be in its place at `now`; itself where nothing is to change."""
        after = _begun_anew(_activated(_without_what_is_over(self, now), now), now, generate)
        if after.prepared is None and now >= _half(after.current) and not _is_the_last(after):
            return after.prepare(now, generate, activates_at=_five_sixths(after.current))
        return after if after is self else _published(after, self, now)

    def prepare(
        self, now: datetime, generate: Callable[[datetime], Authority], *, activates_at: datetime | None = None
    ) -> RotatingAuthority:
        """Publish a new next authority, which signs as soon as everybody knows it, or at `activates_at` if later."""
        known_at = now + self.plan.propagation  # INVARIANT (published before it signs)
        after = replace(
            self,
            prepared=generate(now),
            activates_at=known_at if activates_at is None else max(known_at, activates_at),
        )
        return _published(after, self, now)

    def next_change(self) -> datetime:
        """Give the instant from which on :meth:`advanced` has something to do."""
        instants = [old.not_after + _KEPT_AFTER_ITS_END for old in self.retired]
        if self.activates_at is not None:
            instants.append(self.activates_at)
        elif not _is_the_last(self):
            instants.append(_half(self.current))
        return min(instants, default=_NEVER)


def _is_the_last(authority: RotatingAuthority) -> bool:
    """Whether there can be no later one: the root above ends with it."""
    ends = authority.plan.ends
    return ends is not None and authority.current.not_after >= ends.replace(microsecond=0)


def _half(authority: Authority) -> datetime:
    began = authority.not_before + BACKDATED
    return began + max(authority.not_after - began, timedelta(0)) / 2


def _five_sixths(authority: Authority) -> datetime:
    began = authority.not_before + BACKDATED
    return authority.not_after - max(authority.not_after - began, timedelta(0)) / LIVES_OF_WHAT_IT_ISSUES


def _is_over(authority: Authority, now: datetime) -> bool:
    return now >= authority.not_after - MIN_LIFETIME


def _without_what_is_over(authority: RotatingAuthority, now: datetime) -> RotatingAuthority:
    kept = tuple(old for old in authority.retired if _counts(old, now))
    after = authority if len(kept) == len(authority.retired) else replace(authority, retired=kept)
    if after.prepared is not None and _is_over(after.prepared, now):
        return replace(after, prepared=None, activates_at=None)
    return after


def _activated(authority: RotatingAuthority, now: datetime) -> RotatingAuthority:
    """Have the prepared authority sign, if it is time."""
    if authority.prepared is None or authority.activates_at is None:
        return authority
    # INVARIANT (published before it signs): sooner only if nothing else is left to sign with.
    if now < authority.activates_at and not _is_over(authority.current, now):
        return authority
    retired = _with_retired(authority, now)
    return replace(authority, retired=retired, current=authority.prepared, prepared=None, activates_at=None)


def _begun_anew(
    authority: RotatingAuthority, now: datetime, generate: Callable[[datetime], Authority]
) -> RotatingAuthority:
    """Have a new authority sign at once, where nobody looked until the last one was over."""
    if not _is_over(authority.current, now) or _is_the_last(authority):
        return authority
    return replace(authority, retired=_with_retired(authority, now), current=generate(now))


def _with_retired(authority: RotatingAuthority, now: datetime) -> tuple[RetiredAuthority, ...]:
    """Give what is retired when the current authority is."""
    jwt = authority.current.jwt
    old = RetiredAuthority(
        root=authority.current.root,
        key_id=None if jwt is None else jwt.key_id,
        key=None if jwt is None else jwt.public_key,
        not_after=authority.current.not_after,
    )
    return tuple(each for each in (*authority.retired, old) if _counts(each, now))[-MAX_RETIRED:]


def _counts(old: RetiredAuthority, now: datetime) -> bool:
    return now < old.not_after + _KEPT_AFTER_ITS_END


def _published(after: RotatingAuthority, before: RotatingAuthority, now: datetime) -> RotatingAuthority:
    """Give the same with a higher sequence, if its bundle is another one."""
    new, old = after.bundle, before.bundle
    if new.x509_authorities == old.x509_authorities and new.jwt_authorities.keys() == old.jwt_authorities.keys():
        return after
    return replace(after, sequence=max(before.sequence + 1, _seconds(now)))  # INVARIANT (rising)


def _seconds(now: datetime) -> int:
    return max(0, int(now.timestamp()))
