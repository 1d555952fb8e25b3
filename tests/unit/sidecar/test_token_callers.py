"""Calls that bring a token of a workload, from the bytes of the check to those of the answer and to the record."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import pytest
from envoy.service.auth.v3 import external_auth_pb2
from hypothesis import given, strategies as st

from authz.identity.bundle import Bundle
from authz.identity.jwt_svid import LEEWAY_NS, JwtSvidError, verify_jwt_svid
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.trust import Trust
from authz.identity.verification import VerifiedIdentity
from authz.policy.evaluation import called_party
from authz.policy.index import compile_index
from authz.sidecar.check.bearer import names_a_workload, only_token
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.check.question import QuestionReader
from authz.sidecar.in_force import InForce, PolicyInForce
from tests.support.certificates import NOW_NS, URI, leaf, pem
from tests.support.check_request import check_request
from tests.support.decision_record import unpack_decision
from tests.support.jwt_svids import LIFETIME_S, NS_PER_S, TokenIssuer, bearer, unsigned_token
from tests.support.policy_sets import document, parsed, service

if TYPE_CHECKING:
    from tests.support.decision_record import DecisionRecord

SHOP, ACME = TrustDomain.parse("shop.example"), TrustDomain.parse("acme.example")
ISSUER, OTHER_ISSUER = TokenIssuer(trust_domain=SHOP), TokenIssuer(trust_domain=ACME)
ORDERS, GATEWAY, BATCH, TOKENS, ANALYTICS = (
    "spiffe://shop.example/orders",
    "spiffe://shop.example/gateway",
    "spiffe://shop.example/batch",
    "spiffe://shop.example/tokens",
    "spiffe://acme.example/analytics",
)
WINDOW = "{opens: 2026-01-01T00:00:00Z, closes: 2027-01-01T00:00:00Z}"
SET = (
    service("orders", ORDERS),
    service("gateway", GATEWAY),
    service("batch", BATCH),
    service("tokens", TOKENS, more=", accepts: [x509-svid, jwt-svid], forwarders: [gateway]"),
    service("only", "spiffe://shop.example/only", more=", accepts: [jwt-svid], forwarders: [gateway]"),
    document("ThirdParty", "acme", f"{{identities: ['{ANALYTICS}'], window: {WINDOW}}}"),
    document("MicroPolicy", "r", "{from: [{services: [orders]}], to: [{services: [tokens, only], operations: all}]}"),
    document("MicroPolicy", "t", "{from: [{thirdParties: [acme]}], to: [{services: [tokens], operations: all}]}"),
)
MESH = "{trustDomains: [shop.example], federates: [{trustDomain: acme.example, bundle: acme.json}]%s}"


@cache
def certificate(identity: str) -> bytes:
    return pem(leaf([URI(identity)]))


def bundle(issuer: TokenIssuer) -> Bundle:
    return issuer.bundle(pem(leaf()))


TRUST = Trust.of([bundle(ISSUER), bundle(OTHER_ISSUER)])


@dataclass(slots=True)
class Answered:
    status: int
    reason: str
    challenge: str | None
    caller: str | None
    record: DecisionRecord

    @property
    def who(self) -> tuple[str | None, str | None]:
        call = self.record.call
        return tuple(None if each is None else str(each) for each in (call.caller, call.presenter))  # type: ignore[return-value]


@dataclass(slots=True)
class Sidecar:
    """One checker; what it trusts, the time and the policies may change between two calls."""

    of: str = "tokens"
    own: str | None = None
    trust: Trust | None = TRUST
    now_ns: int = NOW_NS
    mesh: str = ""
    records: list[bytes] = field(default_factory=list)
    checker: Checker = field(init=False)
    in_force: InForce = field(default_factory=InForce)

    def __post_init__(self) -> None:
        self.revoke("")
        own = None
        if self.own is not None:
            end_ns = NOW_NS + 3600 * NS_PER_S
            own = VerifiedIdentity(spiffe_id=SpiffeId.parse(self.own), serial="1", not_before_ns=0, not_after_ns=end_ns)
        self.checker = Checker(
            workload=Workload(
                service=self.of,
                identity=lambda: own,
                trust=None if self.trust is None else lambda: self.trust or Trust.of([]),
            ),
            in_force=self.in_force,
            record=self._taken,
            clock=lambda: self.now_ns,
        )

    def revoke(self, entry: str) -> None:
        more = f", revoked: ['{entry}']" if entry else ""
        policies = parsed(document("Mesh", "m", MESH % more), *SET)
        self.in_force.policy = PolicyInForce(index=compile_index(policies))

    def _taken(self, packed: bytes) -> bool:
        self.records.append(packed)
        return True

    def ask(self, *headers: tuple[str, bytes], peer: str | None = ORDERS, host: str = "tokens") -> Answered:
        message = check_request(
            direction="inbound" if self.own is None else "outbound",
            host=host,
            headers=headers,
            certificate_pem=b"" if peer is None else certificate(peer),
        )
        response = external_auth_pb2.CheckResponse.FromString(self.checker.answer(message.SerializeToString()))
        assert not self.checker.faults
        told = {each.header.key: each.header.value for each in response.denied_response.headers}
        added = {each.header.key: each.header.value for each in response.ok_response.headers}
        return Answered(
            status=response.status.code,
            reason=response.dynamic_metadata["reason"],
            challenge=told.get("www-authenticate"),
            caller=added.get("x-authz-caller"),
            record=unpack_decision(self.records[-1], self.of),
        )


def token(subject: str = ORDERS, audience: str | list[str] = TOKENS, *, issuer: TokenIssuer = ISSUER) -> bytes:
    return issuer.token(subject, audience, now_ns=NOW_NS)


def test_the_subject_of_a_token_is_the_caller_and_the_peer_its_presenter() -> None:
    answered = Sidecar().ask(bearer(token()), peer=GATEWAY)
    assert (answered.status, answered.reason, answered.caller) == (0, "allowed", ORDERS)
    assert answered.who == (ORDERS, GATEWAY)
    assert answered.record.decision.caller_service == "orders"


def test_a_token_may_be_presented_by_its_own_subject_and_is_all_that_proves_it_where_certificates_are_none() -> None:
    assert Sidecar().ask(bearer(token())).who == (ORDERS, ORDERS)
    only = Sidecar(of="only")
    assert only.ask().reason == "unidentified"
    answered = only.ask(bearer(token(audience=["spiffe://shop.example/x", "spiffe://shop.example/only"])))
    assert (answered.reason, answered.who) == ("allowed", (ORDERS, ORDERS))


def test_the_callers_own_sidecar_gives_the_answer_of_the_callees() -> None:
    outbound = Sidecar(of="gateway", own=GATEWAY)
    answered = outbound.ask(bearer(token()))
    assert (answered.reason, answered.who) == ("allowed", (ORDERS, GATEWAY))
    assert outbound.ask().reason == "no_policy"
    assert outbound.ask(bearer(token(audience=ORDERS))).reason == "unidentified"
    # To a destination that takes no tokens it is the app's own data.
    assert Sidecar(of="orders", own=ORDERS).ask(bearer(b"e30." + token()), host="orders").reason == "no_policy"


def signed(**claims: object) -> bytes:
    return ISSUER.token(ORDERS, TOKENS, now_ns=NOW_NS, claims=claims)


def with_header(**header: object) -> bytes:
    return ISSUER.token(ORDERS, TOKENS, now_ns=NOW_NS, header=header)


CLAIMS = {"sub": ORDERS, "aud": TOKENS, "exp": NOW_NS // NS_PER_S + 60}
INVALID = {
    "expired": signed(exp=NOW_NS // NS_PER_S - 60),
    "not yet valid": signed(nbf=NOW_NS // NS_PER_S + 60),
    "without an end": signed(exp=None),
    "for another audience": token(audience=ORDERS),
    "for the service's name": token(audience="tokens"),
    "for nobody": signed(aud=[]),
    "signed by nobody": unsigned_token({"alg": "none", "kid": "current"}, CLAIMS, b"x"),
    "alg none with an honest token's signature": unsigned_token({"alg": "none"}, CLAIMS, b"x" * 64),
    "another token's signature": token().rpartition(b".")[0] + b"." + signed(jti="x").rpartition(b".")[2],
    "signed by another trust domain's key": token(issuer=OTHER_ISSUER),
    "a subject of another trust domain": token(ANALYTICS),
    "an unknown key": with_header(kid="other"),
    "a key of its own": with_header(jwk={"kty": "oct", "k": "e30"}),
    "a critical header": with_header(crit=["x"], x=1),
    "another type": with_header(typ="at+jwt"),
    "a subject that is no SPIFFE ID": token("spiffe://shop.example/a//b"),
    "the trust domain as the subject": token("spiffe://shop.example"),
    "one character more": token() + b"A",
    "no signature": token().rpartition(b".")[0] + b".",
    "two parts": token().rpartition(b".")[0],
}


@pytest.mark.parametrize("invalid", INVALID.values(), ids=INVALID)
@pytest.mark.parametrize("peer", [ORDERS, GATEWAY])
def test_an_invalid_token_proves_nobody_and_never_falls_back_to_the_peer(invalid: bytes, peer: str) -> None:
    answered = Sidecar().ask(bearer(invalid), peer=peer)
    assert (answered.reason, answered.challenge) == ("unidentified", 'Bearer error="invalid_token"')
    assert answered.who == (None, peer)
    assert (answered.record.decision.caller_service, answered.record.decision.policy) == (None, None)


BROUGHT = {
    "in a second header": [bearer(b"opaque"), bearer(token())],
    "in the first of two headers": [bearer(token()), bearer(b"opaque")],
    "twice": [bearer(token()), bearer(token())],
    "joined by a comma": [("authorization", b"Bearer opaque, Bearer " + token())],
    "with a word behind it": [("authorization", b"Bearer " + token() + b" more")],
    "behind a tab": [("authorization", b"Bearer\t" + token())],
    "padded": [("authorization", b"Bearer " + token() + b"=")],
    "beside another scheme": [("authorization", b"Basic YTpi"), bearer(token())],
}


@pytest.mark.parametrize("headers", BROUGHT.values(), ids=BROUGHT)
def test_a_token_that_could_be_read_in_two_ways_proves_nobody(headers: list[tuple[str, bytes]]) -> None:
    answered = Sidecar().ask(*headers)
    assert (answered.reason, answered.who) == ("unidentified", (None, ORDERS))


def test_the_schemes_name_counts_in_any_case() -> None:
    assert Sidecar().ask(("authorization", b"bEARER   " + token())).reason == "allowed"


@pytest.mark.parametrize("peer", [BATCH, ANALYTICS, "spiffe://shop.example/nobodys"])
def test_who_is_neither_subject_nor_forwarder_presents_nobodys_token(peer: str) -> None:
    answered = Sidecar().ask(bearer(token()), peer=peer)
    assert (answered.reason, answered.who) == ("unidentified", (ORDERS, peer))


def test_nobody_presents_a_token_without_a_certificate() -> None:
    answered = Sidecar().ask(bearer(token()), peer=None)
    assert (answered.reason, answered.who) == ("unidentified", (None, None))


def test_without_a_source_of_bundles_no_token_proves_anybody_and_peers_are_believed() -> None:
    sidecar = Sidecar(trust=None)
    assert sidecar.ask(bearer(token())).reason == "unidentified"
    assert sidecar.ask().reason == "allowed"
    assert sidecar.ask().challenge is None


@pytest.mark.parametrize("brought", [b"Bearer opaque", b"Basic YTpi", b"Bearer " + unsigned_token({}, {"sub": "anna"})])
def test_any_other_token_is_the_apps_own_and_the_peer_is_the_caller(brought: bytes) -> None:
    assert Sidecar().ask(("authorization", brought)).who == (ORDERS, None)


def test_only_the_authorization_header_brings_tokens() -> None:
    for name in ("x-authorization", "proxy-authorization", "cookie"):
        assert Sidecar().ask((name, b"Bearer " + token(GATEWAY))).who == (ORDERS, None)


def test_a_federated_subject_is_proven_by_its_own_trust_domains_bundle_alone() -> None:
    sidecar = Sidecar()
    assert sidecar.ask(bearer(token(ANALYTICS, issuer=OTHER_ISSUER)), peer=GATEWAY).who == (ANALYTICS, GATEWAY)
    sidecar.trust = TRUST.without(ACME)
    assert sidecar.ask(bearer(token(ANALYTICS, issuer=OTHER_ISSUER)), peer=GATEWAY).reason == "unidentified"


class TestMemo:
    """A token that comes again is answered by what is true then."""

    def test_it_ends_by_its_own_time(self) -> None:
        sidecar = Sidecar()
        brought = bearer(token())
        assert sidecar.ask(brought).reason == "allowed"
        sidecar.now_ns += LIFETIME_S * NS_PER_S + LEEWAY_NS - 1
        assert sidecar.ask(brought).reason == "allowed"
        sidecar.now_ns += 1
        assert sidecar.ask(brought).reason == "unidentified"
        sidecar.now_ns = NOW_NS - LEEWAY_NS - 1  # a clock that is set back makes it one of the future
        assert sidecar.ask(brought).reason == "unidentified"

    def test_it_ends_with_its_key(self) -> None:
        sidecar = Sidecar()
        brought = bearer(token())
        assert sidecar.ask(brought).reason == "allowed"
        sidecar.trust = TRUST.replace(bundle(TokenIssuer(trust_domain=SHOP)))
        assert sidecar.ask(brought).reason == "unidentified"
        sidecar.trust = Trust.of([bundle(ISSUER)])
        assert sidecar.ask(brought).reason == "allowed"

    def test_it_is_for_its_audience_only(self) -> None:
        outbound = Sidecar(of="orders", own=ORDERS)
        brought = bearer(token())
        assert outbound.ask(brought).reason == "allowed"
        assert outbound.ask(brought, host="only").reason == "unidentified"

    def test_its_end_is_told_with_the_call_and_no_part_of_the_decisions_end(self) -> None:
        checker, index = (sidecar := Sidecar()).checker, sidecar.in_force.policy.index
        for headers, end_ns in (((bearer(token()),), NOW_NS + LIFETIME_S * NS_PER_S), ((), None)):
            question = QuestionReader("tokens").question(check_request(headers=headers).SerializeToString())
            question.caller = SpiffeId.parse(ORDERS)
            assert index is not None
            if headers:
                destination = called_party(index, question)
                assert destination is not None
                checker._judge.subject(index, question, destination, token(), NOW_NS)
            assert question.proof_ends_ns == end_ns
        assert sidecar.ask(bearer(token())).record.decision.valid_until_ns is None


@pytest.mark.parametrize(
    ("entry", "reasons"),
    [
        (ORDERS, ("unidentified", "unidentified")),
        (GATEWAY, ("allowed", "unidentified")),
        (f"serial:shop.example/{0x0ABC:X}", ("unidentified", "unidentified")),
        (BATCH, ("allowed", "allowed")),
    ],
    ids=["the subject", "the presenter", "the presenter's certificate", "somebody else"],
)
def test_a_revoked_subject_or_presenter_is_refused_at_the_next_call(entry: str, reasons: tuple[str, str]) -> None:
    sidecar = Sidecar()
    brought = bearer(token())
    for peer, reason in zip((ORDERS, GATEWAY), reasons, strict=True):
        sidecar.revoke("")
        assert sidecar.ask(brought, peer=peer).reason == "allowed"
        sidecar.revoke(entry)
        assert sidecar.ask(brought, peer=peer).reason == reason


class TestPeers:
    """Who opened a connection is proven by a bundle that is trusted at the time of the call."""

    def test_a_bundle_that_was_withdrawn_takes_its_workloads_along(self) -> None:
        sidecar = Sidecar()
        for trust, reason in (
            (TRUST, "allowed"),
            (TRUST.without(SHOP), "unidentified"),
            (TRUST.replace(Bundle(trust_domain=SHOP)), "unidentified"),
            (Trust.of([]), "unidentified"),
            (TRUST, "allowed"),
        ):
            sidecar.trust = trust
            assert sidecar.ask().reason == reason

    def test_keys_of_tokens_prove_no_certificate(self) -> None:
        sidecar = Sidecar(trust=Trust.of([ISSUER.bundle()]))
        assert sidecar.ask().reason == "unidentified"

    def test_a_federated_peer_needs_its_own_trust_domains_bundle(self) -> None:
        sidecar = Sidecar()
        assert sidecar.ask(peer=ANALYTICS).reason == "allowed"
        sidecar.trust = TRUST.without(ACME)
        answered = sidecar.ask(peer=ANALYTICS)
        assert (answered.reason, answered.who) == ("unidentified", (None, None))

    @pytest.mark.parametrize("trust", [TRUST, Trust.of([])])
    def test_who_is_of_no_trust_domain_of_the_policies_is_untrusted_with_and_without_a_bundle(
        self, trust: Trust
    ) -> None:
        assert Sidecar(trust=trust).ask(peer="spiffe://elsewhere.example/a").reason == "untrusted"


@given(st.data())
def test_a_token_that_was_changed_anywhere_never_gives_an_allow_that_needs_its_subject(data: st.DataObject) -> None:
    honest = token()
    changed = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(["replace", "insert", "delete"]))
        if kind == "delete":
            del changed[at]
        else:
            character = data.draw(st.sampled_from(b"ABCabc019-_=.+/ ,\t%"))
            changed[at : at + (kind == "replace")] = bytes([character])
    sidecar = Sidecar()
    # The gateway may present tokens and may do nothing itself: an allow needs the token's subject.
    answered = sidecar.ask(bearer(bytes(changed)), peer=GATEWAY)
    assert answered.reason in {"unidentified", "no_policy"} or bytes(changed).strip() == honest


@given(
    header=st.dictionaries(st.sampled_from(["kid", "typ"]), st.sampled_from(["current", "JWT", "JOSE", "x"])),
    claims=st.dictionaries(st.text(max_size=6), st.text(max_size=6) | st.integers() | st.none(), max_size=3),
    subject=st.sampled_from([ORDERS, ANALYTICS, "spiffe://shop.example/é", "spiffe://"]),
)
def test_whatever_proves_a_subject_is_seen_as_a_token_of_a_workload(
    header: dict[str, str], claims: dict[str, object], subject: str
) -> None:
    said = {key: value for key, value in claims.items() if key not in {"sub", "aud", "exp", "iat", "nbf", "iss"}}
    brought = ISSUER.token(subject, TOKENS, now_ns=NOW_NS, header=header, claims=said)
    try:
        verify_jwt_svid(brought, TRUST, TOKENS, NOW_NS)
    except JwtSvidError:
        return
    credentials = [b"Bearer " + brought]
    assert names_a_workload(credentials)
    assert only_token(credentials) == brought
