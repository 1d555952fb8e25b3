"""Calls to ThirdParties leave a workload's network only for where they may go: names, addresses, tunnels.

One machine inside a network namespace: an Envoy as `authz envoy` prints it, and its sidecar; everything else outside of
it, one site among many listeners that nobody may reach. Every connection to one of those is counted, and there is none.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import socket
import ssl
import stat
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.svid_files import write_svid
from tests.support.conditions import eventually
from tests.support.envoy_process import EnvoyProcess, validation
from tests.support.internet import Internet, SeenCall
from tests.support.local_mesh import CALL_PATIENCE_S, Answer, authz, raw_request
from tests.support.name_server import NameServer, name_servers
from tests.support.network_namespaces import NEEDS_ROOT, InsideAndOutside, give
from tests.support.policy_sets import OPEN, document, service, write
from tests.support.raw_http2 import RawHttp2
from tests.support.sidecar_process import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = [pytest.mark.envoy, NEEDS_ROOT]

SITE, SITE_6 = "203.0.113.10", "2001:db8:1::10"
DEAD = "203.0.113.66"
OPENED = "10.77.0.10"
#: Outside they all stand and listen: what is reached there would be seen.
FORBIDDEN_OUTSIDE = (
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "10.1.2.3",
    "172.16.5.5",
    "192.168.7.7",
    "100.64.9.9",
    "198.18.0.1",
    "fd00:ec2::254",
    "fd12:3456::1",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
)
#: These are the machine inside, or nobody, or many.
FORBIDDEN_INSIDE = (
    "127.0.0.1",
    "127.1.2.3",
    "0.0.0.0",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "fe80::1",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "ff02::1",
    *InsideAndOutside.ADDRESSES,
)
FORBIDDEN = (*FORBIDDEN_OUTSIDE, *FORBIDDEN_INSIDE)

FAR = "2099-01-01T00:00:00Z"


def policies(ending: str = FAR) -> tuple[str, ...]:
    """Give the policy set, in which one ThirdParty's window closes when it is said."""
    window = f"{{opens: 2026-01-01T00:00:00Z, closes: {ending}}}"
    return (*POLICIES, document("ThirdParty", "ending", f"{{hosts: [ending.example], window: {window}}}"))


POLICIES = (
    document("Mesh", "shop", "{trustDomains: [shop.example]}"),
    service(
        "orders",
        more=', egress: {connect: ["api.acme.example:443", "bad.acme.example:443", "rebound.acme.example:443",'
        ' "one.cdn.example:443", "ending.example:443"]}',
    ),
    document(
        "ThirdParty",
        "acme",
        "{hosts: [api.acme.example, bad.acme.example, rebound.acme.example, mixed.acme.example, wrong.acme.example,"
        f' absent.acme.example, private.acme.example, "*.cdn.example", "*.cdn.example:8443"], window: {OPEN}}}',
    ),
    document(
        "MicroPolicy",
        "orders-use-acme",
        "{from: [{services: [orders]}], "
        " to: [{thirdParties: [acme, ending], operations: [{methods: [GET, CONNECT], paths: all}]}]}",
    ),
)


@dataclass(slots=True, kw_only=True)
class Place:
    """What a test calls through, and what it looks at."""

    folder: Path
    names: NameServer
    inside: Internet
    outside: Internet
    seen: queue.SimpleQueue[SeenCall]
    envoy: EnvoyProcess
    log: Path
    authority: str

    def connection(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CALL_PATIENCE_S)
        connection.connect(str(self.folder / "out.sock"))
        return connection

    def call(self, host: str, target: str = "/", method: str = "GET") -> Answer:
        with self.connection() as connection:
            return raw_request(connection, method, target, host)

    def tunnel(self, target: str) -> tuple[int, socket.socket]:
        """Ask for a tunnel; gives the status, and the connection that it is on."""
        connection = self.connection()
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            more = connection.recv(1)
            if not more:
                break
            head += more
        return int(head.split()[1]) if head else 0, connection

    def replace_policies(self, documents: Sequence[str]) -> None:
        text = "---\n".join(documents)
        (self.folder / "policies" / ".new").write_text(text)
        (self.folder / "policies" / ".new").rename(self.folder / "policies" / "set.yaml")

    def tunnel_until(self, valid_until: str | None) -> socket.socket:
        """Give a tunnel to `ending.example`, once the policies in force let it end then."""
        opened: list[socket.socket] = []

        def is_bounded() -> bool:
            status, connection = self.tunnel("ending.example:443")
            found = [
                one["valid_until"]
                for one in self.records()
                if one["destination"]["host"] == "ending.example:443" and one["decision"] == "allow"
            ]
            if status == 200 and found and found[-1] == valid_until:
                opened.append(connection)
                return True
            connection.close()
            return False

        assert eventually(is_bounded)
        return opened[0]

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def records_of(self, decision_id: str, count: int) -> list[dict[str, Any]]:
        """Give the records of a decision, that of its end last, once there are so many."""

        def found() -> list[dict[str, Any]]:
            return [record for record in self.records() if record["decision_id"] == decision_id]

        assert eventually(lambda: len(found()) >= count), found()
        return sorted(found(), key=lambda record: bool(record["cut"]))

    def cut_since(self, time: datetime) -> dict[str, Any]:
        """Give the record of the one tunnel to `ending.example` that was cut since then."""

        def cuts() -> list[dict[str, Any]]:
            ended = [one for one in self.records() if one["cut"] and one["destination"]["third_party"] == "ending"]
            return [one for one in ended if datetime.fromisoformat(one["time"]) >= time]

        assert eventually(lambda: bool(cuts())), self.records()[-3:]
        (cut,) = cuts()
        return cut

    def strangers(self) -> dict[str, int]:
        return {**self.inside.strangers, **self.outside.strangers}

    def saw_nothing(self) -> bool:
        return not self.strangers() and self.seen.empty()


def _site_tls(folder: Path, authority: Authority) -> ssl.SSLContext:
    names = [f"{name}.acme.example" for name in ("api", "bad", "rebound", "mixed", "private")] + [
        "*.cdn.example",
        "ending.example",
    ]
    certificate = authority.issue_server_certificate(names, datetime.now(UTC), timedelta(hours=1))
    (folder / "site.pem").write_bytes(certificate.certificate_pem)
    (folder / "site.key").write_bytes(certificate.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "site.pem", folder / "site.key")
    return context


def _printed(folder: Path, *words: str) -> str:
    done = authz(
        "envoy", "orders", "--policies", str(folder / "policies"),
        "--outbound", f"unix:{folder}/out.sock", "--inbound", "127.0.0.1:15006", "--admin", f"unix:{folder}/admin.sock",
        "--authz-socket", f"{folder}/check.sock", "--workers", "1", "--egress-socket", f"{folder}/egress.sock",
        "--access-log-socket", f"{folder}/access-log.sock", "--hold-socket", f"{folder}/hold.sock",
        "--svid-dir", f"{folder}/svid", "--svid-secret", f"{folder}/svid.json",
        "--authorities", f"{folder}/web.pem", *words,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def _place(folder: Path) -> Iterator[Place]:
    now = datetime.now(UTC)
    own = Authority.generate(TrustDomain.parse("shop.example"), now, timedelta(days=1))
    web = Authority.generate(TrustDomain.parse("web.example"), now, timedelta(days=1))
    svid = own.issue_x509_svid(SpiffeId.parse("spiffe://shop.example/orders"), now, timedelta(hours=1))
    write_svid(folder / "svid", svid, own.certificate_pem)
    (folder / "web.pem").write_bytes(web.certificate_pem)
    write(folder / "policies", *policies())
    (folder / "envoy.json").write_text(_printed(folder))
    (folder / "svid.json").write_text(_printed(folder, "--part", "svid-secret"))
    seen: queue.SimpleQueue[SeenCall] = queue.SimpleQueue()
    with contextlib.ExitStack() as stack:
        networks = stack.enter_context(InsideAndOutside())
        for address in (SITE, SITE_6, OPENED, *FORBIDDEN_OUTSIDE):
            give(networks.outside, address)
        for address in name_servers():
            give(networks.inside, address)
        tls = _site_tls(folder, web)
        outside = Internet(networks.outside, ports=(80, 443, 8443), sites=(SITE, SITE_6, OPENED), tls=tls, seen=seen)
        inside = Internet(networks.inside, ports=(80, 443, 8443))
        names = NameServer(networks.inside)
        for each in (outside, inside, names):
            stack.enter_context(each)
        stack.enter_context(networks.inside.entered())
        sidecar = stack.enter_context(
            SidecarProcess(
                "--decision-log",
                str(folder / "decisions.jsonl"),
                "--egress-socket",
                str(folder / "egress.sock"),
                "--egress-network",
                "10.77.0.0/16",
                "--access-log-socket",
                str(folder / "access-log.sock"),
                "--hold-socket",
                str(folder / "hold.sock"),
                "--workers",
                "1",
                service="orders",
                policies=folder / "policies",
                folder=folder,
            )
        )
        sidecar.wait_for("READY=1")
        envoy = stack.enter_context(EnvoyProcess(folder / "envoy.json", str(folder / "admin.sock")))
        yield Place(
            folder=folder,
            names=names,
            inside=inside,
            outside=outside,
            seen=seen,
            envoy=envoy,
            log=folder / "decisions.jsonl",
            authority=str(folder / "web.pem"),
        )


@pytest.fixture(scope="module")
def whole_place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="egress-"))
    try:
        with _place(folder) as place:
            yield place
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def place(whole_place: Place) -> Iterator[Place]:
    """Give the place as it was at first; afterwards nobody has reached what nobody may reach."""
    whole_place.names.answers.clear()
    whole_place.names.asked.clear()
    while not whole_place.seen.empty():
        whole_place.seen.get_nowait()
    whole_place.names.answers["api.acme.example"] = [[SITE]]
    yield whole_place
    assert not whole_place.strangers()


def _read_to_its_end(connection: socket.socket) -> None:
    with connection, contextlib.suppress(ConnectionError, ssl.SSLError):  # TLS misses its goodbye
        while connection.recv(4096):
            pass


def _fresh(label: str) -> str:
    """Give a name below the wildcard that no test has resolved yet."""
    _fresh.count += 1  # type: ignore[attr-defined]
    return f"{label}{_fresh.count}.cdn.example"  # type: ignore[attr-defined]


_fresh.count = 0  # type: ignore[attr-defined]


class TestWhatMayBeReached:
    def test_an_exact_host_is_reached_over_tls_by_its_name(self, place: Place) -> None:
        answer = place.call("api.acme.example", "/items?x=1")
        assert (answer.status, answer.body) == (200, b"ok")
        call = place.seen.get(timeout=CALL_PATIENCE_S)
        assert (call.address, call.sni) == (SITE, "api.acme.example")
        assert call.head.startswith("GET /items?x=1 HTTP/1.1\r\n")

    def test_its_record_has_the_tls_of_the_connection_that_it_went_by(self, place: Place) -> None:
        assert place.call("api.acme.example", "/items?x=2").status == 200
        version, cipher = place.seen.get(timeout=CALL_PATIENCE_S).tls
        assert version == "TLSv1.3"

        def answered() -> list[dict[str, Any]]:
            host = {"service": None, "third_party": "acme", "host": "api.acme.example"}
            return [each for each in place.records() if each["destination"] == host and each["status"] == 200]

        assert eventually(answered)
        assert answered()[-1]["tls"] == {"version": "TLSv1_3", "cipher": cipher, "peer_serial": None}

    @pytest.mark.parametrize("host", ["API.Acme.Example", "api.acme.example.", "api.acme.example:80"])
    def test_another_spelling_of_the_host_leads_to_the_same_place(self, place: Place, host: str) -> None:
        assert place.call(host).status == 200
        call = place.seen.get(timeout=CALL_PATIENCE_S)
        assert (call.address, call.sni) == (SITE, "api.acme.example")

    @pytest.mark.parametrize("port", ["", ":443", ":8443"])
    def test_a_wildcards_host_is_reached_by_its_own_name(self, place: Place, port: str) -> None:
        name = _fresh("good")
        place.names.answers[name] = [[SITE]]
        assert place.call(name + port).status == 200
        call = place.seen.get(timeout=CALL_PATIENCE_S)
        assert (call.address, call.sni) == (SITE, name)

    def test_an_ipv6_address_is_reached(self, place: Place) -> None:
        name = _fresh("six")
        place.names.answers[name] = [[SITE_6]]
        assert place.call(name).status == 200
        assert place.seen.get(timeout=CALL_PATIENCE_S).address == SITE_6

    def test_a_private_network_that_was_opened_is_reached(self, place: Place) -> None:
        place.names.answers["private.acme.example"] = [[OPENED]]
        assert place.call("private.acme.example").status == 200
        assert place.seen.get(timeout=CALL_PATIENCE_S).address == OPENED


class TestANameThatLeadsToAForbiddenAddress:
    @pytest.mark.parametrize("address", FORBIDDEN)
    def test_is_refused_with_a_reason_and_a_record(self, place: Place, address: str) -> None:
        name = _fresh("bad")
        place.names.answers[name] = [[address]]
        answer = place.call(name, "/secret?token=1")
        assert (answer.status, answer.reason) == (403, "unknown_destination")
        allowed, refused = place.records_of(answer.headers["x-authz-decision-id"], 2)
        assert (allowed["decision"], allowed["policy"], allowed["cut"]) == ("allow", "orders-use-acme", False)
        assert (refused["decision"], refused["reason"], refused["cut"]) == ("deny", "unknown_destination", True)
        assert (refused["status"], refused["bytes_sent"], refused["path"]) == (403, 0, "/secret")
        assert refused["destination"] == {"service": None, "third_party": "acme", "host": name}
        assert refused["caller"]["identity"] == "spiffe://shop.example/orders"
        assert place.saw_nothing()

    @pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "10.1.2.3", "::ffff:127.0.0.1"])
    def test_is_refused_for_an_exact_host_too(self, place: Place, address: str) -> None:
        place.names.answers["bad.acme.example"] = [[address]]
        assert eventually(lambda: place.call("bad.acme.example").status == 403)
        assert place.saw_nothing()

    @pytest.mark.parametrize(
        "addresses", [(SITE, "169.254.169.254"), ("127.0.0.1", SITE), (DEAD, "10.1.2.3"), (SITE, "::1")]
    )
    def test_is_refused_as_a_whole_where_other_addresses_are_harmless(
        self, place: Place, addresses: Sequence[str]
    ) -> None:
        name = _fresh("mixed")
        place.names.answers[name] = [addresses]
        for _ in range(4):
            assert place.call(name).status == 403
        assert place.saw_nothing()


class TestRebinding:
    def test_a_name_is_not_asked_for_again_between_the_judgement_and_the_connection(self, place: Place) -> None:
        name = _fresh("rebound")
        place.names.answers[name] = [[SITE], ["169.254.169.254"]]
        assert place.call(name).status == 200
        assert place.seen.get(timeout=CALL_PATIENCE_S).address == SITE
        assert place.names.asked[name] == 1
        assert eventually(lambda: place.call(name).status == 403)
        assert place.names.asked[name] > 1

    def test_a_retry_goes_to_the_same_address(self, place: Place) -> None:
        name = _fresh("dead")
        place.names.answers[name] = [[DEAD], ["169.254.169.254"]]
        assert place.call(name).status == 503
        assert eventually(lambda: place.call(name).status == 403)

    def test_a_name_that_turns_good_again_is_reached_again(self, place: Place) -> None:
        name = _fresh("turned")
        place.names.answers[name] = [["127.0.0.1"], [SITE]]
        assert place.call(name).status == 403
        assert eventually(lambda: place.call(name).status == 200)


class TestWhatIsNoThirdPartysHost:
    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1",
            "127.0.0.1.",
            "127.1",
            "2130706433",
            "017700000001",
            "0177.0.0.1",
            "0x7f000001",
            "0x7f.0.0.1",
            "0",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "169.254.169.254",
            "169.254.169.254:80",
            "2852039166",
            "0xa9fea9fe",
            "[fd00:ec2::254]",
            "203.0.113.10",
            "localhost",
            "LOCALHOST.",
            "localhost:80",
            "foo.localhost",
            "metadata.google.internal",
            "evil.example",
            "cdn.example",
            "a.b.cdn.example",
            "127.0.0.1.cdn.example",
            "api.acme.example.evil.example",
            "xapi.acme.example",
            "api.acme.example..",
            "api.acme.example:22",
            "api.acme.example:0443",
        ],
    )
    def test_is_refused_with_a_reason_and_a_record(self, place: Place, host: str) -> None:
        answer = place.call(host)
        assert (answer.status, answer.reason) == (403, "unknown_destination")
        (record,) = place.records_of(answer.headers["x-authz-decision-id"], 1)
        assert (record["reason"], record["destination"]["host"]) == ("unknown_destination", host)
        assert place.saw_nothing()

    @pytest.mark.parametrize(
        "host",
        [
            "api.acme.example@127.0.0.1",
            "127.0.0.1@api.acme.example",
            "*.cdn.example",
            "a/b.cdn.example",
            "a%2eb.cdn.example",
        ],
    )
    def test_is_malformed_where_it_is_no_host_at_all(self, place: Place, host: str) -> None:
        assert place.call(host).status == 400
        assert place.saw_nothing()

    def test_a_dot_behind_a_wildcards_host_leads_nowhere(self, place: Place) -> None:
        name = _fresh("dot")
        place.names.answers[name] = [["127.0.0.1"]]
        assert place.call(f"{name}.").status in {403, 503}
        assert place.saw_nothing()


class TestTheHostThatIsDecidedIsTheOneThatIsReached:
    def test_of_an_absolute_target_and_a_host_header_the_target_counts(self, place: Place) -> None:
        answer = place.call("evil.example", "http://api.acme.example/a")
        assert answer.status == 200
        call = place.seen.get(timeout=CALL_PATIENCE_S)
        assert call.sni == "api.acme.example"
        assert "evil.example" not in call.head
        answer = place.call("api.acme.example", "http://127.0.0.1/a")
        assert (answer.status, answer.reason) == (403, "unknown_destination")

    @pytest.mark.parametrize(
        ("target", "host"),
        [
            ("http://user@127.0.0.1/", "127.0.0.1"),
            ("http://api.acme.example@127.0.0.1/", "127.0.0.1"),
            ("http://api.acme.example:80@169.254.169.254/", "169.254.169.254"),
            ("http://api.acme.example%40169.254.169.254/", None),
            ("http://api.acme.example\\@169.254.169.254/", None),
        ],
    )
    def test_userinfo_is_no_part_of_the_host(self, place: Place, target: str, host: str | None) -> None:
        answer = place.call("api.acme.example", target)
        assert answer.status in ({400} if host is None else {403}), answer
        if host is not None:
            (record,) = place.records_of(answer.headers["x-authz-decision-id"], 1)
            assert (record["reason"], record["destination"]["host"]) == ("unknown_destination", host)
        assert place.saw_nothing()

    def test_what_stands_behind_userinfo_is_decided_and_reached(self, place: Place) -> None:
        assert place.call("evil.example", "http://127.0.0.1@api.acme.example/").status == 200
        call = place.seen.get(timeout=CALL_PATIENCE_S)
        assert (call.address, call.sni) == (SITE, "api.acme.example")
        assert "127.0.0.1" not in call.head

    def test_two_host_headers_reach_nobody(self, place: Place) -> None:
        with place.connection() as connection:
            answer = raw_request(connection, "GET", "/", "api.acme.example", (("host", "127.0.0.1"),))
        assert answer.status == 400
        assert place.saw_nothing()

    @pytest.mark.parametrize(
        "header", ["x-forwarded-host", "x-host", "forwarded", "x-envoy-original-dst-host", "x-original-host"]
    )
    def test_other_headers_lead_nowhere_else(self, place: Place, header: str) -> None:
        with place.connection() as connection:
            answer = raw_request(connection, "GET", "/", "api.acme.example", ((header, "169.254.169.254:80"),))
        assert answer.status == 200
        assert place.seen.get(timeout=CALL_PATIENCE_S).address == SITE

    def test_http_2_is_no_way_around(self, place: Place) -> None:
        head = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "169.254.169.254")]
        with place.connection() as connection:
            assert RawHttp2(connection).request([*head, ("host", "api.acme.example")]).status in {400, 403}
        assert place.saw_nothing()

    def test_a_redirect_is_the_apps_to_follow_and_a_call_of_its_own(self, place: Place) -> None:
        answer = place.call("api.acme.example", "/redirect?http://169.254.169.254/latest/meta-data")
        assert (answer.status, answer.headers["location"]) == (302, "http://169.254.169.254/latest/meta-data")
        place.seen.get(timeout=CALL_PATIENCE_S)
        assert place.call("169.254.169.254", "/latest/meta-data").reason == "unknown_destination"
        assert place.saw_nothing()


class TestASiteThatIsNotWhoItShouldBe:
    def test_gets_nothing_and_the_caller_a_503_and_it_is_counted(self, place: Place) -> None:
        place.names.answers["wrong.acme.example"] = [[SITE]]
        answer = place.call("wrong.acme.example")
        assert answer.status == 503
        assert place.seen.empty()
        assert place.envoy.counts("cluster.third_party_acme_wrong.acme.example_443.ssl.fail_verify_san", 0)

    def test_a_name_that_does_not_resolve_is_a_503(self, place: Place) -> None:
        assert place.call("absent.acme.example").status == 503
        assert place.saw_nothing()


class TestTunnels:
    def test_one_that_is_allowed_carries_the_apps_own_tls(self, place: Place) -> None:
        status, connection = place.tunnel("api.acme.example:443")
        assert status == 200
        context = ssl.create_default_context(cafile=place.authority)
        with context.wrap_socket(connection, server_hostname="api.acme.example") as encrypted:
            encrypted.sendall(b"GET /in-the-tunnel HTTP/1.1\r\nhost: api.acme.example\r\n\r\n")
            assert encrypted.recv(4096).startswith(b"HTTP/1.1 200 OK")
        call = place.seen.get(timeout=CALL_PATIENCE_S)
        assert (call.address, call.sni) == (SITE, "api.acme.example")

    def test_one_is_recorded_as_a_tunnel_without_what_is_in_it(self, place: Place) -> None:
        status, connection = place.tunnel("api.acme.example:443")
        connection.close()
        assert status == 200
        assert eventually(lambda: any(record["method"] == "CONNECT" for record in place.records()))
        record = next(one for one in reversed(place.records()) if one["method"] == "CONNECT")
        assert (record["decision"], record["policy"]) == ("allow", "orders-use-acme")
        assert record["destination"] == {"service": None, "third_party": "acme", "host": "api.acme.example:443"}

    def test_a_host_below_a_wildcard_may_be_named_for_a_tunnel(self, place: Place) -> None:
        place.names.answers["one.cdn.example"] = [[SITE]]
        status, connection = place.tunnel("one.cdn.example:443")
        connection.close()
        assert status == 200

    @pytest.mark.parametrize(
        "target",
        [
            "api.acme.example:8443",
            "api.acme.example:80",
            "two.cdn.example:443",
            "private.acme.example:443",
        ],
    )
    def test_another_host_or_port_is_refused_by_the_check(self, place: Place, target: str) -> None:
        answer = place.call(target, target, "CONNECT")
        assert answer.status == 403
        (record,) = place.records_of(answer.headers["x-authz-decision-id"], 1)
        assert (record["method"], record["decision"]) == ("CONNECT", "deny")
        assert place.saw_nothing()

    @pytest.mark.parametrize(
        "target", ["127.0.0.1:443", "169.254.169.254:80", "[::1]:443", "localhost:443", "evil.example:443"]
    )
    def test_a_host_of_nobody_is_refused_by_the_check(self, place: Place, target: str) -> None:
        answer = place.call(target, target, "CONNECT")
        assert (answer.status, answer.reason) == (403, "unknown_destination")
        assert place.saw_nothing()

    @pytest.mark.parametrize("active", [False, True], ids=["idle", "active"])
    def test_one_ends_with_the_window_and_its_record_says_so(self, place: Place, *, active: bool) -> None:
        place.names.answers["ending.example"] = [[SITE]]
        ends = datetime.now(UTC) + timedelta(seconds=8)
        ends = ends.replace(microsecond=ends.microsecond // 1000 * 1000)
        closes = ends.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        place.replace_policies(policies(closes))
        carried = place.tunnel_until(closes)
        if active:
            context = ssl.create_default_context(cafile=place.authority)
            carried = context.wrap_socket(carried, server_hostname="ending.example")
            carried.sendall(b"GET /stay HTTP/1.1\r\nhost: ending.example\r\n\r\n")
            assert carried.recv(4096).startswith(b"HTTP/1.1 200 OK")
        _read_to_its_end(carried)
        assert datetime.now(UTC) >= ends - timedelta(seconds=1)

        # Deadlines are rounded down; the tunnel of the other case ended long ago.
        cut = place.cut_since(ends - timedelta(seconds=1))
        assert (cut["method"], cut["decision"], cut["reason"]) == ("CONNECT", "deny", "decommissioned")
        assert (cut["policy"], cut["destination"]["host"]) == ("orders-use-acme", "ending.example:443")
        assert (cut["bytes_received"] > 0, cut["bytes_sent"] > 0) == (active, active)
        answer = place.call("ending.example:443", "ending.example:443", "CONNECT")
        assert (answer.status, answer.reason) == (403, "decommissioned")

    @pytest.mark.parametrize("edit", ["closed", "removed"])
    def test_one_ends_when_its_permission_is_taken_back(self, place: Place, edit: str) -> None:
        place.names.answers["ending.example"] = [[SITE]]
        place.replace_policies(policies())
        connection = place.tunnel_until(None)  # further away than is looked
        edited = datetime.now(UTC)
        place.replace_policies(policies("2026-02-01T00:00:00Z") if edit == "closed" else POLICIES[:-1])
        _read_to_its_end(connection)
        cut = place.cut_since(edited)
        reason = "decommissioned" if edit == "closed" else "unknown_destination"
        assert (cut["method"], cut["decision"], cut["reason"]) == ("CONNECT", "deny", reason)
        place.replace_policies(policies())
        assert eventually(lambda: place.call("api.acme.example").status == 200)

    def test_one_over_http_2_is_decided_alike(self, place: Place) -> None:
        with place.connection() as connection:
            told = RawHttp2(connection).request([(":method", "CONNECT"), (":authority", "api.acme.example:8443")])
        assert told.status == 403
        assert place.saw_nothing()

    @pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "10.1.2.3", "fd00:ec2::254"])
    def test_a_name_that_leads_to_a_forbidden_address_gets_none(self, place: Place, address: str) -> None:
        place.names.answers["rebound.acme.example"] = [[address]]
        assert eventually(lambda: place.call("rebound.acme.example").status == 403)
        answer = place.call("rebound.acme.example:443", "rebound.acme.example:443", "CONNECT")
        assert (answer.status, answer.reason) == (403, "unknown_destination")
        _allowed, refused = place.records_of(answer.headers["x-authz-decision-id"], 2)
        assert (refused["method"], refused["cut"]) == ("CONNECT", True)
        assert place.saw_nothing()


def test_what_is_printed_is_valid_and_its_socket_is_the_users_alone(place: Place) -> None:
    done = validation(place.folder / "envoy.json")
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE((place.folder / "out.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE((place.folder / "egress.sock").stat().st_mode) == 0o600
