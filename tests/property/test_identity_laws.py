"""The laws of identities: one class per law, its docstring the sentence that is tested."""

from __future__ import annotations

import base64
import re
import string
import warnings
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import pytest
from hypothesis import assume, example, given, settings, strategies as st

from authz.identity.authority import Authority, AuthorityError
from authz.identity.errors import IdentityError, quoted
from authz.identity.spiffe_id import SpiffeId, SpiffeIdError, TrustDomain
from authz.identity.verification import PeerVerification, Unidentified
from authz.identity.x509_svid import X509Svid, X509SvidError, x509_svid_from_pem
from tests.support.certificates import NOW, NOW_NS, SPIFFE_ID, URI, der, leaf, pem

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")

TRUST_DOMAIN_CHARACTERS = string.ascii_lowercase + string.digits + ".-_"
SEGMENT_CHARACTERS = string.ascii_letters + string.digits + ".-_"

trust_domains = st.text(TRUST_DOMAIN_CHARACTERS, min_size=1, max_size=255)
segments = st.text(SEGMENT_CHARACTERS, min_size=1, max_size=40).filter(lambda text: text not in {".", ".."})
paths = st.lists(segments, max_size=8).map(lambda parts: "".join(f"/{part}" for part in parts))
spiffe_ids = st.builds("spiffe://{}{}".format, trust_domains, paths)
# Texts that are nearly IDs, made of what IDs are made of and of what parsers stumble over.
near_ids = st.lists(
    st.sampled_from(["spiffe", "://", "//", "/", ":", ".", "..", "%2e", "%", "@", "?", "#", "A", "a", "\n", "\0", " "]),
    max_size=12,
).map("".join)


def _value_or_none(read: Callable[[], Value], error: type[IdentityError]) -> Value | None:
    """Give what was read, or None if it was refused as it is to be: with this error, in one printable line."""
    try:
        return read()
    except error as refused:
        text = str(refused)
    assert text.isprintable()
    assert len(text) < 3000
    return None


def _parsed(text: str) -> SpiffeId | None:
    return _value_or_none(lambda: SpiffeId.parse(text), SpiffeIdError)


class TestEveryTextIsAnIdOrAnError:
    """Any text is a SPIFFE ID that prints as that text, or raises SpiffeIdError with one printable line."""

    @given(st.one_of(st.text(), near_ids, near_ids.map("spiffe://a".__add__), spiffe_ids))
    @example("spiffe://example.org/foo\n")
    @example("spiffe://td/" + "x" * 3000)
    def test_law(self, text: str) -> None:
        spiffe_id = _parsed(text)
        assert spiffe_id is None or str(spiffe_id) == text

    @given(st.one_of(st.text(), trust_domains))
    def test_law_of_trust_domains(self, text: str) -> None:
        trust_domain = _value_or_none(lambda: TrustDomain.parse(text), SpiffeIdError)
        assert trust_domain is None or str(trust_domain) == text
        spiffe_id = _parsed(f"spiffe://{text}")
        assert (trust_domain is None) == (spiffe_id is None or bool(spiffe_id.path))


class TestTheGrammarDecides:
    """A text of at most 2048 bytes is a SPIFFE ID if and only if it is in the specification's grammar."""

    GRAMMAR = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|\Z))[a-zA-Z0-9._-]+)*")

    @given(st.one_of(near_ids, near_ids.map("spiffe://a".__add__), spiffe_ids))
    def test_law(self, text: str) -> None:
        assume(len(text) <= 2048)
        assert (_parsed(text) is not None) == (self.GRAMMAR.fullmatch(text) is not None)


class TestTheUrlParserAgrees:
    """The host and the path of an ID are those that a generic URL parser finds, with nothing left over."""

    @given(spiffe_ids)
    def test_law(self, text: str) -> None:
        spiffe_id, url = SpiffeId.parse(text), urlsplit(text)
        assert (url.scheme, url.netloc, url.path) == ("spiffe", spiffe_id.trust_domain.name, spiffe_id.path)
        assert (url.query, url.fragment, url.username, url.port) == ("", "", None, None)


class TestEqualityIsByBytes:
    """Two IDs are equal, and hash the same, if and only if their texts are equal."""

    @given(spiffe_ids, spiffe_ids)
    def test_law(self, left: str, right: str) -> None:
        assert (SpiffeId.parse(left) == SpiffeId.parse(right)) == (left == right)
        assert len({SpiffeId.parse(left), SpiffeId.parse(right)}) == len({left, right})
        assert hash(SpiffeId.parse(left)) == hash(SpiffeId.parse(left))


class TestQuotingStaysOnOneLine:
    """Whatever is quoted is printable ASCII, between two backticks, and never long."""

    @given(st.text())
    @example("x" * 1_000_000)
    @example("\ud800`\n\x1b")
    def test_law(self, text: str) -> None:
        shown = quoted(text)
        assert shown.isascii()
        assert shown.isprintable()
        assert shown.count("`") == 2
        assert len(shown) < 1300


def _svid_or_none(certificate: bytes) -> X509Svid | None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        svid = _value_or_none(lambda: x509_svid_from_pem(certificate), X509SvidError)
    assert not said, "no peer makes the certificate library print a warning"
    return svid


def _as_pem(content: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(content) + b"-----END CERTIFICATE-----\n"


GOOD = der(leaf())


class TestAnyBytesAreAnSvidOrAnError:
    """Any bytes are an X.509-SVID or raise X509SvidError; what was damaged never becomes another identity's."""

    @given(st.binary(max_size=2000))
    @example(b"")
    def test_law_for_any_bytes(self, content: bytes) -> None:
        assert _svid_or_none(content) is None

    @given(st.binary(min_size=1, max_size=2000))
    def test_law_for_any_der(self, content: bytes) -> None:
        assert _svid_or_none(_as_pem(content)) is None

    @given(st.integers(0, len(GOOD) - 1), st.integers(0, len(GOOD)), st.binary(max_size=8))
    def test_law_for_a_damaged_certificate(self, start: int, end: int, patch: bytes) -> None:
        svid = _svid_or_none(_as_pem(GOOD[:start] + patch + GOOD[max(start, end) :]))
        if svid is not None:  # damage to the key, the signature or the ID's own bytes can be read
            assert SpiffeId.parse(str(svid.spiffe_id)) == svid.spiffe_id

    @given(st.integers(0, len(pem(leaf())) - 1), st.binary(max_size=4))
    def test_law_for_a_damaged_text(self, position: int, patch: bytes) -> None:
        text = _as_pem(GOOD)
        _svid_or_none(text[:position] + patch + text[position + 1 :])


class TestOneUriSanDecides:
    """A certificate whose only URI SAN is a text is an SVID if and only if the text is an ID with a path."""

    @settings(max_examples=50)
    @given(st.one_of(near_ids, near_ids.map("spiffe://a".__add__), spiffe_ids).filter(str.isascii))
    def test_law(self, text: str) -> None:
        expected = _parsed(text)
        svid = _svid_or_none(pem(leaf([URI(text)])))
        if expected is None or not expected.path:
            assert svid is None
        else:
            assert svid is not None
            assert svid.spiffe_id == expected

    @settings(max_examples=25)
    @given(st.lists(st.sampled_from([SPIFFE_ID, SPIFFE_ID + "2", "https://a/", "x"]), min_size=2, max_size=5))
    def test_law_for_more_than_one(self, texts: list[str]) -> None:
        assert _svid_or_none(pem(leaf([URI(text) for text in texts]))) is None


class TestValidityIsAnInterval:
    """A certificate identifies its peer from its first to its last instant, in any order of asking."""

    VERIFICATION = PeerVerification(max_entries=2)
    CERTIFICATE = pem(leaf())
    BEGINS_NS, ENDS_NS = NOW_NS - 60_000_000_000, NOW_NS + 3_600_000_000_000

    @given(
        st.one_of(
            st.integers(),
            st.integers(BEGINS_NS - 2, BEGINS_NS + 2),
            st.integers(ENDS_NS - 2, ENDS_NS + 2),
            st.integers(BEGINS_NS, ENDS_NS),
        )
    )
    def test_law(self, now_ns: int) -> None:
        if self.BEGINS_NS <= now_ns <= self.ENDS_NS:
            assert str(self.VERIFICATION.verify(self.CERTIFICATE, now_ns).spiffe_id) == SPIFFE_ID
        else:
            with pytest.raises(Unidentified):
                self.VERIFICATION.verify(self.CERTIFICATE, now_ns)


class TestIssuedIsVerified:
    """What an authority issues is an SVID of exactly the ID, within the authority's life, for any ID and time."""

    AUTHORITY = Authority.generate(TrustDomain.parse("shop.example"), NOW, timedelta(days=30))

    @settings(max_examples=50)
    @given(
        path=paths.filter(bool),
        after=st.timedeltas(timedelta(0), timedelta(days=29)),
        lifetime=st.timedeltas(timedelta(seconds=1), timedelta(days=400)),
    )
    def test_law(self, path: str, after: timedelta, lifetime: timedelta) -> None:
        spiffe_id, now = SpiffeId.parse(f"spiffe://shop.example{path}"), NOW + after
        issued = self.AUTHORITY.issue_x509_svid(spiffe_id, now, lifetime)
        now_ns = (now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
        verified = PeerVerification().verify(issued.certificate_pem, now_ns - now_ns % 1_000_000_000)
        assert verified.spiffe_id == spiffe_id
        assert now < issued.not_after + timedelta(seconds=1)
        assert issued.not_after <= min(self.AUTHORITY.not_after, now + lifetime)
        assert verified.not_after_ns == int(issued.not_after.timestamp()) * 1_000_000_000


class TestAnyBytesAreAnAuthorityOrAnError:
    """Any bytes are an authority that issues, or raise AuthorityError."""

    KEPT = Authority.generate(TrustDomain.parse("shop.example"), NOW, timedelta(days=30)).to_pem()

    @given(st.binary(max_size=500))
    def test_law_for_any_bytes(self, content: bytes) -> None:
        with pytest.raises(AuthorityError):
            Authority.from_pem(content)

    @given(st.integers(0, len(KEPT) - 1), st.binary(max_size=3))
    def test_law_for_a_damaged_authority(self, position: int, patch: bytes) -> None:
        damaged = self.KEPT[:position] + patch + self.KEPT[position + 1 :]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            authority = _value_or_none(lambda: Authority.from_pem(damaged), AuthorityError)
        # Where it can still be read, the damage was in the text around the two blocks.
        assert authority is None or authority.to_pem() == self.KEPT
