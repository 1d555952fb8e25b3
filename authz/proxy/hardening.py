"""What is the same on every listener of every sidecar: limits, timeouts, and which headers never get in.

Nothing here can be turned off by a :class:`~authz.proxy.spec.SidecarSpec`. Each setting, and why it is there:

Paths
    `normalize_path`, `merge_slashes` off, escaped slashes kept: the check sees what the client sent and the app gets
    the very bytes that were decided. With rewriting on, `/a/../b` arrives rewritten and `/a%2fb` gets Envoy's bare
    400 without a check or a record. CVE-2021-29492 (escaped slashes matched in different ways by proxy and app) is
    answered by the check, which refuses such paths, and not by rewriting them.
Headers
    `early_header_mutation` removes what only a sidecar may say (`x-authz-*`, `x-envoy-*`) and what makes frameworks run
    another method or path than the decided one, before anything reads the request. It then sets what the check server
    is told about the connection. `headers_with_underscores_action: REJECT_REQUEST`: many servers read `x_authz_caller`
    as `x-authz-caller` (CGI's rule, RFC 3875 4.1.18). `internal_address_config` is never set: an empty list makes a
    forged x-forwarded-for internal. `use_remote_address` inbound: x-forwarded-for ends with the real peer and
    x-forwarded-proto is ours. Request trailers of these names are removed too: HTTP/2 passes them on,
    and some servers merge them into the headers (RFC 9110 6.5.1).
Client certificate header
    SANITIZE_SET inbound writes x-forwarded-client-cert anew from the proven peer; every other mode, but SANITIZE
    (outbound), lets a forged one through.
Limits
    Header size and count, streams per connection, flow-control windows and buffers are bounded, so that a peer costs a
    known amount of memory (CVE-2019-9511 to -9518, the HTTP/2 floods; CVE-2023-44487, rapid reset, is what
    `max_concurrent_streams` and Envoy's own premature-reset guard are for). Connections are bounded for the process.
Time
    A stream may live and be silent for as long as the policy allows it: no request, route or stream idle timeout. What
    is bounded is the time in which nothing useful can happen: the TLS handshake, the request's headers (slowloris,
    CVE-2007-6750), idle connections, dead peers (HTTP/2 PING, TCP keepalive). A connection ends before the SVID that
    it began with can: Envoy never verifies a certificate again while the connection lives.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation, HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    Http1ProtocolOptions,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    HttpProtocolOptionsHeadersWithUnderscoresAction,
    KeepaliveSettings,
    TcpKeepalive,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import (
    HeaderMutation as HeaderMutationFilter,
    Mutations,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation as EarlyHeaderMutation,
)
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.envoy.type.v3 import Percent

from authz.proxy.header_names import (
    AUTHZ_PREFIX,
    CHECK_ONLY_HEADERS,
    ENVOY_PREFIX,
    GRPC_TIMEOUT,
    OVERRIDE_HEADERS,
    REMOVED_PREFIXES,
    X_AUTHZ_TIMEOUT,
    X_AUTHZ_TLS_CIPHER,
    X_AUTHZ_TLS_VERSION,
    X_FORWARDED_CLIENT_CERT,
)
from authz.proxy.rendering import packed
from authz.request import Direction

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Envoy's default, said aloud; the check server takes a little more (authz.request.MAX_HEADERS_BYTES).
MAX_REQUEST_HEADERS_KB = 60
MAX_HEADERS_COUNT = 100
#: Per connection; a peer that needs more opens another one.
MAX_CONCURRENT_STREAMS = 256
#: Envoy's advice for an edge proxy: 64 KiB a stream, 1 MiB a connection, 32 KiB of buffer.
STREAM_WINDOW_BYTES = 64 * 1024
CONNECTION_WINDOW_BYTES = 1024 * 1024
BUFFER_BYTES = 32 * 1024
#: Of the whole process, over all listeners but the admin's.
MAX_DOWNSTREAM_CONNECTIONS = 10_000

HANDSHAKE_TIMEOUT = timedelta(seconds=5)
REQUEST_HEADERS_TIMEOUT = timedelta(seconds=10)
DOWNSTREAM_IDLE_TIMEOUT = timedelta(minutes=5)
#: How long a closed HTTP/1.1 connection lingers; a cut stream ends so much later.
DELAYED_CLOSE_TIMEOUT = timedelta(milliseconds=50)
DRAIN_TIMEOUT = timedelta(seconds=5)
NO_TIMEOUT = timedelta(0)
PING_INTERVAL = timedelta(seconds=30)
PING_TIMEOUT = timedelta(seconds=10)
#: Connections end spread over this share of their longest life, not all at once.
DURATION_JITTER_PERCENT = 20.0


def downstream_options(max_connection_duration: timedelta | None) -> HttpProtocolOptions:
    """Give the limits of a listener's HTTP connections, of either version."""
    options = HttpProtocolOptions(
        idle_timeout=DOWNSTREAM_IDLE_TIMEOUT,
        max_headers_count=MAX_HEADERS_COUNT,
        headers_with_underscores_action=HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
    )
    if max_connection_duration is not None:
        # The jitter lengthens what it is given: the whole must stay within the asked limit.
        options.max_connection_duration = max_connection_duration / (1 + DURATION_JITTER_PERCENT / 100)
        options.max_connection_duration_jitter = Percent(value=DURATION_JITTER_PERCENT)
    return options


def http1_options() -> Http1ProtocolOptions:
    """Give the HTTP/1.1 options of a listener: of the upgrades that a client may offer, only WebSocket is heard.

    Others (`h2c`, `TLS/1.2`, which common clients offer by themselves) are ignored, as RFC 9110 7.8 has it, and the
    request is checked as what it is without them; Envoy would refuse it without a check.
    """
    return Http1ProtocolOptions(
        ignore_http_11_upgrade=[StringMatcher(safe_regex=RegexMatcher(regex=_anything_but("websocket")))]
    )


def http2_options() -> Http2ProtocolOptions:
    """Give the HTTP/2 limits of a listener or a cluster, with extended CONNECT for WebSockets (RFC 8441)."""
    return Http2ProtocolOptions(
        allow_connect=True,
        max_concurrent_streams=MAX_CONCURRENT_STREAMS,
        initial_stream_window_size=STREAM_WINDOW_BYTES,
        initial_connection_window_size=CONNECTION_WINDOW_BYTES,
        connection_keepalive=KeepaliveSettings(interval=PING_INTERVAL, timeout=PING_TIMEOUT),
    )


def tcp_keepalive() -> TcpKeepalive:
    """Give what notices a dead peer under an HTTP/1.1 stream that may be silent: about a minute."""
    return TcpKeepalive(keepalive_time=30, keepalive_interval=10, keepalive_probes=3)


def early_header_mutation(direction: Direction) -> TypedExtensionConfig:
    """Give what takes a request's forged and overriding headers away before anything reads it.

    INVARIANT (order): removal comes first. Inbound, the connection's TLS version and cipher are set after it, so what
    the check server reads under those names was written by this listener.
    """
    mutations = _prefixes_removed(REMOVED_PREFIXES)
    mutations += [HeaderMutation(remove=name) for name in OVERRIDE_HEADERS]
    # A route obeys the header whatever the protocol, and from its first look on: only what the check writes may count.
    mutations += [_set(X_AUTHZ_TIMEOUT, f"%REQ({GRPC_TIMEOUT})%"), HeaderMutation(remove=GRPC_TIMEOUT)]
    if direction is Direction.INBOUND:
        mutations += [
            _set(X_AUTHZ_TLS_VERSION, "%DOWNSTREAM_TLS_VERSION%"),
            _set(X_AUTHZ_TLS_CIPHER, "%DOWNSTREAM_TLS_CIPHER%"),
        ]
    return TypedExtensionConfig(
        name="envoy.http.early_header_mutation.header_mutation",
        typed_config=packed(EarlyHeaderMutation(mutations=mutations)),
    )


def removal_after_the_check() -> HttpFilter:
    """Give the filter that stands between the check and the router.

    It removes what was for the check server only, what Envoy itself put into the request
    (`x-envoy-external-address`), and the same names in trailers, which no early mutation can reach.
    """
    return HttpFilter(
        name="envoy.filters.http.header_mutation",
        typed_config=packed(
            HeaderMutationFilter(
                mutations=Mutations(
                    request_mutations=[
                        *(HeaderMutation(remove=name) for name in CHECK_ONLY_HEADERS),
                        *_prefixes_removed([ENVOY_PREFIX]),
                    ],
                    request_trailers_mutations=[
                        *_prefixes_removed([AUTHZ_PREFIX, ENVOY_PREFIX]),
                        *(HeaderMutation(remove=name) for name in (X_FORWARDED_CLIENT_CERT, *OVERRIDE_HEADERS)),
                    ],
                )
            )
        ),
    )


def _anything_but(word: str) -> str:
    """Give an RE2 expression, which has no negation, for every text but this lower-case word in any case."""
    shorter = (f"{word[:at]}([^{letter}].*)?" for at, letter in enumerate(word))
    return "(?i)" + "|".join([*shorter, f"{word}.+"])


def _prefixes_removed(prefixes: Iterable[str]) -> list[HeaderMutation]:
    return [
        HeaderMutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=StringMatcher(prefix=prefix)))
        for prefix in prefixes
    ]


def _set(name: str, value: str) -> HeaderMutation:
    return HeaderMutation(
        append=HeaderValueOption(
            header=HeaderValue(key=name, value=value),
            append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
        )
    )
