from __future__ import annotations

import json
import re

import pytest
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    DownstreamTlsContext,
    SpiffeCertValidatorConfig,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from hypothesis import given, strategies as st

from authz.identity.errors import IdentityError
from authz.identity.spiffe_id import SpiffeId
from authz.policy.identity_pattern import IdentityPattern
from authz.proxy.errors import ProxyError
from authz.proxy.spec import ServiceDestination, ThirdPartyDestination, ThirdPartyHost, TrustBundle
from authz.proxy.tls import identity_matcher, inbound_socket, service_socket, svid_secret, third_party_socket
from authz.request import TlsVersion
from tests.support.sidecar_specs import LOCAL, sidecar

_SEGMENTS = st.lists(
    st.sampled_from(["a", "b", "a.b", "ns", "sa", "..", ".", "...", "a-b", "A"]), min_size=1, max_size=4
)
_PATTERNS = st.lists(st.sampled_from(["a", "b", "a.b", "ns", "*", "*"]), min_size=1, max_size=4)


@given(_PATTERNS, st.booleans(), _SEGMENTS, st.sampled_from(["shop.example", "shopxexample", "shop.example.org"]))
def test_an_identity_pattern_means_to_envoy_what_it_means_to_the_policy(
    pattern: list[str],
    open_end: bool,  # noqa: FBT001
    segments: list[str],
    domain: str,
) -> None:
    text = "spiffe://shop.example/" + "/".join([*pattern, *(["**"] if open_end else [])])
    uri = f"spiffe://{domain}/" + "/".join(segments)
    try:
        decided = IdentityPattern.parse(text).matches(SpiffeId.parse(uri))
    except IdentityError:  # no workload can have this ID
        decided = False
    matcher = identity_matcher(text)
    if matcher.safe_regex is None:
        assert (matcher.exact == uri) is decided
    else:
        assert (re.fullmatch(matcher.safe_regex.regex, uri) is not None) is decided


@given(st.text())
def test_any_text_is_an_identity_pattern_or_an_error(text: str) -> None:
    for candidate in (text, f"spiffe://shop.example/{text}"):
        try:
            matcher = identity_matcher(candidate)
        except ProxyError:
            continue
        assert matcher.exact == candidate or matcher.safe_regex is not None


@pytest.mark.parametrize(
    "text", ["spiffe://shop.example", "spiffe://*/a", "spiffe://td/**/a", "spiffe://td/a*", "https://a/b"]
)
def test_what_is_no_identity_is_matched_by_nothing(text: str) -> None:
    with pytest.raises(ProxyError, match="is neither a SPIFFE ID nor an identity pattern"):
        identity_matcher(text)


def test_inbound_demands_tls_1_3_a_certificate_and_a_handshake_of_its_own() -> None:
    context = inbound_socket(sidecar()).typed_config.unpack()  # type: ignore[union-attr]
    assert isinstance(context, DownstreamTlsContext)
    assert context.require_client_certificate is True
    assert context.disable_stateless_session_resumption is True
    assert context.disable_stateful_session_resumption is True
    common = context.common_tls_context
    assert common is not None
    assert common.tls_params is not None
    assert common.tls_params.tls_minimum_protocol_version == TlsParametersTlsProtocol.TLSv1_3


def test_each_trust_domain_has_its_own_authorities() -> None:
    bundles = (TrustBundle(trust_domain="a.example", file="a.pem"), TrustBundle(trust_domain="b.example", file="b.pem"))
    context = inbound_socket(sidecar(trust_domains=bundles)).typed_config.unpack()  # type: ignore[union-attr]
    assert isinstance(context, DownstreamTlsContext)
    validation = context.common_tls_context.validation_context  # type: ignore[union-attr]
    assert validation is not None
    assert validation.trusted_ca is None
    spiffe = validation.custom_validator_config.typed_config.unpack()  # type: ignore[union-attr]
    assert isinstance(spiffe, SpiffeCertValidatorConfig)
    assert [(one.name, one.trust_bundle.filename) for one in spiffe.trust_domains if one.trust_bundle is not None] == [
        ("a.example", "a.pem"),
        ("b.example", "b.pem"),
    ]


def test_a_destination_without_an_identity_is_refused() -> None:
    destination = ServiceDestination(name="catalog", identities=(), address=LOCAL)
    with pytest.raises(ProxyError, match="`catalog` has no identity"):
        service_socket(sidecar(), destination)


@pytest.mark.parametrize("lowest", list(TlsVersion))
def test_a_third_party_gets_no_less_than_its_tls_version(lowest: TlsVersion) -> None:
    host = ThirdPartyHost(name="api.acme.example", port=8443)
    party = ThirdPartyDestination(name="acme", hosts=(host,), authority_file="ca.pem", min_tls=lowest)
    context = third_party_socket(party, host).typed_config.unpack()  # type: ignore[union-attr]
    assert isinstance(context, UpstreamTlsContext)
    assert context.common_tls_context is not None
    assert context.common_tls_context.tls_params is not None
    offered = context.common_tls_context.tls_params
    assert (offered.tls_minimum_protocol_version.name, offered.tls_maximum_protocol_version.name) == (lowest, "TLSv1_3")
    assert (context.sni, context.max_session_keys) == ("api.acme.example", 0)


def test_the_svid_secret_names_the_pair_and_the_directory_that_is_watched() -> None:
    (secret,) = json.loads(svid_secret("/run/svid"))["resources"]
    assert secret == {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": "svid",
        "tls_certificate": {
            "certificate_chain": {"filename": "/run/svid/svid.pem"},
            "private_key": {"filename": "/run/svid/key.pem"},
            "watched_directory": {"path": "/run/svid"},
        },
    }
