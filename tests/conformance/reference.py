"""The policy language a second time, as plainly as it can be said: every rule is walked for every call.

Written from the language's contract alone, and slow on purpose. It shares the parsed values with the engine and none
of its matching: patterns, paths, hosts and identities are taken as their texts and matched here.
"""

# ruff: noqa: C901, PLR0911, PLR0912, PLR0915 it is to read like the contract, step after step, and not to be taken apart

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Any

from authz.policy.operation import ALL, ApiOperation, GrpcOperation
from authz.policy.schema import Kind
from tests.conformance.condition_meanings import MEANING, Facts, Unreadable
from tests.conformance.hours_edges import edges_of_hours_ns
from tests.support.wall_clock import Written, is_inside

if TYPE_CHECKING:
    from authz.policy.policy_set import PolicySet
    from authz.policy.schema import CallerSelector, Guardrail, MicroPolicy, Service, TargetSelector, ThirdParty
    from authz.policy.window import Window
    from authz.request import Call

DAY_NS = 86_400 * 10**9
HORIZON_NS = 366 * DAY_NS


@dataclass(frozen=True)
class Answer:
    decision: str
    reason: str
    policy: str | None
    valid_until_ns: int | None = None
    shadow: tuple[str, str, str | None] | None = None


def reference_answer(policy_set: PolicySet, call: Call, now_ns: int) -> Answer:
    answer = _steps(policy_set, call, now_ns)
    enforced = _steps(policy_set, call, now_ns, every_mode_enforce=True)
    as_enforced = (enforced.decision, enforced.reason, enforced.policy)
    return replace(
        answer,
        valid_until_ns=_valid_until_ns(policy_set, call, now_ns, answer),
        shadow=None if as_enforced == (answer.decision, answer.reason, answer.policy) else as_enforced,
    )


def _valid_until_ns(policy_set: PolicySet, call: Call, now_ns: int, answer: Answer) -> int | None:
    if answer.reason in {"malformed", "unidentified", "untrusted", "unknown_destination"}:
        return None
    # The verdict can only change where some window opens or closes: try them all. While the same ones are open it is
    # the same, so that a year of hours need not be gone through step by step.
    documents = (*policy_set.micro_policies, *policy_set.guardrails, *policy_set.third_parties)
    windows = [(each.window, _during(policy_set, each)) for each in documents]
    decisions: dict[tuple[bool, ...], str] = {}
    for edge in window_edges_ns(policy_set, now_ns):
        are_open = tuple(_is_inside_window(window, during, edge) for window, during in windows)
        if are_open not in decisions:
            decisions[are_open] = _steps(policy_set, call, edge).decision
        if decisions[are_open] != answer.decision:
            return edge
    return None


def window_edges_ns(policy_set: PolicySet, now_ns: int) -> list[int]:
    """Give every instant, after now and within 366 days, at which some window of the set opens or closes."""
    edges: set[int | None] = set()
    for each in (*policy_set.micro_policies, *policy_set.guardrails, *policy_set.third_parties):
        edges |= {each.window.opens_ns, each.window.closes_ns}
        edges.update(edges_of_hours_ns(_during(policy_set, each), now_ns))
    return sorted(edge for edge in edges if edge is not None and now_ns < edge <= now_ns + HORIZON_NS)


def _during(policy_set: PolicySet, rule: MicroPolicy | Guardrail | ThirdParty) -> tuple[Written, ...]:
    """Give the hours of a rule as they stand in its document."""
    written = policy_set.documents[Kind(type(rule).__name__), rule.name].find("spec", "window", "during")
    entries: Any = () if written is None else written.value
    return tuple(Written(each["days"], each["from"], each["until"], each["timezone"]) for each in entries)


def _steps(policy_set: PolicySet, call: Call, now_ns: int, *, every_mode_enforce: bool = False) -> Answer:
    destination = _destination(policy_set, call)
    # 1.
    segments = _segments(call, destination)
    if segments is None:
        return Answer("deny", "malformed", None)
    # 2.
    caller_id = None if call.caller is None else str(call.caller)
    presenter_id = None if call.presenter is None else str(call.presenter)
    accepts = {"x509-svid"} if destination is None else {str(each) for each in getattr(destination, "accepts", ())}
    # A JWT-SVID is read only where the destination accepts it; a ThirdParty has no word for it.
    if destination in policy_set.third_parties:
        accepts = {"x509-svid"}
    if ("jwt-svid" if presenter_id is not None else "x509-svid") not in accepts:
        return Answer("deny", "unidentified", None)
    if caller_id is not None:
        caller = _owner(policy_set, caller_id)
        # The certificate of the connection, which has the serial number, is that of whoever presents the token.
        if _is_revoked(policy_set, caller_id, call.serial if presenter_id is None else None):
            return Answer("deny", "unidentified", None)
    else:
        certified = [each for each in policy_set.third_parties if each.certificates and each.name == call.third_party]
        if not certified or presenter_id is not None:
            return Answer("deny", "unidentified", None)
        caller = certified[0]
    if presenter_id is not None:
        if _is_revoked(policy_set, presenter_id, call.serial):
            return Answer("deny", "unidentified", None)
        presenter = _owner(policy_set, presenter_id)
        forwards = presenter in policy_set.services and presenter.name in destination.forwarders
        if presenter_id != caller_id and not forwards:
            return Answer("deny", "unidentified", None)
    if caller_id is not None:
        own = {str(domain) for domain in policy_set.mesh.trust_domains}
        federated = {str(each.trust_domain) for each in policy_set.mesh.federates}
        if _trust_domain(caller_id) not in own | federated:
            return Answer("deny", "untrusted", None)
        if _trust_domain(caller_id) not in own and caller is None:
            return Answer("deny", "untrusted", None)
    # 3.
    if destination is None:
        return Answer("deny", "unknown_destination", None)
    facts = Facts(call, caller, destination, segments)
    judged = [(caller_id, caller, facts)]
    if presenter_id is not None:  # Guardrails are judged for subject and presenter both
        judged.append(
            (presenter_id, presenter, Facts(replace(call, caller=call.presenter), presenter, destination, segments))
        )
    # 4.
    guardrails = [
        each
        for each in policy_set.guardrails
        if (each.mode == "enforce" or every_mode_enforce)
        and any(
            _forbids(each, call, who_id, who, destination, segments) and _conditions(each, their_facts) is not False
            for who_id, who, their_facts in judged
        )
        and _is_open(policy_set, each, now_ns)
    ]
    version = call.tls if call.direction == "inbound" else getattr(destination, "tls", "TLSv1_3")
    forbidding = [
        each.name
        for each in guardrails
        if each.require is None or (each.require.tls is not None and not _tls_met(version, each.require.tls))
    ]
    if forbidding:
        return Answer("deny", "guardrail", min(forbidding))
    # 5.
    third_parties = [party for party in (caller, destination) if party in policy_set.third_parties]
    for party in third_parties:
        if now_ns < party.window.opens_ns:
            return Answer("deny", "not_commissioned", party.name)
        if now_ns >= party.window.closes_ns:
            return Answer("deny", "decommissioned", party.name)
    # An opaque tunnel: only towards a ThirdParty, and only where the caller's `egress.connect` has it.
    if call.method == "CONNECT":
        name, _, port = call.host.rpartition(":")
        wanted = f"{name.lower().removesuffix('.')}:{port}"
        egress = getattr(caller, "egress", None)
        may_open = egress is not None and wanted in {str(each) for each in egress.connect}
        if destination not in policy_set.third_parties or not may_open:
            return Answer("deny", "no_policy", None)
    # 6.
    matching = [
        rule
        for rule in policy_set.micro_policies
        if (rule.mode == "enforce" or every_mode_enforce)
        and _allows(rule, call, caller_id, caller, destination, segments)
        and _conditions(rule, facts) is True
    ]
    limiting = [each for each in guardrails if each.require is not None and each.require.max_window_ns is not None]
    rules = [rule for rule in matching if not any(_takes_out(each, rule, third_parties) for each in limiting)]
    open_rules = sorted(rule.name for rule in rules if _is_open(policy_set, rule, now_ns))
    if open_rules:
        return Answer("allow", "allowed", open_rules[0])
    taken_out = [rule for rule in matching if rule not in rules and _is_open(policy_set, rule, now_ns)]
    if taken_out:
        names = [each.name for each in limiting if any(_takes_out(each, rule, third_parties) for rule in taken_out)]
        return Answer("deny", "guardrail", min(names))
    # In observe mode a deny of step 7 or 8 becomes allow `observed`.
    mode = getattr(destination, "mode", None) or policy_set.mesh.defaults.mode
    if mode == "observe" and not every_mode_enforce:
        return Answer("allow", "observed", None)
    # 7.
    soon = sorted((again, rule.name) for rule in rules if (again := _open_again(policy_set, rule, now_ns)) is not None)
    later = sorted(
        (rule.window.opens_ns, rule.name)
        for rule in rules
        if rule.window.opens_ns is not None and rule.window.opens_ns > now_ns
    )
    past = sorted((-inf if rule.window.closes_ns is None else -rule.window.closes_ns, rule.name) for rule in rules)
    for nearest in (soon, later, past):
        if nearest:
            window = next(rule.window for rule in rules if rule.name == nearest[0][1])
            if window.opens_ns is not None and now_ns < window.opens_ns:
                return Answer("deny", "not_yet_open", nearest[0][1])
            if window.closes_ns is not None and now_ns >= window.closes_ns:
                return Answer("deny", "closed", nearest[0][1])
            return Answer("deny", "outside_hours", nearest[0][1])
    # 8.
    return Answer("deny", "no_policy", None)


def _trust_domain(spiffe_id: str) -> str:
    return spiffe_id.removeprefix("spiffe://").split("/")[0]


def _is_revoked(policy_set: PolicySet, spiffe_id: str, serial: str | None) -> bool:
    for revoked in policy_set.mesh.revoked:
        if spiffe_id == str(revoked):
            return True
        number = getattr(revoked, "serial", None)
        if (
            number is not None
            and str(revoked.trust_domain) == _trust_domain(spiffe_id)
            and _same_number(number, serial)
        ):
            return True
    return False


def _conditions(rule: MicroPolicy | Guardrail, facts: Facts) -> bool | None:
    """Say whether all conditions hold; None for an error in any of them."""
    answers: list[bool | None] = []
    for condition in rule.when:
        try:
            answers.append(MEANING[str(condition)](facts))
        except Unreadable:
            answers.append(None)
    return None if None in answers else all(answers)


def _tls_met(version: str | None, lowest: str) -> bool:
    order = ["TLSv1_2", "TLSv1_3"]
    return version is not None and order.index(version) >= order.index(lowest)


def _takes_out(guardrail: Guardrail, rule: MicroPolicy, third_parties: list[ThirdParty]) -> bool:
    opens, closes = rule.window.opens_ns, rule.window.closes_ns
    for party in third_parties:
        opens = party.window.opens_ns if opens is None else max(opens, party.window.opens_ns)
        closes = party.window.closes_ns if closes is None else min(closes, party.window.closes_ns)
    return opens is None or closes is None or closes - opens > guardrail.require.max_window_ns


def _same_number(serial: str, other: str | None) -> bool:
    return other is not None and re.fullmatch("[0-9a-fA-F]+", other) is not None and int(serial, 16) == int(other, 16)


def _is_open(policy_set: PolicySet, rule: MicroPolicy | Guardrail, at_ns: int) -> bool:
    return _is_inside_window(rule.window, _during(policy_set, rule), at_ns)


def _is_inside_window(window: Window, during: tuple[Written, ...], at_ns: int) -> bool:
    after_opening = window.opens_ns is None or window.opens_ns <= at_ns
    before_closing = window.closes_ns is None or at_ns < window.closes_ns
    return after_opening and before_closing and (not during or _is_inside(during, at_ns))


_is_inside = lru_cache(maxsize=200_000)(is_inside)


def _open_again(policy_set: PolicySet, rule: MicroPolicy, now_ns: int) -> int | None:
    """Give the first instant within 366 days at which a rule, closed now, is open."""
    edges = {rule.window.opens_ns, *edges_of_hours_ns(_during(policy_set, rule), now_ns)}
    later = sorted(edge for edge in edges if edge is not None and now_ns < edge <= now_ns + HORIZON_NS)
    return next((edge for edge in later if _is_open(policy_set, rule, edge)), None)


# --- malformed requests


def _segments(call: Call, destination: Service | ThirdParty | None) -> list[str] | None:
    """Decode the path, character by character."""
    if not call.method or any(character not in "ABCDEFGHIJKLMNOPQRSTUVWXYZ-_" for character in call.method):
        return None
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]"
    if not call.host or any(character not in letters for character in call.host):
        return None
    if call.method == "CONNECT":
        return [""] if call.direction == "outbound" else None
    allowed = set() if destination is None or destination.paths is None else {str(x) for x in destination.paths.allow}
    if len(call.path.encode("utf-8", "surrogatepass")) > 8192:
        return None
    if any(not 0x21 <= ord(character) <= 0x7E or character == "#" for character in call.path):
        return None
    raw = call.path.split("?")[0]
    if raw[:1] != "/" or "\\" in raw:
        return None
    if ";" in raw and "semicolon" not in allowed:
        return None
    if "//" in raw and "double-slash" not in allowed:
        return None
    decoded = []
    for segment in raw.split("/")[1:]:
        # What a server that cuts at `;`, or decodes `%2F` and `%3B`, would take for a dot segment is one.
        if {".", ".."} & set(
            segment.replace("%2F", ";").replace("%2f", ";").replace("%3B", ";").replace("%3b", ";").split(";")
        ):
            return None
        text = _decode(segment, allowed)
        if text is None:
            return None
        decoded.append(text)
    return decoded


def _decode(segment: str, allowed: set[str]) -> str | None:
    out = b""
    while segment:
        if segment[0] != "%":
            out, segment = out + segment[0].encode(), segment[1:]
            continue
        pair, segment = segment[1:3], segment[3:]
        if len(pair) != 2 or any(digit not in "0123456789abcdefABCDEF" for digit in pair):
            return None
        byte = bytes.fromhex(pair)
        if byte == b"/":
            if "encoded-slash" not in allowed:
                return None
            out += b"%" + pair.encode()
        elif byte in {b";", b"?", b"#"}:
            if "encoded-delimiter" not in allowed:
                return None
            out += b"%" + pair.encode()
        elif byte in {b"\\", b".", b"%", b"\x7f"} or byte < b" ":
            return None
        else:
            out += byte
    try:
        text = out.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if any("\x80" <= character <= "\x9f" for character in text) else text


# --- who


def _identity_matches(pattern: str, spiffe_id: str) -> bool:
    parts = [{"*": "[^/]+", "**": ".+"}.get(segment, re.escape(segment)) for segment in pattern.split("/")]
    return re.fullmatch("/".join(parts), spiffe_id, re.DOTALL) is not None


def _owner(policy_set: PolicySet, spiffe_id: str) -> Service | ThirdParty | None:
    found = []
    for party in (*policy_set.services, *policy_set.third_parties):
        for entry in party.identities:
            text = str(entry)
            if text == spiffe_id:
                return party
            if _identity_matches(text, spiffe_id):
                literals = [part for part in text.split("/")[3:] if part not in {"*", "**"}]
                found.append((len(literals), party))
    return max(found, key=lambda each: each[0])[1] if found else None


def _destination(policy_set: PolicySet, call: Call) -> Service | ThirdParty | None:
    if call.direction == "inbound":
        return next((service for service in policy_set.services if service.name == call.service), None)
    found = re.fullmatch(r"([^:\[\]]*)(?::([1-9][0-9]*))?", call.host)
    if not found:
        return None
    name, port = found[1].lower().removesuffix("."), None if found[2] is None else int(found[2])
    if port is not None and port > 65535:
        return None
    for service in policy_set.services:
        if name in {service.name, *service.hosts}:
            return service
    candidates = []
    for party in policy_set.third_parties:
        for entry in party.hosts:
            wanted, _, wanted_port = str(entry).partition(":")
            wildcard = wanted.startswith("*.")
            if wildcard:
                label, dot, rest = name.partition(".")
                same = bool(label and dot) and rest == wanted[2:]
            else:
                same = name == wanted
            if same and (str(port) == wanted_port if wanted_port else port in {None, 80, 443}):
                # Exact before wildcard; then the one with a port.
                candidates.append((wildcard, not wanted_port, party.name, party))
    return min(candidates)[3] if candidates else None


# --- what


def _allows(
    rule: MicroPolicy,
    call: Call,
    caller_id: str | None,
    caller: Service | ThirdParty | None,
    destination: Service | ThirdParty,
    segments: list[str],
) -> bool:
    return any(_caller_selected(each, caller_id, caller) for each in rule.callers) and any(
        _target_selected(each, destination)
        and any(_one_allowed(operation, call, segments) for operation in _operations(each, destination))
        for each in rule.targets
    )


def _forbids(
    guardrail: Guardrail,
    call: Call,
    caller_id: str | None,
    caller: Service | ThirdParty | None,
    destination: Service | ThirdParty,
    segments: list[str],
) -> bool:
    by_caller = guardrail.callers is None or any(
        _caller_selected(each, caller_id, caller) for each in guardrail.callers
    )
    return by_caller and (
        guardrail.targets is None
        or any(
            _target_selected(each, destination)
            and any(_one_forbidden(operation, call, segments) for operation in _operations(each, destination))
            for each in guardrail.targets
        )
    )


def _has(attributes: dict[str, str], wanted: dict[str, tuple[str, ...]]) -> bool:
    return all(key in attributes and attributes[key] in values for key, values in wanted.items())


def _caller_selected(selector: CallerSelector, caller_id: str | None, caller: Service | ThirdParty | None) -> bool:
    is_service = caller is not None and not hasattr(caller, "window")
    if selector.services and not (is_service and caller.name in selector.services):
        return False
    if selector.third_parties and not (caller is not None and not is_service and caller.name in selector.third_parties):
        return False
    if selector.identities and (
        caller_id is None or not any(_identity_matches(str(each), caller_id) for each in selector.identities)
    ):
        return False
    return not selector.attributes or (caller is not None and _has(caller.attributes, selector.attributes))


def _target_selected(selector: TargetSelector, destination: Service | ThirdParty) -> bool:
    is_service = not hasattr(destination, "window")
    if selector.services:
        return is_service and destination.name in selector.services
    if selector.third_parties:
        return not is_service and destination.name in selector.third_parties
    return _has(destination.attributes, selector.attributes)


def _operations(selector: TargetSelector, destination: Service | ThirdParty) -> list[object]:
    operations: list[object] = []
    for operation in selector.operations:
        if isinstance(operation, ApiOperation):
            offered = getattr(destination, "api", ())
            operations += [entry.operation for entry in offered if entry.name in operation.names]
        else:
            operations.append(operation)
    return operations


def _one_allowed(operation: object, call: Call, segments: list[str]) -> bool:
    if isinstance(operation, GrpcOperation):
        types = [value for name, value in call.headers if name == "content-type"]
        if call.method != "POST" or len(types) != 1:
            return False
        if types[0] != b"application/grpc" and types[0][:17] not in {b"application/grpc+", b"application/grpc;"}:
            return False
        if len(segments) != 2:
            return False
        for method in operation.methods:
            service, _, name = str(method).partition("/")
            if segments[0] == service and segments[1] != "" and name in {"*", segments[1]}:
                return True
        return False
    if operation.methods is not ALL and call.method not in operation.methods:
        return False
    return operation.paths is ALL or any(_path_matches(str(path).split("/")[1:], segments) for path in operation.paths)


def _path_matches(pattern: list[str], segments: list[str]) -> bool:
    if not pattern:
        return not segments
    if pattern[0] == "{**}" or pattern[0].endswith("=**}"):
        return bool(segments) and all(segments)
    if not segments:
        return False
    one = segments[0] != "" if pattern[0].startswith("{") else segments[0] == pattern[0]
    return one and _path_matches(pattern[1:], segments[1:])


def _one_forbidden(operation: object, call: Call, segments: list[str]) -> bool:
    """Forbid broadly: one trailing slash more or fewer, `{**}` as no segment, HEAD with GET, grpc by its path alone."""
    if isinstance(operation, GrpcOperation):
        patterns = [["{*}" if part == "*" else part for part in str(each).split("/")] for each in operation.methods]
    else:
        methods = operation.methods
        if methods is not ALL and call.method not in methods and not (call.method == "HEAD" and "GET" in methods):
            return False
        if operation.paths is ALL:
            return True
        patterns = [str(path).split("/")[1:] for path in operation.paths]
    for pattern in list(patterns):
        if pattern[-1] == "{**}" or pattern[-1].endswith("=**}"):
            patterns.append(pattern[:-1] or [""])
    path = "/" + "/".join(segment.replace("/", "\0") for segment in segments)
    paths = [path, path + "/"] + ([path[:-1]] if path.endswith("/") and path != "/" else [])
    return any(_path_matches(pattern, each.split("/")[1:]) for pattern in patterns for each in paths)
