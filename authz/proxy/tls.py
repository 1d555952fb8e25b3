"""Who is let in and who is talked to: the TLS of a sidecar's inbound listener and of its destinations.

Decides which certificates end a handshake; which of the proven callers may do what is the policy's business.

- Inbound: TLS 1.3 and a client certificate, judged by Envoy's SPIFFE validator: its chain must lead to the authorities
  of the trust domain that its URI SAN names, so that a federated authority cannot sign our IDs. That there is exactly
  one URI SAN (X509-SVID 5.2) is for the check server to see: Envoy looks at the first.
- Inbound at the door for ThirdParties without SPIFFE IDs (:attr:`SidecarSpec.third_party_inbound`): the same, with a
  chain to one of the authorities that the policies name. Who is who there, the check server finds out.
- Outbound to a Service: the same validator, and the URI SAN must be one of the destination's identities.
- Outbound to a ThirdParty: its certificate must chain to the given authorities and be for the host that was asked for.
- No session is ever resumed, on either side: a resumed handshake does not verify the peer's chain again (RFC 8446 2.2),
  and would keep a peer whose trust domain was removed.

The key pair comes by SDS: from the sidecar's own server (:attr:`SidecarSpec.sds_socket`), together with the bundles,
or from a file (:func:`svid_secret`), because Envoy reloads a pair from disk only so. Each reload of the file builds the
TLS context anew, which reads the trust bundles again too.

X509-SVID: https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.core.v3 import (
    ApiConfigSource,
    ApiConfigSourceApiType,
    ApiVersion,
    BackoffStrategy,
    ConfigSource,
    DataSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    PathConfigSource,
    RetryPolicy,
    TransportSocket,
    TypedExtensionConfig,
    WatchedDirectory,
)
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    Secret,
    SpiffeCertValidatorConfig,
    SpiffeCertValidatorConfigTrustDomain,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.service.discovery.v3 import DiscoveryResponse
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher

from authz.proxy.errors import ProxyError
from authz.proxy.rendering import packed, rendered
from authz.proxy.spec import (
    AUTHORITIES_SECRET,
    KEY_FILE,
    SVID_FILE,
    SVID_SECRET,
    TRUST_SECRET,
    ServiceDestination,
    SidecarSpec,
    ThirdPartyDestination,
    ThirdPartyHost,
)
from authz.request import TlsVersion

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The cluster of the sidecar's SDS server.
SDS_CLUSTER = "sds"
#: A control that was started anew is found again within so long; Envoy's own choice is half a minute.
_SDS_RETRY = BackoffStrategy(base_interval=timedelta(milliseconds=100), max_interval=timedelta(seconds=2))

_PROTOCOLS = {
    TlsVersion.TLS_1_2: TlsParametersTlsProtocol.TLSv1_2,
    TlsVersion.TLS_1_3: TlsParametersTlsProtocol.TLSv1_3,
}
#: SPIFFE-ID 2.2: a segment is letters, digits, dots, dashes and underscores, and neither `.` nor `..`.
_SEGMENT = r"(?:\.*[A-Za-z0-9_-][A-Za-z0-9._-]*|\.{3,})"
_SPIFFE_TEXT = re.compile(r"spiffe://[a-z0-9._-]+(?:/(?:[A-Za-z0-9._-]+|\*\*?))+")


def svid_secret(svid_directory: str) -> str:
    """Give the content of the file that :attr:`SidecarSpec.svid_secret_file` names.

    It tells Envoy where the pair lies and to read it again whenever something is moved within the directory.
    """
    secret = Secret(
        name=SVID_SECRET,
        tls_certificate=TlsCertificate(
            certificate_chain=DataSource(filename=f"{svid_directory}/{SVID_FILE}"),
            private_key=DataSource(filename=f"{svid_directory}/{KEY_FILE}"),
            watched_directory=WatchedDirectory(path=svid_directory),
        ),
    )
    return rendered(DiscoveryResponse(resources=[packed(secret)]))


def inbound_socket(spec: SidecarSpec) -> TransportSocket:
    """Give the TLS of the inbound listener: nobody without an SVID of a trusted domain gets past it."""
    return _socket(
        DownstreamTlsContext(
            require_client_certificate=True,
            disable_stateless_session_resumption=True,
            disable_stateful_session_resumption=True,
            common_tls_context=_svid_context(spec, alpn_protocols=("h2", "http/1.1")),
        )
    )


def third_party_inbound_socket(spec: SidecarSpec) -> TransportSocket:
    """Give the TLS of the door for callers without SPIFFE IDs: what differs is by whom they are vouched for."""
    context = _svid_context(spec, alpn_protocols=("h2", "http/1.1"))
    context.validation_context_sds_secret_config = SdsSecretConfig(
        name=AUTHORITIES_SECRET, sds_config=_svid_source(spec)
    )
    return _socket(
        DownstreamTlsContext(
            require_client_certificate=True,
            disable_stateless_session_resumption=True,
            disable_stateful_session_resumption=True,
            common_tls_context=context,
        )
    )


def service_socket(spec: SidecarSpec, destination: ServiceDestination, *, server_name: str = "") -> TransportSocket:
    """Give the TLS towards another Service, whose certificate must carry one of its identities.

    `server_name` chooses a filter chain at the other end; it says nothing of who is there. ALPN is left to the
    connection pool, which offers the one protocol that it is going to speak.
    """
    if not destination.identities:
        raise ProxyError(f"the Service `{destination.name}` has no identity that its certificate could be checked for")
    names = [
        SubjectAltNameMatcher(san_type=SubjectAltNameMatcherSanType.URI, matcher=identity_matcher(identity))
        for identity in destination.identities
    ]
    return _socket(
        UpstreamTlsContext(sni=server_name, max_session_keys=0, common_tls_context=_svid_context(spec, names=names))
    )


def third_party_socket(destination: ThirdPartyDestination, host: ThirdPartyHost) -> TransportSocket:
    """Give the TLS towards a ThirdParty's host.

    For a plain entry the name is fixed here, whatever the app wrote after it (a port, a trailing dot); for a wildcard
    the cluster takes it from the request (`auto_sni`, `auto_san_validation`).
    """
    validation = CertificateValidationContext(trusted_ca=DataSource(filename=destination.authority_file))
    if not host.wildcard:
        validation.match_typed_subject_alt_names = [
            SubjectAltNameMatcher(san_type=SubjectAltNameMatcherSanType.DNS, matcher=StringMatcher(exact=host.name))
        ]
    return _socket(
        UpstreamTlsContext(
            sni="" if host.wildcard else host.name,
            max_session_keys=0,
            common_tls_context=CommonTlsContext(
                tls_params=TlsParameters(
                    tls_minimum_protocol_version=_PROTOCOLS[destination.min_tls],
                    tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
                ),
                validation_context=validation,
            ),
        )
    )


def identity_matcher(identity: str) -> StringMatcher:
    """Give what matches exactly the SPIFFE IDs that an identity pattern stands for; ProxyError if it is none.

    RE2 (Envoy's) matches the whole value. `*` is one segment, `**` (last) one or more.
    """
    if not _SPIFFE_TEXT.fullmatch(identity) or "**/" in identity:
        raise ProxyError(f"`{identity}` is neither a SPIFFE ID nor an identity pattern")
    if "*" not in identity:
        return StringMatcher(exact=identity)
    scheme_and_domain, *segments = identity.removeprefix("spiffe://").split("/")
    parts = [re.escape(f"spiffe://{scheme_and_domain}")]
    for segment in segments:
        match segment:
            case "**":
                parts.append(f"(?:/{_SEGMENT})+")
            case "*":
                parts.append(f"/{_SEGMENT}")
            case _:
                parts.append("/" + re.escape(segment))
    return StringMatcher(safe_regex=RegexMatcher(regex="".join(parts)))


def _svid_context(
    spec: SidecarSpec,
    *,
    names: Sequence[SubjectAltNameMatcher] = (),
    alpn_protocols: tuple[str, ...] = (),
) -> CommonTlsContext:
    """Give the context of a connection between sidecars; the peer's certificate must have one of `names`, if any."""
    context = CommonTlsContext(
        tls_params=TlsParameters(
            tls_minimum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
            tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3,
        ),
        tls_certificate_sds_secret_configs=[SdsSecretConfig(name=SVID_SECRET, sds_config=_svid_source(spec))],
        alpn_protocols=list(alpn_protocols),
    )
    if spec.sds_socket is None:
        context.validation_context = _spiffe_validation(spec, names)
        return context
    trust = SdsSecretConfig(name=TRUST_SECRET, sds_config=_svid_source(spec))
    if names:
        # What is static here and what comes by SDS are merged: the bundles are the sidecar's, the names this cluster's.
        context.combined_validation_context = CommonTlsContextCombinedCertificateValidationContext(
            default_validation_context=CertificateValidationContext(match_typed_subject_alt_names=list(names)),
            validation_context_sds_secret_config=trust,
        )
    else:
        context.validation_context_sds_secret_config = trust
    return context


def _svid_source(spec: SidecarSpec) -> ConfigSource:
    if spec.sds_socket is None:
        return ConfigSource(
            path_config_source=PathConfigSource(path=spec.svid_secret_file), resource_api_version=ApiVersion.V3
        )
    return ConfigSource(
        api_config_source=ApiConfigSource(
            api_type=ApiConfigSourceApiType.GRPC,
            transport_api_version=ApiVersion.V3,
            set_node_on_first_message_only=True,
            grpc_services=[
                GrpcService(
                    envoy_grpc=GrpcServiceEnvoyGrpc(
                        cluster_name=SDS_CLUSTER, retry_policy=RetryPolicy(retry_back_off=_SDS_RETRY)
                    )
                )
            ],
        ),
        resource_api_version=ApiVersion.V3,
        # For as long as it takes: without secrets an Envoy is not ready, and takes no connection to break it off.
        initial_fetch_timeout=timedelta(0),
    )


def _spiffe_validation(spec: SidecarSpec, names: Sequence[SubjectAltNameMatcher]) -> CertificateValidationContext:
    return CertificateValidationContext(
        match_typed_subject_alt_names=list(names),
        custom_validator_config=TypedExtensionConfig(
            name="envoy.tls.cert_validator.spiffe",
            typed_config=packed(
                SpiffeCertValidatorConfig(
                    trust_domains=[
                        SpiffeCertValidatorConfigTrustDomain(
                            name=bundle.trust_domain, trust_bundle=DataSource(filename=bundle.file)
                        )
                        for bundle in spec.trust_domains
                    ]
                )
            ),
        ),
    )


def _socket(context: DownstreamTlsContext | UpstreamTlsContext) -> TransportSocket:
    return TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))
