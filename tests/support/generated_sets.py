"""Policy sets and calls by chance, from alphabets so small that rules and calls meet often.

Everything comes from one seeded generator: the same seed gives the same set and the same calls.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from functools import cache
from itertools import product
from typing import TYPE_CHECKING, Any

from authz.identity.spiffe_id import SpiffeId
from authz.policy.document import SourceFile
from authz.request import Call, Direction, TlsVersion
from tests.conformance.condition_meanings import MEANING, OF_EVIDENCE

if TYPE_CHECKING:
    from random import Random

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
DAY_NS = 86_400 * 10**9
EPOCH_NS = int(EPOCH.timestamp()) * 10**9
OWN, OTHER_OWN, FEDERATED, FOREIGN = "o.example", "o2.example", "f.example", "x.example"

_SERVICES = ("s1", "s2", "s3", "s4")
_THIRD_PARTIES = ("p1", "p2", "p3")
_SEGMENTS = ("a", "b", "c")
_SHAPES = ("semicolon", "double-slash", "encoded-slash", "encoded-delimiter")
_METHODS = ("GET", "POST", "PUT")
_PATHS = (
    "/", "/a", "/a/", "/a/b", "/a/{x}", "/{x}", "/{x}/b", "/{*}/{y}", "/a/{**}", "/{**}", "/{rest=**}", "/a//b", "//a",
    "/é", "/pkg.S/M", "/a b", "/a/b/{**}", "/{x}/{**}", "/a//", "/a//{**}",
)  # fmt: skip
_USUAL_PATHS = (
    "/", "/a", "/a/", "/a/b", "/a/b", "/a/c?q=;//", "/a/b/c", "/b/b", "/pkg.S/M", "/pkg.S/M", "/pkg.S/N", "/%C3%A9",
    "/T/M", "/pkg.S/M/", "/a/b/", "/a//", "//",
)  # fmt: skip
_GRPC = ("pkg.S/M", "pkg.S/*", "pkg.S/N", "T/M")
_API = (
    {"name": "op1", "methods": ["GET"], "paths": ["/a/{x}"]},
    {"name": "op2", "grpc": ["pkg.S/M"]},
    {"name": "op3", "methods": "all", "paths": ["/a/b", "/{x}"]},
)
_HOSTS = ("t.example", "*.t.example", "u.example", "u.example:8443", "*.t.example:443", "a.t.example", "u.example:443")
_SERVICE_HOSTS = ("s.local", "svc", "x.s.local", "a.u.example")
_PIECES = (
    "a", "b", "c", "pkg.S", "M", "N", "T", ".", "..", "...", ".a", "", "%41", "%61", "%2F", "%2f", "%3B", "%3f", "%23",
    "%25", "%2E", "%2e%2e", "%00", "%7F", "%C3%A9", "%C3", "%E2%80%A8", "%C2%85", "%zz", "%", ";", "a;x=1", "..;",
    "..%2F", "%20", "a%20b", "\\", "é", "a b", "#", "%7B*%7D", "{*}", "{**}", "%5c", "..%3Bx", ".;", "%ED%A0%80",
)  # fmt: skip
_CONTENT_TYPES = (
    b"application/grpc",
    b"application/grpc+proto",
    b"application/grpc;x",
    b"application/grpcx",
    b"text/plain",
)
_DNS_NAMES = ("a.p.example", "b.p.example", "p")
_TUNNELS = ("u.example:8443", "t.example:443", "a.t.example:443", "U.Example.:443", "u.example:80", "s.example:1")
CONDITIONS = tuple(each for each in MEANING if each not in OF_EVIDENCE)
_MODES = ("observe", "observe", "enforce")
_TLS = ("TLSv1_2", "TLSv1_3")
_DURATIONS = ("0s", "1d", "48h", "4320m", "5d", "300d", "32054400s", "400d")
#: by day and by night, whole days, on the days of clock changes, on both sides of the date line
_DURING = tuple(
    [dict(zip(("days", "from", "until", "timezone"), entry, strict=True)) for entry in entries]
    for entries in (
        [(["mon", "tue", "wed", "thu", "fri"], "08:00", "18:00", "Europe/Berlin")],
        [(["sun"], "02:00", "03:00", "Europe/Berlin"), (["sun"], "01:30", "02:30", "America/New_York")],
        [(["sat", "sun"], "22:00", "06:00", "America/New_York")],
        [(["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "00:00", "12:00", "UTC")],
        [(["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "12:00", "24:00", "UTC")],
        [(["wed"], "00:00", "24:00", "Pacific/Apia"), (["thu"], "00:00", "00:00", "Australia/Lord_Howe")],
        [(["thu", "fri"], "23:45", "23:45", "Africa/Casablanca")],
    )
)
_DAYS = (*range(12), 300, 372, 376, 377, 378, 800)


@cache
def ids_of(pattern: str) -> frozenset[tuple[str, ...]]:
    """Give the IDs of up to four segments that a pattern stands for."""
    segments = pattern.split("/")[3:]
    expression = "/".join({"*": "[^/]+", "**": ".+"}.get(each, re.escape(each)) for each in segments)
    return frozenset(
        each
        for length in range(1, 5)
        for each in product(_SEGMENTS, repeat=length)
        if re.fullmatch(expression, "/".join(each))
    )


def identity_pattern(random: Random) -> str:
    domain = random.choice((OWN, OWN, OTHER_OWN, FEDERATED))
    segments = [random.choice((*_SEGMENTS, *_SEGMENTS, "*")) for _ in range(random.randint(1, 3))]
    if random.random() < 0.2:
        segments[-1] = "**"
    return f"spiffe://{domain}/{'/'.join(segments)}"


class GeneratedSet:
    """The documents of a set without faults."""

    def __init__(self, random: Random, *, hours: float = 0.15, evidence: float = 0.4) -> None:
        self._random = random
        #: whether callers are proven by other means than their own SVID, and tunnels are opened
        self.with_evidence = evidence > 0 and random.random() < evidence
        self._certified: list[str] = []
        self._claimed: list[tuple[str, str]] = []
        self._hosts = random.sample(_HOSTS, len(_HOSTS))
        self._service_hosts = random.sample(_SERVICE_HOSTS, len(_SERVICE_HOSTS))
        self._apis: dict[str, list[str]] = {}
        #: hours have many edges, which the reference walks one after the other: few sets have some
        self.with_hours = random.random() < hours
        self.services = list(_SERVICES[: random.randint(1, 4)])
        self.third_parties = list(_THIRD_PARTIES[: random.randint(int(self.with_evidence), 3)])
        self.documents = [self._mesh()]
        self.documents += [self._service(name) for name in self.services]
        self.documents += [self._third_party(name) for name in self.third_parties]
        self.documents += [self._micro_policy(f"r{number}") for number in range(random.randint(0, 8))]
        guardrails = random.choice((0, 0, 1, 2, 3))
        self.documents += [self.guardrail(f"g{number}") for number in range(guardrails)]

    def files(self, documents: list[dict[str, Any]] | None = None) -> tuple[SourceFile, ...]:
        """Give the set as one file."""
        return (SourceFile("set.yaml", as_yaml(self.documents if documents is None else documents)),)

    # --- documents

    def _document(self, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": "authz/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}

    def _mesh(self) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "trustDomains": [OWN, OTHER_OWN],
            "federates": [{"trustDomain": FEDERATED, "bundle": "f.pem"}],
        }
        if self.with_evidence and self._chance(0.5):
            endpoint = {
                "url": "https://f.example/bundle",
                "profile": "https_spiffe",
                "spiffeId": f"spiffe://{FEDERATED}/x",
            }
            spec["federates"][0]["endpoint"] = endpoint
        if self._chance(0.3):
            spec["revoked"] = [f"spiffe://{OWN}/a/b", f"serial:{OWN}/0AbC"]
        if self._chance(0.15):
            spec["defaults"] = {"mode": self._random.choice(_MODES)}
        return self._document("Mesh", "mesh", spec)

    def _service(self, name: str) -> dict[str, Any]:
        spec: dict[str, Any] = {"identities": self._identities(name)}
        if self._chance(0.5):
            spec["api"] = self._some(_API)
            self._apis[name] = [entry["name"] for entry in spec["api"]]
        if self._service_hosts and self._chance(0.4):
            spec["hosts"] = [self._service_hosts.pop()]
        if self._chance(0.2):
            spec["mode"] = self._random.choice(_MODES)
        if self.with_evidence:
            self._evidence(spec)
        self._common(spec)
        return self._document("Service", name, spec)

    def _evidence(self, spec: dict[str, Any]) -> None:
        if self._chance(0.7):
            spec["accepts"] = self._random.choice((["x509-svid", "jwt-svid"], ["jwt-svid", "x509-svid"], ["jwt-svid"]))
        if self._chance(0.7):
            spec["forwarders"] = self._some(self.services)
        if self._chance(0.6):
            spec["egress"] = {"connect": self._some(_TUNNELS)}
        if self._chance(0.2):
            spec["attest"] = [{"unix": {"uid": 1000}}, {"container": {"image": "shop/app:1", "labels": {"app": "x"}}}]

    def _third_party(self, name: str) -> dict[str, Any]:
        opens, closes = sorted(self._random.sample(_DAYS, 2))
        spec: dict[str, Any] = {"window": {"opens": self._instant(opens), "closes": self._instant(closes)}}
        if self._chance(0.7):
            spec["identities"] = self._identities(name)
        if self._hosts and ("identities" not in spec or self._chance(0.7)):
            spec["hosts"] = [self._hosts.pop() for _ in range(min(len(self._hosts), self._random.randint(1, 2)))]
        if self.with_evidence and self._chance(0.6):
            entry: dict[str, Any] = {"authority": f"{name}.pem", "dns": self._some(_DNS_NAMES)}
            if self._chance(0.3):
                entry = {"authority": "all.pem", "uri": [f"https://{name}.example/"]}
            spec["certificates"] = [entry]
            self._certified.append(name)
        if not spec.keys() & {"hosts", "identities", "certificates"}:
            spec["identities"] = self._identities(name)
        if self._chance(0.5):
            spec["tls"] = self._random.choice(_TLS)
        self._common(spec)
        return self._document("ThirdParty", name, spec)

    def _common(self, spec: dict[str, Any]) -> None:
        if self._chance(0.6):
            spec["attributes"] = {key: self._random.choice("xy") for key in self._some(("env", "team"))}
        if self._chance(0.4):
            spec["paths"] = {"allow": self._some(_SHAPES)}

    def _micro_policy(self, name: str) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "from": [self._caller() for _ in range(self._random.randint(1, 2))],
            "to": [self._target() for _ in range(self._random.randint(1, 2))],
        }
        if self.with_evidence and self._chance(0.25):
            tunnels = [
                {"methods": self._random.choice((["CONNECT"], "all")), "paths": self._random.choice(("all", ["/"]))}
            ]
            spec["from"].append({"services": self._some(self.services)})
            spec["to"] = [{"thirdParties": self._some(self.third_parties), "operations": tunnels}]
        self._window_and_mode(spec, windows=0.6)
        return self._document("MicroPolicy", name, spec)

    def guardrail(self, name: str) -> dict[str, Any]:
        """Give a Guardrail about the Services and ThirdParties of the set."""
        spec: dict[str, Any] = {}
        if self._chance(0.6):
            spec["from"] = [self._caller() for _ in range(self._random.randint(1, 2))]
        if self._chance(0.7):
            spec["to"] = [self._target() for _ in range(self._random.randint(1, 2))]
        kind = self._random.choice(("tls", "maxWindow", "maxWindow", "both", "nothing"))
        if kind != "nothing":
            require = {"tls": self._random.choice(_TLS), "maxWindow": self._random.choice(_DURATIONS)}
            spec["require"] = require if kind == "both" else {kind: require[kind]}
        self._window_and_mode(spec, windows=0.6)
        if not spec:
            spec["mode"] = "enforce"
        return self._document("Guardrail", name, spec)

    def _window_and_mode(self, spec: dict[str, Any], *, windows: float) -> None:
        if self._chance(0.2):
            conditions = (*CONDITIONS, *OF_EVIDENCE) if self.with_evidence else CONDITIONS
            spec["when"] = [self._random.choice(conditions) for _ in range(self._random.choice((1, 1, 1, 2, 3)))]
        if self._chance(windows):
            opens, closes = sorted(self._random.sample(_DAYS, 2))
            edges = {"opens": self._instant(opens), "closes": self._instant(closes)}
            spec["window"] = {key: edges[key] for key in self._some(tuple(edges))}
        if self.with_hours and self._chance(0.4):
            spec.setdefault("window", {})["during"] = self._random.choice(_DURING)
        if self._chance(0.2):
            spec["mode"] = self._random.choice(("observe", "observe", "enforce"))

    def _identities(self, owner: str) -> list[str]:
        """Give entries that collide with nobody's."""
        found: list[str] = []
        for _ in range(self._random.randint(1, 2)):
            text = identity_pattern(self._random)
            if not any(self._collide(text, other, same=owner == who) for who, other in self._claimed):
                self._claimed.append((owner, text))
                found.append(text)
        if not found:
            text = f"spiffe://{OWN}/own/{owner}"
            self._claimed.append((owner, text))
            found.append(text)
        return found

    @staticmethod
    def _collide(one: str, other: str, *, same: bool) -> bool:
        if one == other:
            return True
        if same or one.split("/")[2] != other.split("/")[2]:
            return False
        literals = [sum("*" not in part for part in each.split("/")[3:]) for each in (one, other)]
        exact = ["*" not in each for each in (one, other)]
        return literals[0] == literals[1] and exact[0] == exact[1] and bool(ids_of(one) & ids_of(other))

    def _caller(self) -> dict[str, Any]:
        selector: dict[str, Any] = {}
        kind = self._random.choice(("services", "thirdParties", "none"))
        if kind == "services":
            selector["services"] = self._some(self.services)
        elif kind == "thirdParties" and self.third_parties:
            selector["thirdParties"] = self._some(self.third_parties)
        if self._chance(0.3):
            selector["identities"] = [identity_pattern(self._random)]
        if self._chance(0.2) or not selector:
            selector["attributes"] = self._attributes()
        return selector

    def _target(self) -> dict[str, Any]:
        kind = self._random.choice(("services", "services", "thirdParties", "attributes"))
        if kind == "thirdParties" and self.third_parties:
            return {"thirdParties": self._some(self.third_parties), "operations": self._operations([])}
        if kind == "attributes":
            return {"attributes": self._attributes(), "operations": self._operations([])}
        names = self._some(self.services)
        common = set.intersection(*(set(self._apis.get(name, ())) for name in names))
        return {"services": names, "operations": self._operations(sorted(common))}

    def _operations(self, api: list[str]) -> Any:
        if self._chance(0.1):
            return "all"
        operations: list[dict[str, Any]] = []
        for _ in range(self._random.randint(1, 2)):
            kind = self._random.choice(("http", "http", "http", "grpc", "api"))
            if self.with_evidence and self._chance(0.15):
                operations.append({"methods": ["CONNECT"], "paths": self._random.choice(("all", ["/"], ["/a"]))})
            elif kind == "grpc":
                operations.append({"grpc": self._some(_GRPC)})
            elif kind == "api" and api:
                operations.append({"api": self._some(api)})
            else:
                methods: Any = "all" if self._chance(0.3) else self._some(_METHODS)
                paths: Any = "all" if self._chance(0.1) else self._some(_PATHS)
                operations.append({"methods": methods, "paths": paths})
        return operations

    def _attributes(self) -> dict[str, Any]:
        return {key: self._random.choice(("x", "y", ["x", "y"])) for key in self._some(("env", "team"))}

    def _some(self, values: Any) -> list[Any]:
        return self._random.sample(list(values), self._random.randint(1, min(3, len(values))))

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _instant(self, days: int) -> str:
        zone = timezone(timedelta(minutes=self._random.choice((0, 0, 60, -90, 330))))
        return (EPOCH + timedelta(days=days)).astimezone(zone).isoformat(timespec="milliseconds")

    # --- calls

    def call(self) -> Call:
        """Give a call that has something to do with the set, often."""
        choose = self._random.choice
        direction = choose((Direction.INBOUND, Direction.OUTBOUND))
        headers = [("content-type", choose(_CONTENT_TYPES)) for _ in range(choose((0, 1, 1, 1, 2)))]
        headers += [("x-h", choose((b"a", b"a", b"b", b"\xff", b"a\0b"))) for _ in range(choose((0, 1, 1, 1, 2)))]
        self._random.shuffle(headers)
        if self.with_evidence and self._chance(0.15):
            return self._tunnel()
        service = choose(self.services) if self._chance(0.95) else choose(("p1", "nobody", ""))
        caller, third_party = self._caller_id(), None
        if self.with_evidence and self._chance(0.2):
            caller, third_party = None, choose((*self._certified, *self._certified, *_THIRD_PARTIES, "s1", ""))
        return Call(
            direction=direction,
            service=service,
            caller=caller,
            method=choose((*_METHODS, "POST"))
            if self._chance(0.93)
            else choose(("CONNECT", "get", "", "HEAD", "HEAD", "M-SEARCH")),
            path=self.path(),
            host=self._host(),
            headers=tuple(headers),
            tls=choose((None, *TlsVersion, TlsVersion.TLS_1_3)),
            serial=choose((None, "0abc", "ABC", "00abc", "12", "not hex", "")),
            third_party=third_party,
            presenter=self._presenter(caller),
        )

    def _tunnel(self) -> Call:
        """Give a call that opens a tunnel, most often one that its caller may open."""
        name = self._random.choice(self.services)
        service = next(each for each in self.documents if each["metadata"]["name"] == name)
        tunnels = [*service["spec"].get("egress", {}).get("connect", ()), *_TUNNELS[:1]]
        return Call(
            direction=self._random.choice(
                (Direction.OUTBOUND, Direction.OUTBOUND, Direction.OUTBOUND, Direction.INBOUND)
            ),
            service=name,
            caller=self._id_of(self._random.choice(service["spec"]["identities"])),
            method="CONNECT",
            path=self._random.choice(("", "/", "/a", "u.example:8443")),
            host=self._random.choice((*tunnels, *tunnels, *tunnels, self._host(), "u.example.:8443", "T.example:443")),
        )

    def _presenter(self, caller: SpiffeId | None) -> SpiffeId | None:
        """Give who presents the caller's token, if it is one: a Service, whoever it is, or the caller."""
        if not self.with_evidence or self._chance(0.6):
            return None
        return caller if self._chance(0.2) else self._caller_id()

    def path(self) -> str:
        """Give a request target, malformed or not."""
        if self._chance(0.8):
            return self._random.choice(_USUAL_PATHS)
        path = "".join(f"/{self._random.choice(_PIECES)}" for _ in range(self._random.randint(1, 4)))
        return (
            self._random.choice(("", "", "", "", "a", "?")) + path + self._random.choice(("", "", "?q=//..;#"[:8], "?"))
        )

    def _host(self) -> str:
        if self._chance(0.7):
            names = ("t.example", "a.t.example", "b.t.example", "u.example", "a.u.example", "s.local")
            return self._random.choice((*self.services, *names)) + self._random.choice(
                ("", "", "", ":80", ":443", ":8443")
            )
        name = self._random.choice(
            ("c.b.t.example", "S1", "T.Example.", "svc", "x.s.local", "..", "t.example..", ".t.example", "s1.",
             "a..t.example", "", "a@b", "a,b", "[::1]", "ä", "nowhere.example")
        )  # fmt: skip
        return name + self._random.choice(("", "", ":443", ":", ":x", ":0", ":080", ":99999", ":1:2"))

    def _caller_id(self) -> SpiffeId | None:
        if self._chance(0.03):
            return None
        domain = self._random.choice((OWN, OWN, OWN, OTHER_OWN, FEDERATED, FOREIGN))
        if self._chance(0.85):
            return self._id_of(self._random.choice(self._claimed)[1])
        path = "/".join(self._random.choice(_SEGMENTS) for _ in range(self._random.randint(1, 4)))
        return SpiffeId.parse(f"spiffe://{domain}/{path}")

    def id_of(self, service: str) -> SpiffeId:
        """Give an ID of a Service of the set."""
        (document,) = (each for each in self.documents if each["metadata"]["name"] == service)
        return self._id_of(self._random.choice(document["spec"]["identities"]))

    def _id_of(self, pattern: str) -> SpiffeId:
        """Give an ID that a pattern stands for."""
        while "*" in pattern:
            pattern = pattern.replace("**", self._random.choice(("a", "b/c"))).replace("*", self._random.choice("abc"))
        return SpiffeId.parse(pattern)

    def now_ns(self) -> int:
        """Give an instant, most often at or beside an edge of some window."""
        days = self._random.choice((*_DAYS, -1, 5000))
        beside = self._random.choice((0, 0, -1, 1, -1_000_000, 1_000_000, DAY_NS // 3))
        if self.with_hours and self._chance(0.7):  # the quarters of an hour, where hours begin and end
            beside += self._random.randrange(96) * DAY_NS // 96
        return EPOCH_NS + days * DAY_NS + beside


def as_yaml(documents: list[dict[str, Any]]) -> bytes:
    """Write documents as YAML (JSON is a part of it)."""
    return "\n---\n".join(json.dumps(document, ensure_ascii=False) for document in documents).encode()
