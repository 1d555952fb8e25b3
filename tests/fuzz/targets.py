"""What is fuzzed: for each reader of foreign bytes a law that holds whatever the bytes are.

A target takes bytes and raises only if its law is broken. The same targets are driven by atheris (`make fuzz`), by
hypothesis, and by the corpus (`test_corpus.py`).
"""

from __future__ import annotations

import json
import re
from base64 import encodebytes, urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import unquote_to_bytes, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf.message import DecodeError

from authz.decision import Verdict
from authz.errors import AuthzError
from authz.federation.bundle_file import bundle_from_document
from authz.federation.endpoint_url import endpoint_url, redirected_url
from authz.federation.kept_bundles import kept_bundle
from authz.hub.arrival import Arrival, ArrivalReader
from authz.hub.errors import ArrivalError
from authz.identity.base64url import base64url
from authz.identity.bundle import Bundle, bundle_from_der, bundle_from_json, bundle_from_pem, jwt_bundle_from_json
from authz.identity.jwt_svid import LEEWAY_NS, verify_jwt_svid
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.trust import Trust
from authz.identity.verification import PeerVerification, Unidentified
from authz.identity.x509_chain import chain_from_pem, verify_x509_svid
from authz.insight.attempt import attempt_of_line
from authz.instant import NS_PER_MS, rfc3339_from_ns
from authz.issuer.attestor.container_evidence import (
    container_facts,
    container_ids,
    container_membership,
    is_as_selected,
    repository_digests,
)
from authz.issuer.errors import AttestationError
from authz.policy.asked_call_json import asked_call_from_json
from authz.policy.document import SourceFile
from authz.policy.errors import PolicySetFaults
from authz.policy.evaluation import evaluate
from authz.policy.evidence_fields import Container
from authz.policy.host import is_well_formed, parse_service_host, requested_host
from authz.policy.identity_pattern import IdentityPattern, IdentityTable
from authz.policy.index import PolicyIndex, compile_index
from authz.policy.lint import lint
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.policy.policy_test import directory_of
from authz.policy.revocation import parse_revocation
from authz.policy.route import GrpcMethod, PathShape, PathTemplate, parse_method, path_segments
from authz.policy.schema import Kind
from authz.policy.segment_trie import SegmentTrie
from authz.policy.window import HORIZON_NS, parse_instant_ns
from authz.policy.window_edit import closed_at
from authz.records.batch import batch_from_json, batch_json
from authz.records.cut_call import cut_line
from authz.records.errors import RecordError
from authz.records.failed_handshake import handshake_line
from authz.records.record_lines import RecordLines
from authz.request import Call, Direction
from authz.sidecar.check.bearer import MAX_TOKEN_BYTES, names_a_workload
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.check.http2.frames import HEADER_BYTES
from authz.sidecar.check.http2.health import NOT_SERVING, SERVING
from authz.sidecar.check.http2.limits import MAX_FRAME_BYTES
from authz.sidecar.clock_cell import NEVER_NS, ClockCell
from authz.sidecar.control.access_log_message import failed_handshake
from authz.sidecar.control.access_log_receiver import AccessLogReceiver, Heard
from authz.sidecar.control.cut_message import end_of_call
from authz.sidecar.control.ended_calls import EndedCalls
from authz.sidecar.errors import ClockError
from authz.sidecar.in_force import InForce, PolicyInForce
from authz.sidecar.latest_instant import kept_instant_ns, kept_text
from authz.sidecar.unsafe_clock import clock_setting
from tests.conformance import reference
from tests.support import http2_frames
from tests.support.certificates import NOW, NOW_NS, SPIFFE_ID, key_usage, leaf, pem
from tests.support.check_request import check_request
from tests.support.decision_record import unpack_decision
from tests.support.http2_peer import LARGE_ANSWER, Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from authz.identity.public_key import PublicKey
    from authz.identity.verification import VerifiedIdentity

#: as its module says
MAX_HANDSHAKE_LINE_BYTES: Final = 6 * 1024
MAX_CUT_LINE_BYTES = 16 * 1024

S = TypeVar("S")
T = TypeVar("T")

CALLER: Final = SpiffeId.parse(SPIFFE_ID)
SHAPES: Final = tuple(frozenset(some) for size in range(5) for some in combinations(PathShape, size))
_LINES: Final = RecordLines("s")
#: more lines of one input say nothing new
MAX_LINES: Final = 8

PREAMBLE: Final = f"""\
apiVersion: authz/v1
kind: Mesh
metadata: {{name: shop}}
spec: {{trustDomains: [shop.example], federates: [{{trustDomain: acme.example, bundle: acme.pem}}]}}
---
apiVersion: authz/v1
kind: Service
metadata: {{name: orders}}
spec: {{identities: ["{SPIFFE_ID}"], attributes: {{env: prod}}}}
---
apiVersion: authz/v1
kind: Service
metadata: {{name: catalog}}
spec:
  identities: ["spiffe://shop.example/catalog/*"]
  attributes: {{env: prod}}
  hosts: [catalog.local]
  api: [{{name: get, methods: [GET], paths: ["/items/{{id}}"]}}, {{name: list, grpc: [shop.Catalog/List]}}]
---
apiVersion: authz/v1
kind: ThirdParty
metadata: {{name: acme}}
spec:
  identities: ["spiffe://acme.example/**"]
  hosts: [api.acme.example, "*.acme.example:8443"]
  window: {{opens: 2026-01-01T00:00:00Z, closes: 2027-01-01T00:00:00Z}}
---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {{name: read}}
spec:
  from: [{{services: [orders]}}]
  to: [{{attributes: {{env: prod}}, operations: [{{methods: [GET], paths: ["/items/{{id}}"]}}]}}]
"""

RULE: Final = f"""\
{PREAMBLE}---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {{name: fuzzed}}
spec:
  from: [{{services: [orders]}}]
  to: [{{services: [catalog], operations: all}}]
  window: """

GET: Final = Call(
    direction=Direction.INBOUND, service="catalog", caller=CALLER, method="GET", path="/items/1", host="catalog"
)
CALLS: Final = (GET, replace(GET, method="DELETE"), replace(GET, direction=Direction.OUTBOUND, host="b.acme.example:1"))


def text_of(data: bytes) -> str:
    """Give text as a policy file or a line of JSON can hold it, lone surrogates included."""
    return data.decode("utf-8", "surrogateescape")


def lines_of(data: bytes) -> tuple[str, list[str]]:
    first, *more = text_of(data).split("\n")
    return first, more[:MAX_LINES]


def parsed_or_refused(parse: Callable[[S], T], given: S) -> T | None:
    """Parse; what is refused is refused with a message of one line, and with an error of our own."""
    try:
        return parse(given)
    except AuthzError as error:
        message = str(error)
    assert message
    assert message.isprintable(), message
    return None


# --- policy sets


def loaded(content: bytes) -> PolicySet | None:
    try:
        return parse_policy_set([SourceFile("any.yaml", content)])
    except PolicySetFaults as raised:
        faults = raised.faults
    assert faults
    assert list(faults) == sorted(set(faults))
    lines = content.count(b"\n") + content.count(b"\r") + 1
    for fault in faults:
        assert 1 <= fault.line <= lines + 1, fault
        assert fault.column >= 1
        assert str(fault).isprintable(), fault
    return None


def answers_as_the_reference(policy_set: PolicySet, index: PolicyIndex, call: Call, now_ns: int) -> None:
    got = evaluate(index, call, now_ns)
    answer = reference.Answer(got.verdict.value, got.reason.value, got.policy, got.valid_until_ns)
    assert answer == reference.reference_answer(policy_set, call, now_ns), (call, now_ns)


def loader(data: bytes) -> None:
    """Any bytes give a set, which answers as the reference does, or faults with positions."""
    policy_set = loaded(data)
    if policy_set is None:
        return
    assert parse_policy_set([SourceFile("other.yaml", data)]).revision == policy_set.revision
    index = compile_index(policy_set)
    for call in CALLS:
        answers_as_the_reference(policy_set, index, call, NOW_NS)
    for finding in lint(policy_set, now_ns=NOW_NS):
        assert str(finding).isprintable()


def documents(data: bytes) -> None:
    """The same of bytes behind a sound set."""
    loader(PREAMBLE.encode() + b"---\n" + data)


def window(data: bytes) -> None:
    """Any text in a rule's window is refused, or answers as the reference does, with a tight `valid_until`."""
    policy_set = loaded(RULE.encode() + data)
    if policy_set is None:
        return
    index = compile_index(policy_set)
    for now_ns in (NOW_NS, NOW_NS + HORIZON_NS // 2, 0):
        answers_as_the_reference(policy_set, index, CALLS[1], now_ns)
        got = evaluate(index, CALLS[1], now_ns)
        until_ns = got.valid_until_ns
        if until_ns is not None:
            assert evaluate(index, CALLS[1], until_ns - 1).verdict is got.verdict
            assert evaluate(index, CALLS[1], until_ns).verdict is not got.verdict


# --- what stands in a rule


@cache
def everything_open() -> tuple[PolicySet, PolicyIndex]:
    """Give a set with a Service for each combination of shapes, to which everything is allowed."""
    documents = [{"apiVersion": "authz/v1", "kind": "Mesh", "metadata": {"name": "m"}, "spec": {"trustDomains": ["a"]}}]
    for number, shapes in enumerate(SHAPES):
        spec = {"identities": [f"spiffe://a/{number}"], **({"paths": {"allow": sorted(shapes)}} if shapes else {})}
        documents.append(
            {"apiVersion": "authz/v1", "kind": "Service", "metadata": {"name": f"s{number}"}, "spec": spec}
        )
    content = "\n---\n".join(json.dumps(each) for each in documents).encode()
    policy_set = parse_policy_set([SourceFile("set.yaml", content)])
    return policy_set, compile_index(policy_set)


def path(data: bytes) -> None:
    """A request's path has one decoded form, that of a reader that goes character by character, or none."""
    shapes = SHAPES[data[0] % len(SHAPES)] if data else frozenset()
    target = data[1:].decode("latin-1")
    segments = path_segments(target, shapes)
    service = everything_open()[0].services
    name = f"s{SHAPES.index(shapes)}"
    destination = next(each for each in service if each.name == name)
    assert segments == reference._segments(replace(GET, path=target), destination), target
    if segments is not None:
        assert segments
        assert {".", ".."}.isdisjoint(segments)
        assert not any("/" in each or "\\" in each or "\x00" in each for each in segments)


def pattern(data: bytes) -> None:
    """A path pattern is refused, or matches what the contract says it does, alone and among others."""
    asked, written = lines_of(data)
    segments = path_segments(asked)
    trie: SegmentTrie[PathTemplate] = SegmentTrie()
    templates = []
    for text in written:
        parsed_or_refused(parse_method, text)
        parsed_or_refused(GrpcMethod.parse, text)
        template = parsed_or_refused(PathTemplate.parse, text)
        if template is not None:
            assert str(template) == text
            trie.add(template.segments, template)
            templates.append(template)
    if segments is None:
        return
    wanted = [each for each in templates if reference._path_matches(each.text.split("/")[1:], segments)]
    assert sorted(map(str, trie.matching(segments))) == sorted(map(str, wanted))
    for one in templates:
        for other in wanted:
            if one.covers(other):
                assert one in wanted


def identity(data: bytes) -> None:
    """An identity pattern is refused, or stands for what the contract says it does, alone and among others."""
    asked, written = lines_of(data)
    spiffe_id = parsed_or_refused(SpiffeId.parse, asked)
    parsed_or_refused(parse_revocation, asked)
    table: IdentityTable[IdentityPattern] = IdentityTable()
    patterns = []
    for text in written:
        each = parsed_or_refused(IdentityPattern.parse, text)
        if each is not None:
            assert str(each) == text
            table.add(each, each)
            patterns.append(each)
    for one in patterns:
        assert one.overlaps(one)
        assert one.covers(one)
        for other in patterns:
            assert one.overlaps(other) == other.overlaps(one)
            assert not one.covers(other) or one.overlaps(other)
    if spiffe_id is None or not spiffe_id.path:
        return
    wanted = [each for each in patterns if reference._identity_matches(str(each), asked)]
    assert sorted(map(str, (*table.exact(spiffe_id), *table.matching(spiffe_id)))) == sorted(map(str, wanted))
    for one in wanted:
        assert one.matches(spiffe_id)
        assert all(one.overlaps(other) for other in wanted)
    for one in patterns:
        assert one in wanted or not any(one.covers(other) for other in wanted)


def host(data: bytes) -> None:
    """A Host header names what the contract says it does among the hosts of a set."""
    asked, written = lines_of(data)
    for text in written:
        parsed_or_refused(parse_service_host, text)
    documents = [
        {
            "apiVersion": "authz/v1",
            "kind": "ThirdParty",
            "metadata": {"name": f"p{number}"},
            "spec": {"hosts": [text], "window": {"opens": "2026-01-01T00:00:00Z", "closes": "2027-01-01T00:00:00Z"}},
        }
        for number, text in enumerate(written)
    ]
    content = "\n---\n".join((PREAMBLE, *(json.dumps(each) for each in documents)))
    policy_set = loaded(content.encode())
    if policy_set is None or not is_well_formed(asked):
        return
    requested = requested_host(asked)
    got = None if requested is None else compile_index(policy_set).destination(*requested)
    wanted = reference._destination(policy_set, replace(GET, direction=Direction.OUTBOUND, host=asked))
    assert (None if got is None else got.name) == (None if wanted is None else wanted.name)


def instant(data: bytes) -> None:
    """A time is refused, or is the instant that Python's own reader takes it for, and is written back as itself."""
    text = text_of(data)
    instant_ns = parsed_or_refused(parse_instant_ns, text)
    if instant_ns is None:
        return
    moment = datetime.fromisoformat(text.upper())
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    assert since // timedelta(milliseconds=1) * NS_PER_MS == instant_ns
    assert parse_instant_ns(rfc3339_from_ns(instant_ns)) == instant_ns


# --- questions


@cache
def sound_set() -> tuple[PolicySet, PolicyIndex]:
    policy_set = parse_policy_set([SourceFile("set.yaml", PREAMBLE.encode())])
    return policy_set, compile_index(policy_set)


def asked_call(data: bytes) -> None:
    """A line of `authz check --calls` is refused, or is a call that is answered as the reference answers it."""
    policy_set, index = sound_set()
    read = parsed_or_refused(asked_call_from_json, data)
    if read is None:
        return
    asked, at_ns = read
    call = parsed_or_refused(directory_of(policy_set).call, asked)
    if call is None:
        return
    answers_as_the_reference(policy_set, index, call, NOW_NS if at_ns is None else at_ns)


@cache
def checker() -> Checker:
    in_force = InForce()
    in_force.policy = PolicyInForce(index=sound_set()[1])
    workload = Workload(service="catalog", identity=_no_identity)
    return Checker(workload=workload, in_force=in_force, record=_as_json, clock=lambda: NOW_NS)


def _no_identity() -> VerifiedIdentity | None:
    return None


def _as_json(packed: bytes) -> bool:
    line = _LINES.line(packed)
    assert line == unpack_decision(packed, "s").json_line()
    return bool(json.loads(line))


def _answered(message: bytes) -> bool:
    """Whether a check is allowed; the answer is whole, and no fault of the program stands behind it."""
    answering = checker()
    answering.faults.clear()
    response = external_auth_pb2.CheckResponse.FromString(answering.answer(message))
    assert set(answering.faults) <= {"message", "context"}, answering.faults
    kind = response.WhichOneof("http_response")
    assert (response.status.code == 0) == (kind == "ok_response")
    assert kind == "ok_response" or (kind == "denied_response" and response.denied_response.status.code >= 400)
    return kind == "ok_response"


def check_bytes(data: bytes) -> None:
    """Any bytes of a check get a whole answer; without a certificate of ours it is a deny."""
    allowed = _answered(data)
    assert not allowed or b"-----BEGIN CERTIFICATE-----" in unquote_to_bytes(data)


# --- windows


def log_line(data: bytes) -> None:
    """A line of a decision log is damaged, tells nothing, or is an attempt that the line itself says."""
    for line in data.split(b"\n")[:MAX_LINES]:
        attempt = parsed_or_refused(attempt_of_line, line)
        if attempt is not None:
            record = json.loads(line)
            assert (record["decision"], record["policy"][:2048]) == ("deny", attempt.name)
            assert (record["reason"] in {"closed", "decommissioned"}) == attempt.after
            assert parse_instant_ns(record["time"]) == attempt.time_ns


def window_edit(data: bytes) -> None:
    """In any set each date is moved where it stands, or refused; what is moved loads, or closes before it opens."""
    content = PREAMBLE.encode() + b"---\n" + data
    policy_set = loaded(content)
    for kind, named in () if policy_set is None else windows_in(policy_set):
        edit = parsed_or_refused(lambda end: closed_at(SourceFile("x", content), kind, named, end), END)  # noqa: B023 called at once
        if edit is not None:
            changed = loaded(edit.file.content)
            assert edit.old is not None or len(edit.file.content) > len(content)
            assert END.encode() in edit.file.content
            assert changed is None or (kind, named) in windows_in(changed)


END: Final = "2026-06-01T00:00:00Z"


def windows_in(policy_set: PolicySet) -> list[tuple[Kind, str]]:
    return [
        *((Kind.THIRD_PARTY, each.name) for each in policy_set.third_parties),
        *((Kind.MICRO_POLICY, each.name) for each in policy_set.micro_policies if not each.window.always),
    ]


CERTIFICATE: Final = pem(leaf())


def check_call(data: bytes) -> None:
    """A check of our own caller is allowed as the reference allows the call, whatever its words are."""
    method, target, authority, *headers = (*data.split(b"\n"), b"", b"", b"")
    named = tuple(
        (name.decode("ascii", "ignore").lower(), value)
        for name, colon, value in (header.partition(b":") for header in headers[:MAX_LINES])
        if colon and name and not name.startswith((b":", b"x-authz-"))
    )
    message = check_request(
        certificate_pem=CERTIFICATE,
        headers=((":method", method), (":path", target), (":authority", authority), *named),
    )
    allowed = _answered(message.SerializeToString())
    call = replace(
        GET,
        method=method.decode("latin-1"),
        path=target.decode("latin-1"),
        host=authority.decode("latin-1"),
        headers=named,
    )
    expected = reference.reference_answer(sound_set()[0], call, NOW_NS).decision
    assert allowed == (expected == Verdict.ALLOW)


def bearer(data: bytes) -> None:
    """Whatever a strict reader of tokens takes for one of a workload is one; nothing else is found in plain text."""
    payload = urlsafe_b64encode(data).rstrip(b"=")
    for value in (data, b"Bearer e30." + payload + b".c2ln"):
        found = names_a_workload([value])
        assert not found or b"." in value or len(value) > MAX_TOKEN_BYTES
        assert found or not _is_strictly_a_workloads(value)


def _is_strictly_a_workloads(value: bytes) -> bool:
    scheme, _, token = value.partition(b" ")
    parts = token.split(b".")
    if scheme.lower() != b"bearer" or len(parts) != 3 or not set(parts[1]) <= _BASE64_URL:
        return False
    try:
        claims = json.loads(urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)).decode())
    except (ValueError, RecursionError):
        return False
    return isinstance(claims, dict) and str(claims.get("sub")).startswith("spiffe://")


_BASE64_URL: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def certificate(data: bytes) -> None:
    """A certificate is refused, or is that of a valid SPIFFE ID."""
    armoured = b"-----BEGIN CERTIFICATE-----\n" + encodebytes(data) + b"-----END CERTIFICATE-----\n"
    for content in (data, armoured):
        try:
            found = PeerVerification().verify(content, NOW_NS)
        except Unidentified:
            continue
        assert SpiffeId.parse(str(found.spiffe_id)) == found.spiffe_id
        assert found.not_before_ns <= NOW_NS <= found.not_after_ns


# --- SVIDs and bundles

SHOP: Final = TrustDomain(name="shop.example")


@cache
def authority() -> tuple[ec.EllipticCurvePrivateKey, Trust]:
    """Give a key that is the same in each run, so that a corpus can hold what it has signed, and who trusts it."""
    key = ec.derive_private_key(0x5EED, ec.SECP256R1())
    certificate = _fuzzed_authority(key)
    keys: dict[str, PublicKey] = {"one": key.public_key()}
    return key, Trust.of([Bundle(trust_domain=SHOP, x509_authorities=(certificate,), jwt_authorities=keys)])


def _fuzzed_authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fuzzed")])
    return (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key(), serial_number=1)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(key_usage("key_cert_sign"), critical=True)
        .sign(key, hashes.SHA256())
    )


def x509_chain(data: bytes) -> None:
    """Certificates are refused, or the authority has signed the leaf; the certificates are PEM, or DER in hex lines."""
    _, trust = authority()
    chain = parsed_or_refused(chain_from_pem, data)
    if chain is None:
        chain = tuple(bytes.fromhex(line) for line in text_of(data).split("\n")[:MAX_LINES] if _HEX.fullmatch(line))
    svid = parsed_or_refused(lambda given: verify_x509_svid(given, trust, NOW), chain)
    if svid is not None:
        assert svid.spiffe_id.trust_domain == SHOP
        assert svid.not_before_ns <= NOW_NS <= svid.not_after_ns
        leaf = x509.load_der_x509_certificate(chain[0])
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.UniformResourceIdentifier) == [str(svid.spiffe_id)]


def jwt_svid(data: bytes) -> None:
    """A token of any header and claims, truly signed, is refused or says what a plain reader reads in it."""
    key, trust = authority()
    header, _, claims = data.partition(b"\n")
    signed = f"{base64url(header)}.{base64url(claims)}".encode()
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
    content = signed + b"." + base64url(r.to_bytes(32, "big") + s.to_bytes(32, "big")).encode()
    parsed_or_refused(lambda given: verify_jwt_svid(given, trust, "catalog", NOW_NS), data)
    svid = parsed_or_refused(lambda given: verify_jwt_svid(given, trust, "catalog", NOW_NS), content)
    if svid is not None:
        said = json.loads(claims)
        assert set(json.loads(header)) <= {"alg", "kid", "typ"}
        assert json.loads(header)["alg"] == "ES256"
        assert said["sub"] == str(svid.spiffe_id)
        assert svid.spiffe_id.trust_domain == SHOP
        assert "catalog" in svid.audience
        assert said["aud"] in ("catalog", list(svid.audience))
        assert svid.expires_ns + LEEWAY_NS > NOW_NS


def trust_bundle(data: bytes) -> None:
    """Any bytes are a bundle, which is the same after it was written and read, or no bundle."""
    for read in (bundle_from_json, jwt_bundle_from_json, bundle_from_pem, bundle_from_der):
        bundle = parsed_or_refused(lambda given, read=read: read(given, SHOP), data)
        if bundle is not None:
            assert bundle_from_json(bundle.to_json(), SHOP) == bundle
            assert bundle_from_der(bundle.x509_der, SHOP).x509_authorities == bundle.x509_authorities
            assert jwt_bundle_from_json(bundle.to_jwks(), SHOP).jwt_authorities == bundle.jwt_authorities
            assert all(each.isprintable() for each in bundle.ignored)


_HEX: Final = re.compile("(?:[0-9a-f]{2})+")


# --- the check path's HTTP/2

CONTENT: Final = http2_frames.message(b"asked")


def endpoint_location(data: bytes) -> None:
    """Where a redirect leads is refused, or is an https URL without userinfo to every reader, and the same again."""
    found = parsed_or_refused(lambda text: redirected_url(endpoint_url("https://a.example/x/y"), text), text_of(data))
    if found is not None:
        other = urlsplit(str(found))
        assert (other.scheme, other.hostname, "@" in other.netloc) == ("https", found.raw_host, False)
        assert (other.port or 443) == found.port
        assert endpoint_url(str(found)) == found


def federated_bundle(data: bytes) -> None:
    """An operator's file, and a copy that was kept, are refused or a bundle of the trust domain that was asked for."""
    bundle = parsed_or_refused(lambda content: bundle_from_document(content, SHOP), data)
    assert bundle is None or bundle.trust_domain == SHOP
    kept = parsed_or_refused(lambda content: kept_bundle(content, SHOP), data)
    if kept is not None:
        assert kept.bundle == bundle_from_json(kept.document, SHOP)
        assert kept.fetched.tzinfo is not None


def _heard_of(peer: Peer) -> None:
    """Read what a server said, as a strict client; and that what it keeps for its peer is bounded."""
    answers = peer.heard
    for stream in answers.streams.values():
        assert stream.message in {None, *peer.asked, LARGE_ANSWER, SERVING, NOT_SERVING}
    assert not [error for error in peer.failures if "secret" not in str(error)]
    assert peer.connection.finished == (answers.goaway not in {None, 0})
    streams, flow = peer.connection._streams, peer.connection._flow
    assert len(peer.connection._unread) <= HEADER_BYTES + MAX_FRAME_BYTES
    assert streams._held_bytes == sum(len(each.body) for each in streams.open.values())
    assert flow.waiting_bytes == sum(len(each.rest) for each in streams.open.values())
    assert set(flow._queue) <= set(streams.open)


def http2_session(data: bytes) -> None:
    """Any bytes are answered alike in one chunk and in many, by frames that a strict client takes."""
    whole, cut = Peer(quick=True), Peer(quick=True)
    whole.say(data)
    step = 1 + data[0] % 40 if data else 1
    cut.say(*(data[at : at + step] for at in range(0, len(data), step)))
    assert whole.said == cut.said
    assert whole.asked == cut.asked
    _heard_of(whole)
    whole.wait(60)
    whole.drain()
    whole.wait(60)
    assert whole.connection.finished


def http2_headers(data: bytes) -> None:
    """Any header blocks, one a line, mean the same on a connection that knows them and on one that never does."""
    blocks = data.split(b"\n")[:MAX_LINES]
    knowing, forgetful = Peer(quick=True), Peer(quick=True)
    for number, block in enumerate([*blocks, *blocks]):
        stream_id = 5 + 2 * number
        said = http2_frames.headers(stream_id, raw=block) + http2_frames.data(stream_id, CONTENT, end=True)
        knowing.say(said)
        forgetful.known.clear()
        forgetful.say(said)
    assert knowing.said == forgetful.said
    assert knowing.asked == forgetful.asked
    _heard_of(knowing)


def access_log(content: bytes) -> None:
    """What Envoy tells of connections and calls gives records of one short line each, whatever others put into it."""
    try:
        message = als_pb2.StreamAccessLogsMessage.FromString(content)
    except DecodeError:
        return
    heard, cuts = Heard(failed_handshake), Heard(end_of_call)
    AccessLogReceiver("", connections=heard.add, calls=cuts.add).take(message)
    for call, is_cut in cuts.take()[0]:
        if not is_cut:
            continue
        line = cut_line(call, sidecar="s", revision="r")
        assert len(line) < MAX_CUT_LINE_BYTES
        assert all(0x20 <= byte < 0x7F for byte in line[:-1])
        assert json.loads(line)["decision"] == "deny"
    for handshake in heard.take()[0]:
        line = handshake_line(handshake, decision_id="d", sidecar="s", revision="r")
        assert len(line) < MAX_HANDSHAKE_LINE_BYTES
        assert all(0x20 <= byte < 0x7F for byte in line[:-1])
        written = json.loads(line)
        assert (written["decision"], written["caller"]["identity"]) == ("deny", None)


def clock(content: bytes) -> None:
    """What a file says of the clock is refused, or is a time that fits; what was kept is refused, or written so."""
    with suppress(ClockError):
        setting, cell = clock_setting(content), ClockCell()
        cell.set(setting)
        assert cell.setting == setting
        assert NEVER_NS < cell.now_ns() < 2**63
    with suppress(ClockError):
        assert kept_text(kept_instant_ns(content)) == content


def ended_calls(content: bytes) -> None:
    """What Envoy tells of every call gives ends and running bytes that can be counted, whatever it holds."""
    for decision_id, told in EndedCalls().read(content):
        assert len(decision_id) == len("0f" * 16)
        assert all(number >= 0 for number in told[:2])


def batch(content: bytes) -> None:
    """What is sent to a hub is a batch, which is written and read as the same one, or a RecordError."""
    try:
        read = batch_from_json(content)
    except RecordError:
        return
    assert batch_from_json(batch_json(read)) == read


def container(content: bytes) -> None:
    """What a kernel or an engine says of a container is read or refused, and proves nothing that it does not say."""
    try:
        membership = container_membership(content)
        assert membership is None or membership.container_id.encode() in content
    except AttestationError:
        pass
    for read in (container_ids, repository_digests):
        with suppress(AttestationError):
            read(content)
    with suppress(AttestationError):
        facts = container_facts(content)
        assert not is_as_selected(Container(labels={"no such": "label of a container that is fuzzed"}), facts, ())


def hub_batch(content: bytes) -> None:
    """Any bytes are a batch that can be stored or refused; whoever was read before changes nothing of it."""
    read = [_read_batch(reader, content) for reader in (ArrivalReader(), _KNOWING)]
    assert read[0] == read[1]
    if read[0] is not None:
        assert all(type(number) is int and number >= 0 for row in read[0].rows for number in row)
        assert {row[1] for row in read[0].rows} <= read[0].series.keys()


def _read_batch(reader: ArrivalReader, content: bytes) -> Arrival | None:
    try:
        return reader.read(content)
    except ArrivalError:
        return None


_KNOWING: Final = ArrivalReader()

TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    each.__name__: each
    for each in (
        loader, documents, window, path, pattern, identity, host, instant, asked_call, check_bytes, check_call,
        certificate, bearer, x509_chain, jwt_svid, trust_bundle, http2_session, http2_headers, access_log, container,
        ended_calls, batch, endpoint_location, federated_bundle, hub_batch, log_line, window_edit, clock,
    )
}  # fmt: skip
