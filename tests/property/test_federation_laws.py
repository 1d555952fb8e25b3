"""The laws of federation: one class per law, its docstring the sentence that is tested."""

from __future__ import annotations

import base64
import contextlib
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from hypothesis import example, given, strategies as st
from pydantic import ValidationError

from authz.errors import AuthzError
from authz.federation.bundle_file import bundle_from_document
from authz.federation.endpoint_url import endpoint_url, redirected_url
from authz.federation.errors import FederationError
from authz.federation.freshness import SupersededBundleError, require_successor
from authz.federation.kept_bundles import KeptBundle, KeptBundles, kept_bundle
from authz.federation.poll_times import PollTimes
from authz.federation.relationship import Endpoint, Relationship
from authz.policy.evidence_fields import BundleEndpoint
from tests.support.partner import ACME, bundle_of, new_authority

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from yarl import URL

    from authz.identity.authority import Authority
    from authz.identity.bundle import Bundle

Value = TypeVar("Value")

near_urls = st.lists(
    st.sampled_from(
        ["https", "http", ":", "//", "/", "@", "a.example", "[::1]", ":443", "\\", "?", "#", "%", "\n", "é", "."]
    ),
    max_size=10,
).map("".join)


@cache
def authorities() -> tuple[Authority, ...]:
    return new_authority(), new_authority(), new_authority()


bundles = st.builds(
    lambda keys, sequence: bundle_of(*(authorities()[key] for key in keys), sequence=sequence),
    st.lists(st.integers(0, 2), max_size=3, unique=True),
    st.one_of(st.none(), st.integers(0, 2**64 - 1)),
)


def value_or_none(read: Callable[[], Value], error: type[AuthzError] = FederationError) -> Value | None:
    """Give what was read, or None if it was refused as it is to be: with this error, in one printable line."""
    try:
        return read()
    except error as refused:
        text = str(refused)
    assert text.isprintable()
    assert len(text) < 3000
    return None


class TestEveryTextIsAUrlOfAnEndpointOrAnError:
    """Any text is an https URL with a host and without userinfo, to every reader, or raises FederationError."""

    @given(st.one_of(st.text(), near_urls, near_urls.map("https://".__add__)))
    @example("https://a.example\\@b.example/")
    @example("https://a.example:443@b.example/")
    def test_law(self, text: str) -> None:
        url: URL | None = value_or_none(lambda: endpoint_url(text))
        if url is None:
            return
        other = urlsplit(text)
        assert (url.scheme, url.raw_host, "@" in other.netloc) == ("https", other.hostname, False)
        assert url.port == (other.port or 443)

    @given(near_urls)
    def test_law_for_redirects(self, location: str) -> None:
        with contextlib.suppress(FederationError):
            url = redirected_url(endpoint_url("https://a.example/x"), location)
            assert endpoint_url(str(url)) == url


class TestWhatAPolicySetMayHaveCanBeFollowed:
    """Every URL that the policy language takes is one of an endpoint: no set in force has one that cannot be polled."""

    @given(
        st.one_of(near_urls, near_urls.map("https://".__add__), st.from_regex(r"https://[!-~]{1,20}", fullmatch=True))
    )
    def test_law(self, text: str) -> None:
        with contextlib.suppress(ValidationError):
            taken = BundleEndpoint(url=text, profile="https_web")  # type: ignore[arg-type]
            Endpoint(url=taken.url)


class TestEveryFileIsABundleOrAnError:
    """Any bytes are a bundle of the trust domain that was asked for, or raise an error of one printable line."""

    @given(st.one_of(st.binary(), st.text().map(str.encode), st.just(b'{"keys": []}'), st.binary().map(b"{".__add__)))
    def test_law(self, content: bytes) -> None:
        bundle = value_or_none(lambda: bundle_from_document(content, ACME), AuthzError)
        assert bundle is None or bundle.trust_domain == ACME


class TestEveryCopyIsWhatWasKeptOrAnError:
    """Any bytes are a copy that was kept of this trust domain, or raise FederationError."""

    @given(
        st.one_of(
            st.binary(),
            st.recursive(
                st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
                lambda inner: st.dictionaries(
                    st.sampled_from(["trust_domain", "url", "server", "document", "fetched", "file_digest"]), inner
                ),
            ).map(lambda value: json.dumps(value).encode()),
            st.fixed_dictionaries(
                {
                    "trust_domain": st.sampled_from(["acme.example", "other.example", "", 1]),
                    "url": st.sampled_from(["https://a.example/", "http://a.example/", None]),
                    "server": st.sampled_from([None, "spiffe://a/b", "spiffe://a", "x"]),
                    "document": st.sampled_from([base64.b64encode(b'{"keys": []}').decode(), "!", "", None]),
                    "fetched": st.sampled_from(["2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00", "x", None]),
                    "file_digest": st.sampled_from([None, "aa", 1]),
                }
            ).map(lambda value: json.dumps(value).encode()),
        )
    )
    def test_law(self, content: bytes) -> None:
        kept = value_or_none(lambda: kept_bundle(content, ACME))
        assert kept is None or (kept.bundle.trust_domain == ACME and kept.fetched.tzinfo is not None)

    def test_what_was_kept_is_read_again(self, tmp_path: Path) -> None:
        bundle = bundle_of(authorities()[0], sequence=3, refresh_hint=timedelta(seconds=7))
        kept = KeptBundle(
            bundle=bundle,
            document=bundle.to_json(),
            endpoint=Endpoint(url="https://a.example/"),
            file_digest=None,
            fetched=datetime.now(UTC),
        )
        store = KeptBundles(tmp_path)
        store.keep(kept)
        assert store.kept(ACME) is None  # it was not asked to keep any of that trust domain
        store.retain([ACME])
        store.keep(kept)
        assert store.kept(ACME) == kept
        store.retain([])
        assert store.kept(ACME) is None


class TestNoWayBack:
    """Whatever is fetched in whatever order, the sequence in force never falls, and never stays with other keys."""

    @given(st.lists(bundles.filter(lambda bundle: bundle.sequence is not None), min_size=1, max_size=8))
    def test_law(self, fetched: list[Bundle]) -> None:
        known = fetched[0]
        for bundle in fetched[1:]:
            before = known
            try:
                require_successor(known, bundle)
            except SupersededBundleError:
                continue
            known = bundle
            assert before.sequence is not None
            assert known.sequence is not None
            assert known.sequence > before.sequence or set(known.x509_authorities) == set(before.x509_authorities)
            assert known.sequence >= before.sequence


class TestPausesAreBounded:
    """Whatever a partner proposes and however often it fails, a pause is within the bounds."""

    @given(
        st.one_of(st.none(), st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=366))),
        st.integers(0, 10**9),
        st.booleans(),
        st.floats(0, 1),
    )
    def test_law(self, hint: timedelta | None, failures: int, has_bundle: bool, chance: float) -> None:  # noqa: FBT001
        times = PollTimes()
        pause = times.pause(hint=hint, failures=failures, has_bundle=has_bundle, chance=chance)
        assert times.shortest * 0.9 <= pause <= times.longest


class TestRelationshipsSurviveTheWire:
    """What is said of a relationship as fields is the same relationship again."""

    @given(st.booleans(), st.sampled_from([None, "https://a.example/x", "https://[::1]:1/"]))
    def test_law(self, has_file: bool, url: str | None) -> None:  # noqa: FBT001
        fields = {
            "trust_domain": "acme.example",
            "bundle_file": "/x/acme.json" if has_file else None,
            "url": url,
            "server": "spiffe://acme.example/server" if has_file and url else None,
        }
        if not has_file and url is None:
            with contextlib.suppress(FederationError):
                Relationship.from_fields(fields)
                raise AssertionError
            return
        assert Relationship.from_fields(fields).as_fields() == fields
