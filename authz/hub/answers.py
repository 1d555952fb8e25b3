"""What the API answers: its JSON names are a contract. The OpenAPI document and the tests are made from these types."""

from __future__ import annotations

from typing import Any, Literal, NotRequired

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

#: calls by name
Calls = dict[str, int]


class Window(TypedDict):
    """The dates of a window; null where it has no beginning or no end."""

    opens: str | None
    closes: str | None


class SidecarStatus(TypedDict):
    """One sidecar as it was when its last batch left."""

    name: str
    service: str
    revision: str | None
    lag_s: float
    last_seen: str
    svid_expires: str | None
    ready: bool
    spooled: int
    lost: int
    unjoined: int
    dropped: int
    failed_handshakes: int


class StoreStatus(TypedDict):
    """The hub's store."""

    kind: str
    size_bytes: int
    records: int
    series: int
    oldest: str | None
    batches: int
    duplicates: int
    refused: int
    ahead: int
    too_old: int
    foreign: int


class PoliciesStatus(TypedDict):
    """The policy folder that the hub follows: `faults` keep what stands there now from being known."""

    revision: str | None
    stale: bool
    faults: list[str]


class Status(TypedDict):
    """`GET /status`."""

    time: str
    sidecars: list[SidecarStatus]
    store: StoreStatus
    policies: PoliciesStatus | None


class Service(TypedDict):
    """A Service, a ThirdParty, or whoever called or was called without being either."""

    name: str
    kind: Literal["service", "third_party", "unknown"]
    identities: list[str]
    attributes: dict[str, str]
    window: Window | None
    state: Literal["opening", "open", "closing", "ended"] | None
    mode: str | None
    sidecar: SidecarStatus | None
    first_seen: str | None
    last_seen: str | None


class Services(TypedDict):
    """`GET /services`."""

    services: list[Service]


class Compared(TypedDict):
    """What an edge was in the span that is compared with."""

    calls: int
    denied: int
    change: Literal["new", "gone", "grown", "shrunk", "same"]


Ends = TypedDict("Ends", {"from": str, "to": str})
"""Who calls, and who is called."""


class Numbers(TypedDict):
    """What is counted of calls: `allowed` and `denied` make up `calls`; `observed` are allowed in observe mode only."""

    calls: int
    allowed: int
    denied: int
    observed: int
    cut: int
    unreached: int
    bytes_received: int
    bytes_sent: int
    p50_ms: float | None
    p99_ms: float | None
    first_seen: str | None
    last_seen: str | None


class EdgeNumbers(Ends, Numbers):
    """What is said of an edge."""

    protocols: Calls
    tls: Calls


class Edge(EdgeNumbers):
    """Who calls whom; `routes` is how many different ones. With `compare=`, what it was in the span before."""

    routes: int
    compared: NotRequired[Compared]


class Edges(TypedDict):
    """`GET /edges`: `since` and `until` are the span that was looked at."""

    since: str
    until: str
    edges: list[Edge]


class Route(Numbers):
    """One route of an edge; `policy` is the one that decided most of its calls."""

    method: str
    route: str | None
    policy: str | None
    policies: Calls
    reasons: Calls
    statuses: Calls


class EdgeDetail(EdgeNumbers):
    """`GET /edges/{from}/{to}`."""

    since: str
    until: str
    routes: list[Route]
    identities: list[str]
    reasons: Calls
    statuses: Calls
    ciphers: Calls
    sidecars: Calls


class Point(TypedDict):
    """One step of a history in which calls began, ran or ended; other steps are left out."""

    time: str
    calls: int
    allowed: int
    denied: int
    bytes_received: int
    bytes_sent: int
    p50_ms: float | None
    p99_ms: float | None


class History(TypedDict):
    """`GET /edges/{from}/{to}/history`."""

    step_s: int
    since: str
    until: str
    points: list[Point]


class DensityPoint(TypedDict):
    """One step in which calls began; other steps are left out."""

    time: str
    calls: int
    denied: int


class Density(TypedDict):
    """`GET /history`."""

    step_s: int
    since: str
    until: str
    points: list[DensityPoint]


class Caller(TypedDict):
    """Who called; `address` with its port."""

    identity: str | None
    service: str | None
    third_party: str | None
    presented_by: str | None
    address: str | None


class Destination(TypedDict):
    """Who was called."""

    service: str | None
    third_party: str | None
    host: str


class Shadow(TypedDict):
    """What the answer would have been with every mode `enforce`."""

    decision: Literal["allow", "deny"]
    reason: str
    policy: str | None


class Tls(TypedDict):
    """How the call was encrypted."""

    version: str | None
    cipher: str | None
    peer_serial: str | None


class Handshake(TypedDict):
    """A TLS handshake that failed: no call was made."""

    failure: str
    claimed: str | None
    count: int


class DecisionRecord(TypedDict):
    """One decision, as its sidecar recorded it."""

    decision_id: str
    request_id: str | None
    time: str
    sidecar: str
    direction: Literal["inbound", "outbound"]
    caller: Caller
    destination: Destination
    method: str
    route: str | None
    path: str | None
    protocol: str | None
    decision: Literal["allow", "deny"]
    reason: str
    policy: str | None
    shadow: Shadow | None
    revision: str
    valid_until: str | None
    tls: Tls
    check_us: int
    status: int | None
    bytes_received: int | None
    bytes_sent: int | None
    duration_ms: float | None
    cut: bool
    handshake: NotRequired[Handshake]


class CallPage(TypedDict):
    """`GET /calls`: the newest first; `cursor` leads to the next page, null where there is none."""

    calls: list[DecisionRecord]
    cursor: str | None


class Denial(TypedDict):
    """Denials with something in common."""

    key: str | None
    count: int
    first: str
    last: str
    reasons: Calls


class Denials(TypedDict):
    """`GET /denials`, the most frequent first."""

    since: str
    group: str
    denials: list[Denial]


class AttemptSource(TypedDict):
    """Who tried, in which direction, and which sidecar refused it; `address` is null for whom may not read calls."""

    identity: str | None
    service: str | None
    address: str | None
    direction: Literal["inbound", "outbound"]
    sidecar: str
    count: int


class Attempts(TypedDict):
    """Attempts on a window that was not open."""

    count: int
    records: int
    first: str | None
    last: str | None
    sources: list[AttemptSource]


class NamedWindow(TypedDict):
    """A window of the policies, and who tried when it was not open."""

    name: str
    kind: Literal["third_party", "micro_policy"]
    opens: str | None
    closes: str | None
    hours: str | None
    state: Literal["opening", "open", "closing", "ended"]
    attempts_before: Attempts
    attempts_after: Attempts


class Windows(TypedDict):
    """`GET /windows`."""

    windows: list[NamedWindow]


class Policy(TypedDict):
    """A rule of the policies, and how much it decided in the span that was looked at."""

    name: str
    kind: Literal["MicroPolicy", "Guardrail"]
    owner: str | None
    mode: str
    window: Window | None
    state: Literal["opening", "open", "closing", "ended"] | None
    place: str
    calls: int
    allowed: int
    denied: int
    last_used: str | None


class Policies(TypedDict):
    """`GET /policies`."""

    revision: str | None
    since: str
    policies: list[Policy]


PolicyEdge = TypedDict(
    "PolicyEdge",
    {"from": str, "to": str, "calls": int, "allowed": int, "denied": int, "routes": list[str], "last_used": str | None},
)
"""Where a rule was used."""


class PolicyUsage(TypedDict):
    """`GET /policies/{name}/usage`."""

    name: str
    since: str
    until: str
    calls: int
    allowed: int
    denied: int
    last_used: str | None
    edges: list[PolicyEdge]


class RevisionSidecar(TypedDict):
    """A sidecar that decided by a revision."""

    sidecar: str
    first_seen: str
    last_seen: str


class Revision(TypedDict):
    """A state of the policies; `differences` and `notes` say what it changed, null where that is not known."""

    revision: str
    previous: str | None
    in_force: bool
    first_seen: str
    last_seen: str
    sidecars: list[RevisionSidecar]
    differences: list[dict[str, Any]] | None
    notes: list[str] | None


class Revisions(TypedDict):
    """`GET /revisions`, the newest first."""

    revisions: list[Revision]


class Explanation(TypedDict):
    """`GET /explain/{id}`: what `authz explain` says of the call under the revision that decided it.

    Of the end of a call that was cut it is what a new call would have been told at that instant.

    `was_decided_differently`: the call had something that its record has not (headers, the rest of a long path), and
    was answered otherwise.
    """

    decision: Literal["allow", "deny"]
    reason: str
    policy: str | None
    valid_until: str | None
    revision: str
    shadow: Shadow | None
    at: str
    place: str | None
    steps: list[dict[str, Any]]
    if_enforced: dict[str, Any] | None
    then: dict[str, Any] | None
    to_allow: str | None
    nearest: list[dict[str, Any]]
    was_decided_differently: bool


class Fault(TypedDict):
    """Why there is no other answer; `parameter` is what was wrong, null where none was."""

    error: str
    parameter: str | None
