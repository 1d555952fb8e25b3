"""The laws of an authority that is replaced: one class per law, its docstring the sentence that is tested."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from authz.identity.authority import Authority, IssuedSvid
from authz.identity.authority_rotation import RotatingAuthority, RotationPlan
from authz.identity.authority_state import authority_from_json, authority_to_json
from authz.identity.bundle import Bundle, bundle_from_json, jwt_bundle_from_json
from authz.identity.errors import AuthorityError
from authz.identity.jwt_svid import verify_jwt_svid
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.trust import Trust
from authz.identity.upstream_authority import UpstreamAuthority
from authz.identity.x509_chain import chain_from_pem, verify_x509_svid
from tests.support.upstream_root import root_pem

if TYPE_CHECKING:
    from authz.identity.jwt_authority import IssuedJwtSvid

SHOP = TrustDomain.parse("shop.example")
ORDERS = SpiffeId.parse("spiffe://shop.example/orders")
BEGAN = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ROOT = UpstreamAuthority.from_pem(
    root_pem(not_before=BEGAN - timedelta(days=1), not_after=BEGAN + timedelta(days=3000))
)


@dataclass
class Story:
    """Everything that was issued and published so far, by an issuer that looks at the clock at every step."""

    plan: RotationPlan
    upstream: UpstreamAuthority | None
    now: datetime = BEGAN
    published: list[tuple[datetime, Bundle]] = field(default_factory=list)
    issued: list[tuple[IssuedSvid, IssuedJwtSvid]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.authority = RotatingAuthority.begin(self.plan, self.now, self.generate)
        self.publish()

    def generate(self, now: datetime) -> Authority:
        return Authority.generate(SHOP, now, self.plan.lifetime, upstream=self.upstream)

    def publish(self) -> None:
        if not self.published or self.published[-1][1].sequence != self.authority.bundle.sequence:
            self.published.append((self.now, self.authority.bundle))

    def go_to(self, instant: datetime) -> None:
        """Let time pass, with an issuer that acts whenever it has something to do."""
        while (change := self.authority.next_change()) <= instant:
            self.now = max(self.now, change)
            after = self.authority.advanced(self.now, self.generate)
            assert after is not self.authority  # else it would have nothing to do, for ever
            self.authority = after
            self.publish()
        self.now = instant

    def issue(self, lifetime: timedelta) -> None:
        self.issued.append(
            (
                self.authority.current.issue_x509_svid(ORDERS, self.now, lifetime),
                self.authority.current.issue_jwt_svid(ORDERS, ["catalog"], self.now, lifetime),
            )
        )

    def bundle_at(self, instant: datetime) -> Bundle | None:
        return next((bundle for since, bundle in reversed(self.published) if since <= instant), None)

    def require_verifies(self, bundle: Bundle) -> None:
        trust = Trust.of([bundle])
        now_ns = int(self.now.timestamp() * 1_000_000) * 1000
        for x509_svid, jwt_svid in self.issued:
            if self.now <= x509_svid.not_after:
                chain = chain_from_pem(x509_svid.certificate_pem)
                assert verify_x509_svid(chain, trust, self.now).spiffe_id == ORDERS
            if self.now < jwt_svid.not_after:
                assert verify_jwt_svid(jwt_svid.token, trust, "catalog", now_ns).spiffe_id == ORDERS


plans = st.builds(
    RotationPlan,
    lifetime=st.integers(60, 40_000).map(lambda seconds: seconds * SECOND),
    propagation=st.integers(1, 2_000).map(lambda seconds: seconds * SECOND),
)
# Parts of an authority's life that pass, and what is issued for how long then, also in parts of it.
steps = st.lists(st.tuples(st.floats(0.0, 1.2), st.floats(0.01, 2.0)), min_size=1, max_size=12)
upstreams = st.sampled_from([None, ROOT])


class TestWhatWasIssuedVerifies:
    """What was issued and is unexpired verifies by the bundle of that instant, and of one propagation time earlier."""

    @settings(max_examples=60)
    @given(plan=plans, steps=steps, upstream=upstreams)
    def test_law(
        self, plan: RotationPlan, steps: list[tuple[float, float]], upstream: UpstreamAuthority | None
    ) -> None:
        story = Story(plan=plan, upstream=upstream)
        for pause, lifetime in steps:
            story.go_to(story.now + pause * plan.lifetime)
            story.issue(max(SECOND, lifetime * plan.lifetime))
            story.require_verifies(story.authority.bundle)
            earlier = story.bundle_at(story.now - plan.propagation)
            if earlier is not None:  # there was an issuer then
                story.require_verifies(earlier)
            received = bundle_from_json(story.authority.bundle.to_json(), SHOP)
            assert received == story.authority.bundle
            tokens = jwt_bundle_from_json(story.authority.bundle.to_jwks(), SHOP)
            assert tokens.jwt_authorities == received.jwt_authorities


class TestTheSequenceRises:
    """The sequence rises with each change of the bundle, and only then."""

    @settings(max_examples=40)
    @given(plan=plans, pauses=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=10))
    def test_law(self, plan: RotationPlan, pauses: list[float]) -> None:
        story = Story(plan=plan, upstream=None)
        for pause in pauses:
            story.now += pause * plan.lifetime  # nobody looked meanwhile
            before, story.authority = story.authority, story.authority.advanced(story.now, story.generate)
            same = before.bundle.x509_authorities == story.authority.bundle.x509_authorities
            assert (story.authority.sequence == before.sequence) == same
            assert story.authority.sequence >= before.sequence
            story.issue(SECOND)


class TestAnAuthorityIsNeverMissing:
    """However long nobody looked, there is an authority that issues, and nothing it issues outlives it."""

    @settings(max_examples=60)
    @given(plan=plans, pauses=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=6), upstream=upstreams)
    def test_law(self, plan: RotationPlan, pauses: list[float], upstream: UpstreamAuthority | None) -> None:
        story = Story(plan=plan, upstream=upstream)
        for pause in pauses:
            story.now += pause * plan.lifetime
            story.authority = story.authority.advanced(story.now, story.generate)
            story.issue(100 * plan.lifetime)
            assert story.issued[-1][0].not_after <= story.authority.current.not_after
            assert story.authority.advanced(story.now, story.generate) is story.authority
            assert story.authority.next_change() > story.now


class TestAnUpstreamRootEndsEverything:
    """Below a root that ends there are authorities until then, a few of them, and nothing that outlives it."""

    @settings(max_examples=20)
    @given(lifetime=st.integers(600, 100_000), life=st.floats(0.1, 4.0))
    def test_law(self, lifetime: int, life: float) -> None:
        ends = (BEGAN + life * lifetime * SECOND).replace(microsecond=0)
        upstream = UpstreamAuthority.from_pem(root_pem(not_before=BEGAN - timedelta(days=1), not_after=ends))
        story = Story(plan=RotationPlan(lifetime=lifetime * SECOND, ends=ends), upstream=upstream)
        story.go_to(ends - 2 * SECOND)
        story.issue(timedelta(days=1))
        assert story.issued[-1][0].not_after <= ends
        assert len(story.published) <= 20
        story.go_to(ends)
        with pytest.raises(AuthorityError, match="is over"):
            story.issue(SECOND)


class TestWhatIsKeptIsTheSame:
    """A rotating authority that was kept and read again publishes the same, and goes on as it would have."""

    @settings(max_examples=30)
    @given(plan=plans, pauses=st.lists(st.floats(0.0, 1.0), max_size=6), upstream=upstreams)
    def test_law(self, plan: RotationPlan, pauses: list[float], upstream: UpstreamAuthority | None) -> None:
        story = Story(plan=plan, upstream=upstream)
        for pause in pauses:
            story.go_to(story.now + pause * plan.lifetime)
        again = authority_from_json(authority_to_json(story.authority), plan)
        assert again.bundle == story.authority.bundle
        assert again.next_change() == story.authority.next_change()
        assert again.current.to_pem() == story.authority.current.to_pem()
        assert authority_to_json(again) == authority_to_json(story.authority)


class TestAnyBytesAreAKeptAuthorityOrAnError:
    """Any bytes are a rotating authority or raise AuthorityError in one line that shows nothing of them."""

    PLAN = RotationPlan(lifetime=timedelta(days=7))
    KEPT = authority_to_json(
        RotatingAuthority.begin(PLAN, BEGAN, lambda now: Authority.generate(SHOP, now, timedelta(days=7)))
    )

    @given(st.binary(max_size=300))
    def test_law(self, document: bytes) -> None:
        self._read(document)

    @given(st.integers(0, len(KEPT) - 1), st.binary(min_size=1, max_size=4))
    def test_law_of_damage(self, at: int, octets: bytes) -> None:
        self._read(self.KEPT[:at] + octets + self.KEPT[at + len(octets) :])

    @given(
        st.sampled_from(["version", "sequence", "current", "prepared", "activates_at", "retired"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(KEPT.decode()),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["root", "jwk", "kid", "not_after", "kty", "x"]), inner, max_size=4)
            ),
            max_leaves=8,
        ),
    )
    def test_law_of_members(self, name: str, value: object) -> None:
        self._read(json.dumps({**json.loads(self.KEPT), name: value}).encode())

    def _read(self, document: bytes) -> None:
        try:
            read = authority_from_json(document, self.PLAN)
        except AuthorityError as error:
            text = str(error)
        else:
            assert authority_from_json(authority_to_json(read), self.PLAN).bundle == read.bundle
            return
        assert text.isprintable()
        assert len(text) < 300
        assert "PRIVATE" not in text
