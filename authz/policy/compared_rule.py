"""A call held against one rule, field by field: what does not match, and what would have to be different.

Walks a rule as it is written, selector by selector; what decides a call is the index. Both come to the same answer:
a rule without a lack is exactly one that is found for the call, enforced and open.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from authz.policy.condition import ConditionError
from authz.policy.errors import nearest, printable, quoted
from authz.policy.operation import ALL, ApiOperation, GrpcOperation, HttpOperation
from authz.policy.party import GRPC_METHOD
from authz.policy.path_difference import path_difference
from authz.policy.route import PathTemplate, is_grpc_content_type
from authz.policy.schema import Service
from authz.policy.schema_fields import Mode
from authz.policy.window_words import window_in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from authz.identity.spiffe_id import SpiffeId
    from authz.policy.condition import CallFacts, Condition
    from authz.policy.operation import All
    from authz.policy.route import GrpcMethod
    from authz.policy.schema import CallerSelector, MicroPolicy, TargetSelector, ThirdParty

#: Of a long list of names or patterns, so many are shown.
MAX_SHOWN: Final = 5

Party: TypeAlias = "Service | ThirdParty"


class CallField(StrEnum):
    """The fields of a call that a rule speaks of."""

    CALLER = "caller"
    DESTINATION = "destination"
    METHOD = "method"
    PATH = "path"
    CONTENT_TYPE = "content-type"
    WINDOW = "window"
    CONDITION = "condition"
    MODE = "mode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """One field of a call that a rule does not match: what it is, and what it would have to be."""

    field: CallField
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.field}: {self.found}; wanted: {self.wanted}" if self.wanted else f"{self.field}: {self.found}"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownCall:
    """A well-formed call of a verified caller to a known destination.

    `owner` is None for a caller without a name, `caller` for a ThirdParty without SPIFFE ID: one of them is there.
    """

    caller: SpiffeId | None
    owner: Party | None
    destination: Party
    method: str
    segments: tuple[str, ...]
    content_types: tuple[bytes, ...]
    facts: CallFacts

    @property
    def is_grpc(self) -> bool:
        """Whether the call says that it is gRPC."""
        return self.method == GRPC_METHOD and is_grpc_content_type(list(self.content_types))


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRule:
    """A rule with what it lacks to allow a call; `fitting` counts the leading segments of the path that fit."""

    rule: MicroPolicy
    lacks: tuple[Lack, ...]
    fitting: int

    @property
    def is_related(self) -> bool:
        """Whether the rule is about the caller or the destination, or lacks nothing but one of them."""
        fields = {lack.field for lack in self.lacks}
        return not fields >= {CallField.CALLER, CallField.DESTINATION}


def compared(rule: MicroPolicy, call: KnownCall, now_ns: int) -> ComparedRule:
    """Hold a call against a rule."""
    lacks: list[Lack] = []
    if not any(_selects_caller(selector, call) for selector in rule.callers):
        lacks.append(_caller_lack(rule.callers, call))
    # Of the targets, the one that is the least wrong; each says of all its fields what it lacks.
    fitting, target_lacks = min(
        (_target(target, call) for target in rule.targets), key=lambda each: (len(each[1]), -each[0])
    )
    lacks += target_lacks
    if not lacks:  # a condition is asked about calls that are meant, as for an answer
        lacks += _conditions(rule.when, call.facts)
    if not rule.window.is_open(now_ns):
        lacks.append(Lack(field=CallField.WINDOW, found=window_in_words(rule.window, now_ns), wanted=""))
    if rule.mode is Mode.OBSERVE:
        lacks.append(
            Lack(field=CallField.MODE, found="`observe`: what it would allow is only recorded", wanted="`enforce`")
        )
    return ComparedRule(rule=rule, lacks=tuple(lacks), fitting=fitting)


def _conditions(conditions: Iterable[Condition], facts: CallFacts) -> Iterator[Lack]:
    for condition in conditions:
        found = condition_in_words(condition, facts)
        if found is not None:
            yield Lack(field=CallField.CONDITION, found=found, wanted="")


def condition_in_words(condition: Condition, facts: CallFacts) -> str | None:
    """Say what keeps a condition from holding for a call; None if it holds."""
    try:
        return None if condition.holds(facts) else f"{quoted(condition.text)} is false"
    except ConditionError as error:
        return f"{quoted(condition.text)} has no answer: {printable(str(error))}"


# --- who -----------------------------------------------------------------------------------------------------------


def _selects_caller(selector: CallerSelector, call: KnownCall) -> bool:
    owner = call.owner
    name = None if owner is None else owner.name
    named = (*selector.services, *selector.third_parties)
    if named and name not in named:
        return False
    if selector.identities and (
        call.caller is None or not any(pattern.matches(call.caller) for pattern in selector.identities)
    ):
        return False
    return not selector.attributes or (owner is not None and not _missing(owner.attributes, selector.attributes))


def _caller_lack(selectors: Sequence[CallerSelector], call: KnownCall) -> Lack:
    wanted = _any_of([_described_caller(selector) for selector in selectors])
    if call.owner is None:
        found = f"{quoted(str(call.caller))}, which belongs to no Service or ThirdParty"
        return Lack(field=CallField.CALLER, found=found, wanted=wanted)
    wrong = [_wrong_attributes(call.owner, selector.attributes) for selector in selectors]
    found = _described_party(call.owner)
    # Where attributes alone decide, the ones that are wrong say more than the name.
    if len(selectors) == 1 and wrong[0] and not (selectors[0].services or selectors[0].third_parties):
        found += f" with {wrong[0]}"
    elif any(selector.identities for selector in selectors):
        found += ", which has no SPIFFE ID" if call.caller is None else f", {quoted(str(call.caller))}"
    return Lack(field=CallField.CALLER, found=found, wanted=wanted)


def _described_caller(selector: CallerSelector) -> str:
    parts = []
    if selector.services:
        parts.append(f"{_kind('Service', selector.services)} {_any_of([quoted(name) for name in selector.services])}")
    if selector.third_parties:
        names = _any_of([quoted(name) for name in selector.third_parties])
        parts.append(f"{_kind('ThirdParty', selector.third_parties)} {names}")
    if selector.identities:
        parts.append(_any_of([quoted(str(pattern)) for pattern in selector.identities]))
    if selector.attributes:
        parts.append(f"with {_described_attributes(selector.attributes)}")
    return " ".join(parts)


def _kind(kind: str, names: Sequence[str]) -> str:
    return (
        f"the {kind}" if len(names) == 1 else f"the {kind.removesuffix('y') + 'ies' if kind[-1] == 'y' else kind + 's'}"
    )


def _described_party(party: Party) -> str:
    return f"the {'Service' if isinstance(party, Service) else 'ThirdParty'} {quoted(party.name)}"


def _described_attributes(wanted: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(f"{printable(key)}={printable('|'.join(values))}" for key, values in wanted.items())


def _missing(given: Mapping[str, str], wanted: Mapping[str, tuple[str, ...]]) -> list[str]:
    return [key for key, values in wanted.items() if given.get(key) not in values]


def _wrong_attributes(party: Party, wanted: Mapping[str, tuple[str, ...]]) -> str:
    given = party.attributes
    wrong = [f"{printable(key)}={printable(given[key])}" for key in _missing(given, wanted) if key in given]
    absent = [printable(key) for key in _missing(given, wanted) if key not in given]
    return " and ".join([*wrong, *(f"no `{key}`" for key in absent)])


def _any_of(texts: Sequence[str]) -> str:
    shown = list(texts[:MAX_SHOWN])
    more = len(texts) - len(shown)
    if more:
        return f"{', '.join(shown)} or one of {more} more"
    return f"{', '.join(shown[:-1])} or {shown[-1]}" if len(shown) > 1 else shown[0]


# --- where and what ------------------------------------------------------------------------------------------------


def _target(target: TargetSelector, call: KnownCall) -> tuple[int, list[Lack]]:
    """Give how far the path fits, and what lacks of destination and operation."""
    lacks = []
    if not _selects_destination(target, call.destination):
        lacks.append(_destination_lack(target, call.destination))
    # What another destination's `api` stands for does not matter: it is another destination.
    options = list(_operations(target, call)) or [(0, [] if lacks else [_no_such_api(target, call)])]
    fitting, operation_lacks = min(options, key=lambda each: (len(each[1]), -each[0]))
    return fitting, lacks + operation_lacks


def _selects_destination(target: TargetSelector, destination: Party) -> bool:
    if target.attributes:
        return not _missing(destination.attributes, target.attributes)
    return destination.name in (*target.services, *target.third_parties)


def _destination_lack(target: TargetSelector, destination: Party) -> Lack:
    found = _described_party(destination)
    if target.attributes:
        found += f" with {_wrong_attributes(destination, target.attributes)}"
        wanted = f"one with {_described_attributes(target.attributes)}"
    else:
        kind, names = ("Service", target.services) if target.services else ("ThirdParty", target.third_parties)
        wanted = f"{_kind(kind, names)} {_any_of([quoted(name) for name in names])}"
    return Lack(field=CallField.DESTINATION, found=found, wanted=wanted)


def _operations(target: TargetSelector, call: KnownCall) -> Iterator[tuple[int, list[Lack]]]:
    """Compare the call with each operation that the target allows."""
    for operation in target.operations:
        if isinstance(operation, ApiOperation):
            entries = call.destination.api if isinstance(call.destination, Service) else ()
            for entry in entries:
                if entry.name in operation.names:
                    yield _operation(entry.operation, call)
        else:
            yield _operation(operation, call)


def _no_such_api(target: TargetSelector, call: KnownCall) -> Lack:
    """Say that the destination offers none of the operations that the rule names."""
    names = [name for each in target.operations if isinstance(each, ApiOperation) for name in each.names]
    wanted = f"one that has {_any_of([quoted(name) for name in names])} in its `api`"
    return Lack(field=CallField.DESTINATION, found=_described_party(call.destination), wanted=wanted)


def _operation(operation: HttpOperation | GrpcOperation, call: KnownCall) -> tuple[int, list[Lack]]:
    if isinstance(operation, GrpcOperation):
        return _grpc(operation.methods, call)
    lacks = []
    if operation.methods is not ALL and call.method not in operation.methods:
        known = sorted(operation.methods)
        wanted = _any_of([quoted(name) for name in known]) + nearest(call.method, known, similarity=0.8)
        lacks.append(Lack(field=CallField.METHOD, found=quoted(call.method), wanted=wanted))
    fitting, path_lack = _paths(operation.paths, call)
    return fitting, [*lacks, *([] if path_lack is None else [path_lack])]


def _grpc(methods: Sequence[GrpcMethod], call: KnownCall) -> tuple[int, list[Lack]]:
    lacks = []
    if call.method != GRPC_METHOD:
        lacks.append(Lack(field=CallField.METHOD, found=quoted(call.method), wanted=f"`{GRPC_METHOD}`, as gRPC has it"))
    elif not call.is_grpc:
        found = ", ".join(quoted(each.decode("utf-8", "replace")) for each in call.content_types)
        wanted = "`application/grpc`, once, alone or followed by `+` or `;`"
        lacks.append(Lack(field=CallField.CONTENT_TYPE, found=found or "none", wanted=wanted))
    templates = tuple(PathTemplate(text=f"/{method}", segments=method.segments) for method in methods)
    fitting, path_lack = _paths(templates, call)
    return fitting, [*lacks, *([] if path_lack is None else [path_lack])]


def _paths(templates: Sequence[PathTemplate] | All, call: KnownCall) -> tuple[int, Lack | None]:
    """Give how many segments fit the nearest of the patterns, and what does not; no lack if one of them matches."""
    if templates is ALL:
        return 0, None
    best: tuple[int, Lack] | None = None
    for template in templates:
        difference = path_difference(template, call.segments)
        if difference is None:
            return len(call.segments), None
        if best is None or difference.segment - 1 > best[0]:
            wanted = f"{difference.wanted}, as in {quoted(template.text)}"
            best = difference.segment - 1, Lack(field=CallField.PATH, found=difference.found, wanted=wanted)
    if best is None:
        raise AssertionError("a list of paths is never empty")
    return best
