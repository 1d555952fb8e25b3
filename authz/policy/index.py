"""A policy set compiled for answering: everything that does not depend on the call is decided once, here.

Attribute selectors become lists of names, names become tables, paths become tries. A decision looks up the caller,
the destination, and the rules for exactly these two; what else is in the set costs it nothing.

Callers are split into *units*. Each Service and ThirdParty is one; so is each identity pattern of a rule; and so is
each large set of names that rules select, so that a rule for a thousand callers is not copied a thousand times. A
caller belongs to a few units, and rules are kept by unit, destination and the first segment of their path.

Guardrails are kept the same way. Everyone is a unit of its own, and what is forbidden everywhere stands in tables
of its own.

# INVARIANT (immutable): nothing changes an index once it is compiled; it may be shared by any number of threads.
# INVARIANT (order says nothing): an index answers the same whatever the order of files, documents and entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from authz.policy.condition_words import HEADERS
from authz.policy.garbage import collector_at_rest
from authz.policy.host import DEFAULT_PORTS
from authz.policy.identity_pattern import IdentityTable
from authz.policy.operation import ALL, EVERY_OPERATION, ApiEntry, GrpcOperation, HttpOperation
from authz.policy.party import EntryTable, Guard, GuardTable, Party, Rule, RuleTable, Unit, entries_of
from authz.policy.revocation import RevokedSerial, canonical_serial
from authz.policy.route import PathTemplate
from authz.policy.schema import Service
from authz.policy.schema_fields import Evidence, Mode
from authz.policy.selection import Selection
from authz.policy.window import ALWAYS, HORIZON_NS
from authz.request import TlsVersion

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from authz.identity.spiffe_id import SpiffeId, TrustDomain
    from authz.policy.host import ThirdPartyHost
    from authz.policy.hours import Hours, OpenSpans
    from authz.policy.party import Entry
    from authz.policy.policy_set import PolicySet
    from authz.policy.schema import Guardrail, MicroPolicy, TargetSelector, ThirdParty
    from authz.policy.selection import Callers
    from authz.policy.window import Window

R = TypeVar("R", bound=Rule)
P = TypeVar("P")

#: The units that a policy's `from` stands for: names, and sets by their numbers.
_Units: TypeAlias = frozenset[Unit]
#: What policies say of one destination: units of callers, operations, and the policy.
_Given: TypeAlias = "list[tuple[_Units, Iterable[HttpOperation | GrpcOperation], P]]"

#: From so many callers on, a set of names becomes one unit instead of being spelled out for each of them.
LARGE_SET: Final = 32
#: The unit that every caller belongs to, known or not.
EVERYONE: Final = "#everyone"
_EVERYONE: Final[_Units] = frozenset({EVERYONE})


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyIndex:
    """What :func:`compile_index` made of a set. Other modules read it through its methods."""

    revision: str
    #: whether anything of the set is in observe mode
    observes: bool
    #: whether any rule has conditions
    has_conditions: bool
    #: whether any of them is on a call's headers
    has_conditions_on_headers: bool
    #: whether any Service offers an operation whose calls may last
    has_long_lived: bool
    #: Before this instant every answer is exact; 366 days later hours are closed to everyone. None: at all times.
    exact_until_ns: int | None
    trust_domains: frozenset[TrustDomain]
    _revoked_ids: frozenset[SpiffeId]
    _revoked_serials: frozenset[RevokedSerial]
    _services: dict[str, Party] = field(repr=False)
    _certified: dict[str, Party] = field(repr=False)
    #: by the authority's file, the kind of a name and the name
    _certificate_names: dict[tuple[str, str, str], Party] = field(repr=False)
    _first_identities: dict[str, SpiffeId] = field(repr=False)
    #: by trust domain and path: who is called by an exact ID is found without a step of ours
    _exact_owners: dict[str, dict[str, Party]] = field(repr=False)
    _owners: IdentityTable[tuple[int, Party]] = field(repr=False)
    #: None where no rule selects identities
    _selected: IdentityTable[tuple[Unit, frozenset[str] | None]] | None = field(repr=False)
    _service_hosts: dict[str, Party] = field(repr=False)
    _third_party_hosts: dict[tuple[str, bool, int | None], Party] = field(repr=False)
    _rules: RuleTable[Rule] = field(repr=False)
    _guards: Mapping[tuple[Unit, str], EntryTable[Guard]] = field(repr=False)
    _guards_everywhere: Mapping[Unit, EntryTable[Guard]] = field(repr=False)

    def has_service(self, name: str) -> bool:
        """Whether the set has a Service of this name."""
        return name in self._services

    def service(self, name: str) -> Party | None:
        """Give the Service of this name."""
        return self._services.get(name)

    def service_identity(self, name: str) -> SpiffeId | None:
        """Give the first exact identity of a Service; None if it has none, or does not exist."""
        return self._first_identities.get(name)

    def identity_owner(self, spiffe_id: SpiffeId) -> str | None:
        """Give the name of the Service or ThirdParty that an ID belongs to."""
        owner = self.owner(spiffe_id)
        return None if owner is None else owner.name

    def owner(self, spiffe_id: SpiffeId) -> Party | None:
        """Give the Service or ThirdParty that an ID belongs to: an exact entry first, then the most literal pattern."""
        exact = self._exact_owners.get(spiffe_id.trust_domain.name)
        if exact is not None:
            found_exactly = exact.get(spiffe_id.path)
            if found_exactly is not None:
                return found_exactly
        best: tuple[int, Party] | None = None
        for found in self._owners.matching(spiffe_id):
            if best is None or found[0] > best[0]:
                best = found
        return None if best is None else best[1]

    def certified(self, name: str | None) -> Party | None:
        """Give the ThirdParty of this name, if certificates without SPIFFE IDs prove it."""
        return None if name is None else self._certified.get(name)

    @property
    def knows_certificates(self) -> bool:
        """Whether certificates without SPIFFE IDs prove anybody."""
        return bool(self._certificate_names)

    @property
    def authorities(self) -> frozenset[str]:
        """The files of the authorities that such certificates are of."""
        return frozenset(file for file, _, _ in self._certificate_names)

    def certificate_owner(self, authority: str, kind: str, name: str) -> str | None:
        """Give the ThirdParty that certificates of an authority's file with this name (`dns`, `uri`) prove."""
        found = self._certificate_names.get((authority, kind, name))
        return None if found is None else found.name

    def is_revoked(self, spiffe_id: SpiffeId, serial: str | None) -> bool:
        """Whether an identity, or the certificate with this serial number (in hex) that proved it, is taken back."""
        if self._revoked_ids and spiffe_id in self._revoked_ids:
            return True
        if serial is None or not self._revoked_serials:
            return False
        revoked = RevokedSerial(trust_domain=spiffe_id.trust_domain, serial=canonical_serial(serial))
        return revoked in self._revoked_serials

    def destination(self, name: str, port: int | None) -> Party | None:
        """Give the Service or ThirdParty that a requested host names."""
        service = self._service_hosts.get(name)
        if service is not None:
            return service
        hosts = self._third_party_hosts
        label, _, parent = name.partition(".")
        if not label:  # `*` is one label, and an empty one is none
            return None
        # Exact beats wildcard; of one name, the entry with the port beats the one without.
        for entry, wildcard in ((name, False), (parent, True)):
            if port is not None:
                found = hosts.get((entry, wildcard, port))
                if found is not None:
                    return found
            if port in DEFAULT_PORTS:
                found = hosts.get((entry, wildcard, None))
                if found is not None:
                    return found
        return None

    def units(self, caller: SpiffeId | None, owner: Party | None) -> Sequence[Unit]:
        """Give the units of a caller, who belongs to `owner`; without a SPIFFE ID, no pattern selects it."""
        units: Sequence[Unit] = () if owner is None else owner.units
        if self._selected is None or caller is None:
            return units
        return (*units, *_selected_units(self._selected, caller, None if owner is None else owner.name))

    def matching_entries(
        self, units: Sequence[Unit], destination: Party, method: str, segments: list[str], *, is_grpc: bool
    ) -> list[Entry[Rule]]:
        """Give what the rules for these callers and this destination allow of this method and path."""
        return self._rules.meaning(units, destination.name, method, segments, is_grpc=is_grpc)

    def guards(self, units: Sequence[Unit], destination: Party, method: str, segments: list[str]) -> list[Guard]:
        """Give the guards that mean what these callers do at this destination, whatever the time."""
        there, everywhere = self._guards, self._guards_everywhere
        if not there and not everywhere:
            return []
        found: dict[str, Guard] = {}
        for unit in (*units, EVERYONE):
            for table in (there.get((unit, destination.name)) if there else None, everywhere.get(unit)):
                if table is not None:
                    for entry in table.meaning(method, segments, is_grpc=False):
                        found[entry.rule.name] = entry.rule
        return list(found.values())


def _selected_units(
    selected: IdentityTable[tuple[Unit, frozenset[str] | None]], caller: SpiffeId, owner: str | None
) -> Iterator[Unit]:
    for table in (selected.exact(caller), selected.matching(caller)):
        for unit, owners in table:
            if owners is None or owner in owners:
                yield unit


def compile_index(policy_set: PolicySet, around_ns: int | None = None) -> PolicyIndex:
    """Compile a set; never fails, because a set has no faults.

    Around an instant, recurring hours become tables of edges, read by bisection: for checks, whose compiler does the
    same again every day, well before `exact_until_ns`. Without it, hours are worked out when they are asked about:
    for tools, which ask about any instant.

    Cost: linear in the number of pairs of caller and destination that the rules select; and 0.2 ms for hours that no
    other rule has.
    """
    with collector_at_rest():
        return _Compiler(policy_set, around_ns).index()


class _Compiler:
    def __init__(self, policy_set: PolicySet, around_ns: int | None) -> None:
        self._set = policy_set
        self._around_ns = around_ns
        self._spans: dict[Hours, OpenSpans] = {}
        self._named: dict[str, Service | ThirdParty] = {party.name: party for party in policy_set.parties}
        self._selection = Selection(policy_set)
        self._set_units: dict[object, Unit] = {}
        self._windows: dict[Window, Window] = {}
        self._sets: dict[str, list[Unit]] = {name: [] for name in self._named}
        self._rules: dict[str, _Given[MicroPolicy]] = {name: [] for name in self._named}
        self._guards: dict[str, _Given[Guardrail]] = {name: [] for name in self._named}
        self._guards_everywhere: list[tuple[_Units, Guardrail]] = []
        self._rule_of: dict[str, Rule] = {}
        self._guard_of: dict[str, Guard] = {}
        self._methods: dict[frozenset[str], frozenset[str]] = {}
        self._texts: dict[str, str] = {}
        self._selected: IdentityTable[tuple[Unit, frozenset[str] | None]] = IdentityTable()

    def index(self) -> PolicyIndex:
        for policy in self._set.micro_policies:
            self._allow(policy)
        for guardrail in self._set.guardrails:
            self._forbid(guardrail)
        mesh = self._set.mesh
        parties = {name: self._party(party) for name, party in self._named.items()}
        rules = self._rule_table()
        exact_owners: dict[str, dict[str, Party]] = {}
        owners: IdentityTable[tuple[int, Party]] = IdentityTable()
        for name, party in self._named.items():
            for pattern in party.identities:
                if pattern.exact is None:
                    owners.add(pattern, (pattern.literals, parties[name]))
                else:
                    exact_owners.setdefault(pattern.trust_domain.name, {})[pattern.exact.path] = parties[name]
        return PolicyIndex(
            revision=self._set.revision,
            observes=any(party.observed for party in parties.values())
            or any(each.mode is Mode.OBSERVE for each in self._set.micro_policies)
            or any(each.mode is Mode.OBSERVE for each in self._set.guardrails),
            has_conditions=any(each.when for each in self._set.micro_policies)
            or any(each.when for each in self._set.guardrails),
            has_conditions_on_headers=any(
                HEADERS in condition.reads
                for conditions in (
                    *(each.when for each in self._set.micro_policies),
                    *(each.when for each in self._set.guardrails),
                )
                for condition in conditions
            ),
            has_long_lived=any(party.long_lived is not None for party in parties.values()),
            # Known once all rules are made.
            exact_until_ns=min((spans.until_ns - HORIZON_NS for spans in self._spans.values()), default=None),
            trust_domains=frozenset(mesh.trust_domains),
            _revoked_ids=frozenset(each for each in mesh.revoked if not isinstance(each, RevokedSerial)),
            _revoked_serials=frozenset(each for each in mesh.revoked if isinstance(each, RevokedSerial)),
            _services={service.name: parties[service.name] for service in self._set.services},
            _certified={each.name: parties[each.name] for each in self._set.third_parties if each.certificates},
            _certificate_names={
                key: parties[each.name] for each in self._set.third_parties for key in _certificate_keys(each)
            },
            _first_identities=dict(_first_identities(self._set.services)),
            _exact_owners=exact_owners,
            _owners=owners,
            _rules=rules,
            _guards=self._guard_tables(),
            _guards_everywhere=self._guard_tables_everywhere(),
            _selected=None if self._selected.is_empty else self._selected,
            _service_hosts={
                host: parties[service.name] for service in self._set.services for host in (service.name, *service.hosts)
            },
            _third_party_hosts={
                _host_key(host): parties[third_party.name]
                for third_party in self._set.third_parties
                for host in third_party.hosts
            },
        )

    def _party(self, named: Service | ThirdParty) -> Party:
        offered = named.api if isinstance(named, Service) else ()
        mode = named.mode if isinstance(named, Service) else None
        return Party(
            name=named.name,
            is_service=isinstance(named, Service),
            window=ALWAYS if isinstance(named, Service) else named.window,
            attributes=named.attributes,
            path_shapes=named.path_shapes,
            tls=TlsVersion.TLS_1_3 if isinstance(named, Service) else named.tls,
            observed=(mode or self._set.mesh.defaults.mode) is Mode.OBSERVE,
            accepts_x509=not isinstance(named, Service) or Evidence.X509_SVID in named.accepts,
            accepts_jwt=isinstance(named, Service) and Evidence.JWT_SVID in named.accepts,
            forwarders=frozenset(named.forwarders) if isinstance(named, Service) else frozenset(),
            tunnels=named.tunnels if isinstance(named, Service) else frozenset(),
            sets=tuple(self._sets[named.name]),
            api=_api(offered),
            long_lived=_api(each for each in offered if each.long_lived),
        )

    # --- rules and guards

    def _allow(self, policy: MicroPolicy) -> None:
        units = self._caller_units(self._selection.callers(policy.callers))
        for name, operations in self._destinations(policy.targets):
            self._rules[name].append((units, operations, policy))

    def _forbid(self, guardrail: Guardrail) -> None:
        callers = guardrail.callers
        units = _EVERYONE if callers is None else self._caller_units(self._selection.callers(callers))
        if guardrail.targets is None:
            self._guards_everywhere.append((units, guardrail))
            return
        for name, operations in self._destinations(guardrail.targets):
            self._guards[name].append((units, operations, guardrail))

    def _rule(self, policy: MicroPolicy) -> Rule:
        rule = self._rule_of.get(policy.name)
        if rule is None:
            rule = self._rule_of[policy.name] = Rule(
                name=_copy(policy.name),
                window=self._window(policy.window),
                enforced=policy.mode is Mode.ENFORCE,
                conditions=policy.when,
            )
        return rule

    def _guard(self, guardrail: Guardrail) -> Guard:
        guard = self._guard_of.get(guardrail.name)
        if guard is None:
            require = guardrail.require
            guard = self._guard_of[guardrail.name] = Guard(
                name=_copy(guardrail.name),
                # Never expanded: past its horizon a rule is closed to everyone, and so must be what this forbids.
                window=guardrail.window,
                enforced=guardrail.mode is Mode.ENFORCE,
                conditions=guardrail.when,
                tls=None if require is None else require.tls,
                max_window_ns=None if require is None else require.max_window_ns,
            )
        return guard

    def _window(self, written: Window) -> Window:
        """Give a rule's window; rules that share one, as many do, share one value: it stays in the caches."""
        window = self._windows.get(written)
        if window is None:
            window = written if self._around_ns is None else written.expanded(self._around_ns, self._spans)
            self._windows[written] = window
        return window

    def _rule_table(self) -> RuleTable[Rule]:
        """Give all rules, made after each other: what a decision reads together lies together in memory."""
        rules: RuleTable[Rule] = RuleTable()
        for destination in self._named:
            for units, operations, policy in sorted(self._rules.pop(destination), key=_first_unit):
                for segments, entry in self._entries(operations, self._rule(policy)):
                    for unit in units:
                        rules.add(unit, destination, segments, entry)
        return rules

    def _guard_tables(self) -> dict[tuple[Unit, str], EntryTable[Guard]]:
        """Give what is forbidden at each destination."""
        tables: dict[tuple[Unit, str], EntryTable[Guard]] = {}
        for destination, given in self._guards.items():
            for units, operations, guardrail in given:
                entries = self._entries(operations, self._guard(guardrail))
                for unit in units:
                    tables.setdefault((unit, destination), GuardTable()).add_entries(entries)
        return tables

    def _guard_tables_everywhere(self) -> dict[Unit, EntryTable[Guard]]:
        """Give what is forbidden at every destination."""
        tables: dict[Unit, EntryTable[Guard]] = {}
        for units, guardrail in self._guards_everywhere:
            entries = self._entries((EVERY_OPERATION,), self._guard(guardrail))
            for unit in units:
                tables.setdefault(unit, GuardTable()).add_entries(entries)
        return tables

    def _entries(
        self, operations: Iterable[HttpOperation | GrpcOperation], rule: R
    ) -> list[tuple[Sequence[str] | None, Entry[R]]]:
        return [each for operation in operations for each in entries_of(self._own_operation(operation), rule)]

    def _own_operation(self, operation: HttpOperation | GrpcOperation) -> HttpOperation | GrpcOperation:
        """Give an operation with texts of our own; equal ones, of which there are many, are one value."""
        if isinstance(operation, GrpcOperation):
            return operation
        methods, paths = operation.methods, operation.paths
        return HttpOperation(
            methods=methods if methods is ALL else self._methods.setdefault(methods, methods),
            paths=paths if paths is ALL else tuple(map(self._own_path, paths)),
        )

    def _own_path(self, path: PathTemplate) -> PathTemplate:
        # The first segment becomes part of a longer text.
        segments = (path.segments[0], *map(self._own_text, path.segments[1:]))
        return PathTemplate(text=self._own_text(path.text), segments=segments)

    def _own_text(self, text: str) -> str:
        own = self._texts.get(text)
        if own is None:
            own = self._texts[text] = _copy(text)
        return own

    def _destinations(
        self, targets: Iterable[TargetSelector]
    ) -> Iterator[tuple[str, Iterable[HttpOperation | GrpcOperation]]]:
        for target in targets:
            yield from self._selection.targets(target).items()

    def _caller_units(self, callers: Callers) -> _Units:
        """Give the units that a rule's `from` stands for."""
        sets = set()
        for selected in callers.identities:
            unit, is_new = self._set_of(selected)
            sets.add(unit)
            if is_new:
                self._selected.add(selected.pattern, (unit, selected.owners))
        if len(callers.names) < LARGE_SET:
            return callers.names | sets
        unit, is_new = self._set_of(callers.names)
        if is_new:
            for name in callers.names:
                self._sets[name].append(unit)
        return frozenset({*sets, unit})

    def _set_of(self, callers: object) -> tuple[Unit, bool]:
        """Give the unit of a set of callers, and whether it is a new one."""
        new = f"#{len(self._set_units)}"
        unit = self._set_units.setdefault(callers, new)
        return unit, unit is new


def _first_unit(given: tuple[_Units, object, object]) -> Unit:
    return min(given[0], default="")


def _copy(text: str) -> str:
    """Give a copy of a text that lies beside what is made now, not where its file was read."""
    return text.encode().decode()


def _api(entries: Iterable[ApiEntry]) -> EntryTable[Rule] | None:
    table: EntryTable[Rule] | None = None
    for entry in entries:
        table = EntryTable() if table is None else table
        table.add_operation(entry.operation, Rule(name=entry.name, window=ALWAYS))
    return table


def _first_identities(services: Iterable[Service]) -> Iterator[tuple[str, SpiffeId]]:
    for service in services:
        for pattern in service.identities:
            if pattern.exact is not None:
                yield service.name, pattern.exact
                break


def _certificate_keys(third_party: ThirdParty) -> Iterator[tuple[str, str, str]]:
    for entry in third_party.certificates:
        yield from ((entry.authority_file, "dns", name) for name in entry.dns)
        yield from ((entry.authority_file, "uri", name) for name in entry.uri)


def _host_key(host: ThirdPartyHost) -> tuple[str, bool, int | None]:
    return host.name, host.wildcard, host.port
