"""Which headers are ours, which ones nobody may send us, and which ones the app never gets.

Three rules follow from these tables, and :mod:`authz.proxy.hardening` renders them:

- What only a sidecar may say (`x-authz-*`, Envoy's own `x-envoy-*`) is removed from every request before
  anything reads it, by prefix, so that a name invented later is covered too.
- What was decided is what happens: headers by which a framework would replace the method or the path after the
  check (`x-http-method-override`, `x-original-url`, ...) never reach the check or the app.
- What the sidecar tells its check server about the connection is set after that removal, and is removed again
  before the request leaves for the app.

Names are lower case, as HTTP/2 carries them (RFC 9113 8.2); Envoy compares them so.
"""

from __future__ import annotations

#: The caller's verified SPIFFE ID, set by the callee's check server for the app.
X_AUTHZ_CALLER = "x-authz-caller"
#: On a denial: which record says why.
X_AUTHZ_DECISION_ID = "x-authz-decision-id"
#: On a denial: one of the contract's closed list of reasons.
X_AUTHZ_REASON = "x-authz-reason"
#: The inbound connection's TLS version, as Envoy writes it (`TLSv1.3`); for the check server only.
X_AUTHZ_TLS_VERSION = "x-authz-tls-version"
#: The inbound connection's cipher suite, as OpenSSL names it; for the check server only.
X_AUTHZ_TLS_CIPHER = "x-authz-tls-cipher"

#: In an answer between two sidecars: when the callee's received the call, by its clock; no app sees it.
X_AUTHZ_RECEIVED = "x-authz-received"

#: The decision's id, of a call that is to be held; for the hold server only, and what its route is found by.
X_AUTHZ_HOLD = "x-authz-hold"

X_REQUEST_ID = "x-request-id"
#: How long a stream may run: a gRPC caller says it, and the check server for every call that its answer bounds.
GRPC_TIMEOUT = "grpc-timeout"
#: What a caller said in it; for the check server only, which decides what becomes of it.
X_AUTHZ_TIMEOUT = "x-authz-timeout"
#: What per-route configuration and dynamic metadata of the check are filed under.
EXT_AUTHZ = "envoy.filters.http.ext_authz"
#: The check's dynamic metadata: why a call that its deadline cuts is refused from then on.
CUT_REASON = "cut_reason"
#: Beside it: how long after its beginning that is, as CEL writes a duration.
CUT_AFTER = "cut_after"
#: And whether the call is held: `yes`, or nothing.
HELD = "held"
#: What configuration of the hold is filed under.
EXT_PROC = "envoy.filters.http.ext_proc"
#: Envoy says of a call that its deadline has ended.
OVER_DETAILS = "max_duration_timeout"
#: Envoy says of a call that the hold ended how it came to that: this, and the reason that a new call would get.
HOLD_CUT_DETAILS = "authz_hold_cut:"
#: And of one whose hold broke off, or could not begin: this, and more of Envoy's own.
HOLD_LOST_DETAILS = "ext_proc_error"
#: Envoy says of a call whose connection it has drained how it ended: this is part of that.
DRAINED_DETAILS = "filter_chain_is_being_removed"
#: The dynamic metadata that holds Envoy to one address of a ThirdParty's host: `IP:PORT`.
UPSTREAM_ADDRESS = "upstream_address"
X_FORWARDED_CLIENT_CERT = "x-forwarded-client-cert"

#: Everything under our own name, whoever sent it.
AUTHZ_PREFIX = "x-authz-"
#: Envoy's own: some steer a router (`x-envoy-upstream-rq-timeout-ms`, `x-envoy-retry-on`), some are read by apps as
#: truth (`x-envoy-original-path`, `x-envoy-external-address`). None of a caller's may count.
ENVOY_PREFIX = "x-envoy-"

#: Removed from every request as it arrives, by prefix.
REMOVED_PREFIXES = (AUTHZ_PREFIX, ENVOY_PREFIX)

#: Headers that make frameworks run another method or path than the one that was decided (Symfony, Laravel, Rails,
#: Express `method-override`, ASP.NET, IIS `X-Original-URL` / `X-Rewrite-URL`: CVE-2018-14773).
OVERRIDE_HEADERS = (
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-original-uri",
    "x-original-method",
    "x-original-path",
    "x-rewrite-uri",
    "x-http-path-override",
    "x-override-url",
    "x-forwarded-method",
    "x-forwarded-uri",
    "x-forwarded-path",
)

#: Told to the check server or by it, removed before the request goes on.
CHECK_ONLY_HEADERS = (X_AUTHZ_TLS_VERSION, X_AUTHZ_TLS_CIPHER, X_AUTHZ_TIMEOUT, X_AUTHZ_HOLD)
