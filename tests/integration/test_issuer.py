"""The embedded issuer as a real process: who gets which identity, by real clients, and who gets nothing."""

from __future__ import annotations

import hashlib
import os
import queue
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_der_private_key
from spiffe import SpiffeId, TrustDomain, WorkloadApiClient
from spiffe.errors import PySpiffeError

from authz.identity.bundle import bundle_from_der, jwt_bundle_from_json
from authz.identity.certificate_blocks import all_from_der
from authz.identity.jwt_svid import verify_jwt_svid
from authz.identity.spiffe_id import TrustDomain as OwnTrustDomain
from authz.identity.trust import Trust
from authz.identity.x509_chain import verify_x509_svid
from authz.workload_api import messages
from tests.support.issuer_process import MESH, PATIENCE_S, Issuer, service, workload
from tests.support.upstream_root import root_pem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ORDERS = "spiffe://shop.example/ns/shop/sa/orders"
CATALOG = "spiffe://shop.example/ns/shop/sa/catalog"
SHOP = OwnTrustDomain.parse("shop.example")
ME = f"[{{unix: {{uid: {os.getuid()}, gid: {os.getgid()}}}}}]"
PYTHON = str(Path(f"/proc/{os.getpid()}/exe").readlink())
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
NOBODY = 65534


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    documents = [
        MESH,
        service("orders", attest=ME),
        service("catalog", attest="[{unix: {uid: 4242}}]"),
        service("plain"),
    ]
    with Issuer(*documents) as running:
        yield running


def call(
    issuer: Issuer, method: messages.Method[Any, Any], request: Any, *, metadata: Any = None, raw: bool = False
) -> Any:
    """Make one call; gives the (first) answer, or the status code."""
    with grpc.insecure_channel(f"unix:{issuer.socket}") as channel:
        kind = channel.unary_stream if method.streams else channel.unary_unary
        ask = kind(
            method.path,
            request_serializer=None if raw else method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        try:
            answer = ask(
                request, metadata=(messages.SECURITY_HEADER,) if metadata is None else metadata, timeout=PATIENCE_S
            )
            return next(answer) if method.streams else answer
        except grpc.RpcError as error:
            return error.code()  # type: ignore[attr-defined]


REQUESTS = {
    messages.FETCH_X509_SVID: messages.X509SVIDRequest(),
    messages.FETCH_X509_BUNDLES: messages.X509BundlesRequest(),
    messages.FETCH_JWT_SVID: messages.JWTSVIDRequest(audience=["a"]),
    messages.FETCH_JWT_BUNDLES: messages.JWTBundlesRequest(),
    messages.VALIDATE_JWT_SVID: messages.ValidateJWTSVIDRequest(audience="a", svid="x.y.z"),
}
METHODS = [pytest.param(method, id=method.name) for method in REQUESTS]


# --- py-spiffe


def test_py_spiffe_fetches_and_validates_x509_and_jwt_svids_and_bundles(issuer: Issuer) -> None:
    with WorkloadApiClient(f"unix://{issuer.socket}") as client:
        svid = client.fetch_x509_svid()
        assert str(svid.spiffe_id) == ORDERS
        token = client.fetch_jwt_svid(audience={"catalog"})
        assert str(token.spiffe_id) == ORDERS
        assert str(client.validate_jwt_svid(token.token, "catalog").spiffe_id) == ORDERS
        shop = TrustDomain("shop.example")
        x509_bundle = client.fetch_x509_bundles().get_bundle_for_trust_domain(shop)
        jwt_bundle = client.fetch_jwt_bundles().get_bundle_for_trust_domain(shop)
        assert x509_bundle is not None
        assert len(x509_bundle.x509_authorities) == 1
        assert jwt_bundle is not None
        assert len(jwt_bundle.jwt_authorities) == 1
        with pytest.raises(PySpiffeError):
            client.fetch_jwt_svid(audience={"catalog"}, subject=SpiffeId(CATALOG))


def test_py_spiffe_gets_an_update_when_the_registration_changes(issuer: Issuer) -> None:
    with Issuer(MESH, service("orders", attest=ME)) as own:
        seen: queue.Queue[Any] = queue.Queue()
        with WorkloadApiClient(f"unix://{own.socket}") as client:
            watching = client.stream_x509_contexts(seen.put, seen.put)
            assert [str(each.spiffe_id) for each in seen.get(timeout=PATIENCE_S).x509_svids] == [ORDERS]
            own.write(MESH, service("orders", attest=ME), service("catalog", attest=ME))
            both = seen.get(timeout=PATIENCE_S)
            assert [str(each.spiffe_id) for each in both.x509_svids] == [CATALOG, ORDERS]
            watching.cancel()
    assert issuer.logged()


# --- the standard's rules


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("metadata", [(), (("workload.spiffe.io", "false"),), (("workload.spiffe.io", ""),)])
def test_a_call_without_the_metadata_is_an_invalid_argument(
    issuer: Issuer, method: messages.Method[Any, Any], metadata: tuple[tuple[str, str], ...]
) -> None:
    assert call(issuer, method, REQUESTS[method], metadata=metadata) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_message_is_an_invalid_argument(issuer: Issuer, method: messages.Method[Any, Any]) -> None:
    assert call(issuer, method, b"\x0a\xff", raw=True) is grpc.StatusCode.INVALID_ARGUMENT
    assert call(issuer, method, b"x" * 200_000, raw=True) is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    "request_",
    [
        messages.JWTSVIDRequest(),
        messages.JWTSVIDRequest(audience=[""]),
        messages.JWTSVIDRequest(audience=[str(each) for each in range(65)]),
    ],
)
def test_a_token_is_for_somebody(issuer: Issuer, request_: messages.JWTSVIDRequest) -> None:
    assert call(issuer, messages.FETCH_JWT_SVID, request_) is grpc.StatusCode.INVALID_ARGUMENT


def test_a_token_for_another_workload_is_refused_and_recorded(issuer: Issuer) -> None:
    request = messages.JWTSVIDRequest(audience=["a"], spiffe_id=CATALOG)
    assert call(issuer, messages.FETCH_JWT_SVID, request) is grpc.StatusCode.PERMISSION_DENIED
    assert issuer.refused()[-1]["why"] == "it asked for another's identity"


@pytest.mark.parametrize("token", ["", "x", "x.y.z", "a" * 20_000])
def test_a_token_that_proves_nothing_is_an_invalid_argument(issuer: Issuer, token: str) -> None:
    request = messages.ValidateJWTSVIDRequest(audience="a", svid=token)
    assert call(issuer, messages.VALIDATE_JWT_SVID, request) is grpc.StatusCode.INVALID_ARGUMENT


def test_a_token_is_validated_for_its_own_audience_only_and_its_claims_are_given(issuer: Issuer) -> None:
    answer = call(issuer, messages.FETCH_JWT_SVID, messages.JWTSVIDRequest(audience=["a", "b"], spiffe_id=ORDERS))
    (svid,) = answer.svids
    assert (svid.spiffe_id, svid.hint) == (ORDERS, "orders")
    validated = call(issuer, messages.VALIDATE_JWT_SVID, messages.ValidateJWTSVIDRequest(audience="b", svid=svid.svid))
    assert validated.spiffe_id == ORDERS
    assert list(validated.claims["aud"]) == ["a", "b"]
    assert validated.claims["exp"] - validated.claims["iat"] == 300
    request = messages.ValidateJWTSVIDRequest(audience="c", svid=svid.svid)
    assert call(issuer, messages.VALIDATE_JWT_SVID, request) is grpc.StatusCode.INVALID_ARGUMENT


def test_a_method_that_there_is_not_is_unimplemented(issuer: Issuer) -> None:
    with grpc.insecure_channel(f"unix:{issuer.socket}") as channel:
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(f"/{messages.SERVICE}/FetchEverything")(b"", metadata=(messages.SECURITY_HEADER,))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_an_svid_comes_as_the_standard_says(issuer: Issuer) -> None:
    answer = call(issuer, messages.FETCH_X509_SVID, messages.X509SVIDRequest())
    (svid,) = answer.svids
    chain = all_from_der(svid.x509_svid, at_most=5)
    trust = Trust.of([bundle_from_der(svid.bundle, SHOP)])
    verified = verify_x509_svid(chain, trust, datetime.now(UTC))
    assert str(verified.spiffe_id) == svid.spiffe_id == ORDERS
    key = load_der_private_key(svid.x509_svid_key, password=None)
    assert key.public_key() == x509.load_der_x509_certificate(chain[0]).public_key()
    assert verified.not_after_ns - verified.not_before_ns <= 3661 * 10**9
    assert not answer.federated_bundles
    assert svid.hint == "orders"


# --- who gets nothing


@AS_ROOT
def test_another_user_gets_permission_denied_and_a_record_says_who_it_was(issuer: Issuer) -> None:
    with workload(issuer.socket, user=NOBODY) as other:
        assert other.ask() == "PERMISSION_DENIED"
        record = issuer.refused()[-1]
        assert record["event"] == "identity_refused"
        assert (record["pid"], record["uid"], record["gid"]) == (other.process.pid, NOBODY, NOBODY)
        assert record["socket"] == str(issuer.socket)
        assert record["path"] == PYTHON
        assert record["method"] == "FetchX509SVID"
        assert record["why"] == "no Service says of its workloads what this process is"


@AS_ROOT
@pytest.mark.parametrize("method", METHODS)
def test_no_method_answers_a_stranger(method: messages.Method[Any, Any]) -> None:
    with Issuer(MESH, service("orders", attest="[{unix: {uid: 4242}}]")) as issuer:
        assert call(issuer, method, REQUESTS[method]) is grpc.StatusCode.PERMISSION_DENIED
        assert [each["method"] for each in issuer.refused()] == [method.name]


def sha256_of(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("selector", "gets"),
    [
        (f"path: {PYTHON}", True),
        (f"path: {PYTHON}, sha256: {sha256_of(PYTHON)}", True),
        (f"sha256: {sha256_of(PYTHON).upper()}", True),
        ("path: /usr/bin/another", False),
        (f"path: {PYTHON}, sha256: {'a' * 64}", False),
        (f"uid: {os.getuid()}, path: /usr/bin/another", False),
        (f"gid: {os.getgid() + 1}, path: {PYTHON}", False),
    ],
)
def test_every_field_of_a_selector_holds_or_nothing_is_issued(selector: str, gets: bool) -> None:  # noqa: FBT001
    documents = [MESH, service("orders", attest=f"[{{unix: {{{selector}}}}}]")]
    with Issuer(*documents) as issuer, workload(issuer.socket) as process:
        assert process.ask() == ([[ORDERS, "orders"]] if gets else "PERMISSION_DENIED")
        assert len(issuer.refused()) == (0 if gets else 1)


def test_a_service_that_says_nothing_of_its_workloads_has_none_on_the_common_socket() -> None:
    with Issuer(MESH, service("orders")) as issuer, workload(issuer.socket) as process:
        assert process.ask() == "PERMISSION_DENIED"


def test_a_socket_of_its_own_is_one_workload_and_no_other() -> None:
    documents = [
        MESH,
        service("orders", attest=ME),
        service("plain"),
        service("catalog", attest="[{unix: {uid: 4242}}]"),
    ]
    path = "/tmp/is-own-" + os.urandom(4).hex()  # noqa: S108 short
    flags = [f"--workload-socket=plain={path}", f"--workload-socket=catalog={path}c"]
    with Issuer(*documents, arguments=flags) as issuer:
        assert Path(path).stat().st_mode & 0o777 == 0o600
        with workload(Path(path)) as own, workload(issuer.socket) as common, workload(Path(path + "c")) as other:
            assert own.ask() == [["spiffe://shop.example/ns/shop/sa/plain", "plain"]]
            assert common.ask() == [[ORDERS, "orders"]]
            # What the Service says of its workloads holds on its own socket, too.
            assert other.ask() == "PERMISSION_DENIED"
    assert not Path(path).exists()


@AS_ROOT
def test_a_peer_in_another_pid_namespace_is_known_by_a_socket_of_its_own_only() -> None:
    # The issuer is in a namespace of its own here: we are outside of it, and so without a pid for it.
    path = "/tmp/is-own-" + os.urandom(4).hex()  # noqa: S108 short
    issuer = Issuer(MESH, service("orders", attest=ME), arguments=[f"--workload-socket=orders={path}"])
    issuer.command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *issuer.command]
    try:
        issuer.start()
        with workload(issuer.socket) as common, workload(Path(path)) as own:
            assert common.ask() == "PERMISSION_DENIED"
            assert issuer.refused()[-1]["pid"] == 0
            assert own.ask() == [[ORDERS, "orders"]]
    finally:
        issuer.kill()
        issuer.__exit__()
        Path(path).unlink(missing_ok=True)


# --- changes


class Stream:
    """A stream of X.509-SVIDs, read by a thread."""

    def __init__(self, path: Path, method: messages.Method[Any, Any] = messages.FETCH_X509_SVID) -> None:
        self._channel = grpc.insecure_channel(f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)])
        self._call = self._channel.unary_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )(method.request(), metadata=(messages.SECURITY_HEADER,))
        self.seen: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for each in self._call:
                self.seen.put(each)
        except grpc.RpcError as error:
            self.seen.put(error.code())  # type: ignore[attr-defined]

    def next(self) -> Any:
        return self.seen.get(timeout=PATIENCE_S)

    def next_that(self, holds: Callable[[Any], bool]) -> Any:
        while True:
            each = self.next()
            if isinstance(each, grpc.StatusCode) or holds(each):
                return each

    def close(self) -> None:
        self._call.cancel()
        self._thread.join(PATIENCE_S)
        self._channel.close()


def test_a_removed_service_gets_no_more_and_its_streams_end_with_permission_denied() -> None:
    with Issuer(MESH, service("orders", attest=ME)) as issuer:
        streams = [
            Stream(issuer.socket, method)
            for method in (messages.FETCH_X509_SVID, messages.FETCH_X509_BUNDLES, messages.FETCH_JWT_BUNDLES)
        ]
        for stream in streams:
            assert not isinstance(stream.next(), grpc.StatusCode)
        issuer.write(MESH, service("catalog", attest="[{unix: {uid: 4242}}]"))
        for stream in streams:
            assert stream.next() is grpc.StatusCode.PERMISSION_DENIED
            stream.close()
        request = messages.JWTSVIDRequest(audience=["a"], spiffe_id=ORDERS)
        assert call(issuer, messages.FETCH_JWT_SVID, request) is grpc.StatusCode.PERMISSION_DENIED


def test_a_revoked_identity_is_not_issued() -> None:
    with Issuer(MESH, service("orders", attest=ME)) as issuer:
        stream = Stream(issuer.socket)
        assert stream.next().svids[0].spiffe_id == ORDERS
        token = call(issuer, messages.FETCH_JWT_SVID, messages.JWTSVIDRequest(audience=["a"])).svids[0].svid
        revoking = MESH.replace("example]}", f"example], revoked: ['{ORDERS}']}}")
        issuer.write(revoking, service("orders", attest=ME), service("catalog", attest=ME))
        left = stream.next()
        assert [svid.spiffe_id for svid in left.svids] == [CATALOG]
        stream.close()
        request = messages.ValidateJWTSVIDRequest(audience="a", svid=token)
        assert call(issuer, messages.VALIDATE_JWT_SVID, request) is grpc.StatusCode.INVALID_ARGUMENT


def test_a_broken_policy_file_takes_no_identity_away() -> None:
    with Issuer(MESH, service("orders", attest=ME)) as issuer:
        stream = Stream(issuer.socket)
        assert stream.next().svids[0].spiffe_id == ORDERS
        issuer.write("kind: Broken")
        while "the registrations of before stay" not in issuer.logged():
            assert issuer.process is not None
            assert issuer.process.poll() is None
        assert call(issuer, messages.FETCH_X509_SVID, messages.X509SVIDRequest()).svids[0].spiffe_id == ORDERS
        issuer.write(MESH, service("catalog", attest=ME))
        assert stream.next().svids[0].spiffe_id == CATALOG
        stream.close()


def test_svids_and_authorities_are_replaced_while_everything_issued_stays_good() -> None:
    flags = ["--svid-lifetime=2s", "--jwt-lifetime=2s", "--authority-lifetime=12s"]
    with Issuer(MESH, service("orders", attest=ME), arguments=flags) as issuer:
        one, other = Stream(issuer.socket), Stream(issuer.socket)
        keys = Stream(issuer.socket, messages.FETCH_JWT_BUNDLES)
        jwks = keys.next().bundles["spiffe://shop.example"]
        authorities, serials, signers = set(), set(), set()
        # The authority that signs at first, the next one that is published, and a leaf of that.
        while len(signers) < 2:
            mine, theirs = one.next(), other.next()
            while not keys.seen.empty():
                jwks = keys.next().bundles["spiffe://shop.example"]
            # Each by the other's bundle, as two workloads that meet do.
            for svid, bundle in ((mine.svids[0], theirs.svids[0].bundle), (theirs.svids[0], mine.svids[0].bundle)):
                chain = all_from_der(svid.x509_svid, at_most=5)
                trust = Trust.of([bundle_from_der(bundle, SHOP)])
                verified = verify_x509_svid(chain, trust, datetime.now(UTC))
                serials.add(verified.serial)
                authorities.update(trust.bundle(SHOP).x509_authorities)  # type: ignore[union-attr]
                signers.add(x509.load_der_x509_certificate(chain[0]).issuer)
            token = call(issuer, messages.FETCH_JWT_SVID, messages.JWTSVIDRequest(audience=["a"])).svids[0].svid
            now_ns = int(datetime.now(UTC).timestamp() * 10**9)
            jwt_trust = Trust.of([jwt_bundle_from_json(jwks, SHOP)])
            assert str(verify_jwt_svid(token, jwt_trust, "a", now_ns).spiffe_id) == ORDERS
        assert len(authorities) >= 2
        assert len(serials) > 4
        for stream in (one, other, keys):
            stream.close()


def test_below_an_upstream_root_chains_have_the_intermediate_and_the_bundle_the_root() -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    pem = root_pem(not_before=now - (now - now.replace(year=now.year - 1)), not_after=now.replace(year=now.year + 1))
    file = Path(f"/tmp/is-root-{os.urandom(4).hex()}")  # noqa: S108 removed below
    file.touch(0o600)
    file.write_bytes(pem)
    try:
        documents = [MESH, service("orders", attest=ME)]
        with Issuer(*documents, arguments=[f"--upstream-authority={file}"]) as issuer:
            (svid,) = call(issuer, messages.FETCH_X509_SVID, messages.X509SVIDRequest()).svids
            chain = all_from_der(svid.x509_svid, at_most=5)
            assert len(chain) == 2
            bundle = bundle_from_der(svid.bundle, SHOP)
            root = x509.load_pem_x509_certificate(pem)
            assert bundle.x509_authorities == (root,)
            assert str(verify_x509_svid(chain, Trust.of([bundle]), datetime.now(UTC)).spiffe_id) == ORDERS
            with WorkloadApiClient(f"unix://{issuer.socket}") as client:
                assert len(client.fetch_x509_svid().cert_chain) == 2
        file.chmod(0o640)
        with pytest.raises(AssertionError, match="others can read this private key"):
            Issuer(*documents, arguments=[f"--upstream-authority={file}"]).__enter__()
    finally:
        file.unlink()


def test_foreign_bundles_come_and_go_with_the_policy_set_and_are_never_merged() -> None:
    acme = root_pem(names=("spiffe://acme.example",)).partition(b"-----BEGIN PRIVATE")[0]
    later = root_pem(key=ec.generate_private_key(ec.SECP256R1()), names=("spiffe://acme.example",))
    federating = MESH.replace("example]}", "example], federates: [{trustDomain: acme.example, bundle: acme.pem}]}")
    mine = service("orders", attest=ME)
    with Issuer(MESH, mine) as issuer:
        svids, bundles = Stream(issuer.socket), Stream(issuer.socket, messages.FETCH_X509_BUNDLES)
        assert not svids.next().federated_bundles
        assert set(bundles.next().bundles) == {"spiffe://shop.example"}
        (issuer.policies / "acme.pem").write_bytes(acme)
        issuer.write(federating, mine)
        root = x509.load_pem_x509_certificate(acme).public_bytes(Encoding.DER)
        first = svids.next_that(lambda each: bool(each.federated_bundles))
        assert first.federated_bundles["spiffe://acme.example"] == root
        assert first.svids[0].bundle != root
        both = bundles.next_that(lambda each: len(each.bundles) == 2)
        assert both.bundles["spiffe://acme.example"] == root
        draft = issuer.policies / ".acme"
        draft.write_bytes(later.partition(b"-----BEGIN PRIVATE")[0])
        draft.replace(issuer.policies / "acme.pem")
        changed = svids.next()
        assert changed.federated_bundles["spiffe://acme.example"] not in {root, b""}
        issuer.write(MESH, mine)
        assert not svids.next_that(lambda each: not each.federated_bundles).federated_bundles
        assert set(bundles.next_that(lambda each: len(each.bundles) == 1).bundles) == {"spiffe://shop.example"}
        svids.close()
        bundles.close()


@pytest.mark.parametrize("keep", [True, False])
def test_keys_survive_kill_9_where_they_are_kept_and_only_there(keep: bool) -> None:  # noqa: FBT001
    with Issuer(MESH, service("orders", attest=ME), keep=keep) as issuer:
        before = call(issuer, messages.FETCH_X509_SVID, messages.X509SVIDRequest()).svids[0]
        token = call(issuer, messages.FETCH_JWT_SVID, messages.JWTSVIDRequest(audience=["a"])).svids[0].svid
        issuer.kill()
        issuer.start()
        after = call(issuer, messages.FETCH_X509_SVID, messages.X509SVIDRequest()).svids[0]
        assert (after.bundle == before.bundle) == keep
        request = messages.ValidateJWTSVIDRequest(audience="a", svid=token)
        validated = call(issuer, messages.VALIDATE_JWT_SVID, request)
        assert (validated is grpc.StatusCode.INVALID_ARGUMENT) == (not keep)


def test_a_client_reconnects_to_an_issuer_that_was_killed() -> None:
    with Issuer(MESH, service("orders", attest=ME), keep=True) as issuer, workload(issuer.socket) as process:
        assert process.ask() == [[ORDERS, "orders"]]
        issuer.kill()
        issuer.start()
        assert process.ask() in ([[ORDERS, "orders"]], "UNAVAILABLE")
        assert process.ask() == [[ORDERS, "orders"]]


def test_a_thousand_connections_are_served() -> None:
    assert sys.platform == "linux"
    program = """
import grpc, sys
from authz.workload_api import messages as m
channels = [
    grpc.insecure_channel("unix:" + sys.argv[1], options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(100)
]
calls = [
    c.unary_stream(m.FETCH_X509_BUNDLES.path, request_serializer=m.X509BundlesRequest.SerializeToString,
        response_deserializer=m.X509BundlesResponse.FromString)
    (m.X509BundlesRequest(), metadata=(m.SECURITY_HEADER,), wait_for_ready=True)
    for c in channels[:60]
]
others = [
    c.unary_unary(m.FETCH_JWT_SVID.path, request_serializer=m.JWTSVIDRequest.SerializeToString,
        response_deserializer=m.JWTSVIDResponse.FromString)
    for c in channels[60:]
]
seen = [len(next(call).bundles) for call in calls]
seen += [len(o(m.JWTSVIDRequest(audience=["a"]), metadata=(m.SECURITY_HEADER,)).svids) for o in others]
print(sum(seen), flush=True)
sys.stdin.read()
"""
    import subprocess  # noqa: PLC0415 only here

    with Issuer(MESH, service("orders", attest=ME)) as issuer:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(issuer.socket)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=Path(__file__).parents[2],
            )
            for _ in range(10)
        ]
        try:
            assert [process.stdout.readline() for process in processes if process.stdout] == [b"100\n"] * 10
            assert call(issuer, messages.FETCH_X509_SVID, messages.X509SVIDRequest()).svids[0].spiffe_id == ORDERS
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def test_one_process_has_so_many_calls_at_once_and_others_are_served_all_the_same(issuer: Issuer) -> None:
    streams = [Stream(issuer.socket, messages.FETCH_X509_BUNDLES) for _ in range(64)]
    for stream in streams:
        assert not isinstance(stream.next(), grpc.StatusCode)
    one_too_many = Stream(issuer.socket, messages.FETCH_X509_BUNDLES)
    assert one_too_many.next() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with workload(issuer.socket) as another:
        assert another.ask() == [[ORDERS, "orders"]]
    for stream in (*streams, one_too_many):
        stream.close()
