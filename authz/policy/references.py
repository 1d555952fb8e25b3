"""What only a whole set can decide about names: each is unique, and each that is used exists.

Reads the documents themselves, not their values: a document with another fault still uses and defines its names, so
that all faults are found in one run, and one fault does not raise ten. Of a policy that has a value, the value tells
whether all its names are there: an edit of one of ten thousand looks at all of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from authz.policy.asked_call import AskedCallError, Directory
from authz.policy.errors import FaultCode, nearest, quoted
from authz.policy.operation import ApiOperation
from authz.policy.remedy import name_like
from authz.policy.schema import (
    CallerSelector,
    Guardrail,
    Kind,
    MicroPolicy,
    PolicyTestCase,
    Service,
    TargetSelector,
    ThirdParty,
)
from authz.policy.schema_fields import is_name
from authz.policy.selection import has_attributes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from authz.policy.document import Key, Value
    from authz.policy.errors import Fault
    from authz.policy.placed import Placed

#: Whoever has renamed more than so many things knows what is wrong.
MAX_HINTS: Final = 50

_WORD: Final = re.compile(r"[A-Za-z0-9_.-]+")


def reference_faults(placed: Sequence[Placed], unreadable: Iterable[str]) -> Iterator[Fault]:
    """Give the faults of names; `unreadable` are the texts of files that broke off."""
    return _References(placed, unreadable).faults()


class _References:
    def __init__(self, placed: Sequence[Placed], unreadable: Iterable[str]) -> None:
        self._placed = placed
        #: whatever an unreadable file may define
        self._perhaps = {word for text in unreadable for word in _WORD.findall(text)}
        self._names: dict[Kind, dict[str, Placed]] = {kind: {} for kind in Kind}
        for each in placed:
            self._names[each.kind].setdefault(each.name, each)
            if not is_name(each.name):  # its users write what it is to be
                self._perhaps.add(name_like(each.name))
        self._hints: dict[tuple[Kind, str], str] = {}
        self._services = {each.name: each.value for each in placed if isinstance(each.value, Service)}
        self._third_parties = {each.name: each.value for each in placed if isinstance(each.value, ThirdParty)}

    def faults(self) -> Iterator[Fault]:
        yield from self._one_mesh()
        yield from self._unique_names()
        directory = Directory(self._services, self._third_parties)
        for each in self._placed:
            match each.kind:
                case Kind.SERVICE:
                    yield from _unique_api_names(each)
                    for place, name in each.document.texts("spec", "forwarders"):
                        yield from self._exists(each, place, Kind.SERVICE, name)
                case Kind.MICRO_POLICY | Kind.GUARDRAIL:
                    yield from self._selectors(each)
                case Kind.POLICY_TEST:
                    yield from self._cases(each, directory)
                case Kind.MESH | Kind.THIRD_PARTY:
                    pass

    # --- unique names

    def _one_mesh(self) -> Iterator[Fault]:
        meshes = [each for each in self._placed if each.kind is Kind.MESH]
        for each in meshes[1:]:
            message = f"a set has one Mesh; the first is in {meshes[0].where()}"
            yield each.fault(("kind",), message, FaultCode.CONFLICT)

    def _unique_names(self) -> Iterator[Fault]:
        first: dict[tuple[Kind, str], Placed] = {}
        for each in self._placed:
            if each.kind is Kind.MESH or not each.name:
                continue
            # A Service and a ThirdParty never share a name: a call's `to` is one of them.
            group = Kind.SERVICE if each.kind is Kind.THIRD_PARTY else each.kind
            other = first.setdefault((group, each.name), each)
            if other is not each:
                where = other.where("metadata", "name")
                message = f"duplicate name {quoted(each.name)}; the first is the {other.kind} in {where}"
                yield each.fault(("metadata", "name"), message, FaultCode.CONFLICT)

    # --- names that are used

    def _selectors(self, each: Placed) -> Iterator[Fault]:
        if isinstance(each.value, (MicroPolicy, Guardrail)) and self._has_all_names(each.value):
            return
        document = each.document
        for side in ("from", "to"):
            for entry in document.places("spec", side):
                for field, kind in (("services", Kind.SERVICE), ("thirdParties", Kind.THIRD_PARTY)):
                    for place, name in document.texts(*entry, field):
                        yield from self._exists(each, place, kind, name)
        for entry in document.places("spec", "to"):
            for operation in document.places(*entry, "operations"):
                for place, name in document.texts(*operation, "api"):
                    yield from self._offered(each, entry, place, name)

    def _has_all_names(self, policy: MicroPolicy | Guardrail) -> bool:
        """Whether a policy without a fault of its own uses names that are there: of nearly all, and soon told."""
        services, third_parties = self._names[Kind.SERVICE].keys(), self._names[Kind.THIRD_PARTY].keys()
        selectors: list[CallerSelector | TargetSelector] = [*(policy.callers or ()), *(policy.targets or ())]
        for selector in selectors:
            if not (services >= set(selector.services) and third_parties >= set(selector.third_parties)):
                return False
        return not any(
            isinstance(operation, ApiOperation) for target in policy.targets or () for operation in target.operations
        )

    def _exists(self, each: Placed, place: tuple[Key, ...], kind: Kind, name: str) -> Iterator[Fault]:
        if name in self._names[kind] or name in self._perhaps or not is_name(name):
            return
        other = Kind.THIRD_PARTY if kind is Kind.SERVICE else Kind.SERVICE
        if name in self._names[other] and place[-2:-1] == ("forwarders",):
            hint = f"; it is a {other}, and only Services present tokens of others"
        elif name in self._names[other]:
            field = "thirdParties" if other is Kind.THIRD_PARTY else "services"
            hint = f"; it is a {other}, so it stands under `{field}`"
        else:
            hint = self._hint(kind, name)
        yield each.fault(place, f"there is no {kind} {quoted(name)}{hint}", FaultCode.REFERENCE)

    def _hint(self, kind: Kind, name: str) -> str:
        """Give the nearest name; looked for once, and only for so many, because that takes time."""
        if (kind, name) not in self._hints and len(self._hints) < MAX_HINTS:
            self._hints[kind, name] = nearest(name, self._names[kind])
        return self._hints.get((kind, name), "")

    def _offered(self, each: Placed, entry: tuple[Key, ...], place: tuple[Key, ...], name: str) -> Iterator[Fault]:
        """Find names of operations that the selected Services do not have."""
        document = each.document
        if document.find(*entry, "thirdParties") is not None:
            message = "a ThirdParty has no `api`; write `methods` and `paths`, or `grpc`"
            yield each.fault(place, message, FaultCode.REFERENCE)
        for _, service in document.texts(*entry, "services"):
            owner = self._names[Kind.SERVICE].get(service)
            offered = None if owner is None else _api_names(owner)
            if offered is not None and name not in offered:
                hint = nearest(name, offered) if offered else ", which is not written"
                message = f"the Service {quoted(service)} has no {quoted(name)} in its `api`{hint}"
                yield each.fault(place, message, FaultCode.REFERENCE)
        attributes = document.find(*entry, "attributes")
        if attributes is not None and not self._somewhere_offered(name, attributes.value):
            message = f"no Service with these attributes has {quoted(name)} in its `api`"
            yield each.fault(place, message, FaultCode.REFERENCE)

    def _somewhere_offered(self, name: str, attributes: Value) -> bool:
        if self._perhaps or len(self._services) < len(self._names[Kind.SERVICE]) or not isinstance(attributes, dict):
            return True  # what is broken may well have it
        wanted = {
            key: tuple(str(each) for each in (value if isinstance(value, tuple) else (value,)))
            for key, value in attributes.items()
        }
        return any(
            has_attributes(service.attributes, wanted) and any(entry.name == name for entry in service.api)
            for service in self._services.values()
        )

    # --- tests

    def _cases(self, each: Placed, directory: Directory) -> Iterator[Fault]:
        for entry in each.document.places("spec", "cases"):
            try:
                asked = PolicyTestCase.model_validate(each.document.node(*entry).value).call
            except ValidationError:
                continue  # the schema has told
            try:
                directory.call(asked)
            except AskedCallError as error:
                names = {"from": asked.caller, "to": asked.destination}
                if self._is_broken(names.get(error.field or "")):
                    continue
                place = (*entry, "call", *([error.field] if error.field else []))
                yield each.fault(place, str(error), FaultCode.REFERENCE)

    def _is_broken(self, name: str | None) -> bool:
        """Whether a name is, or may be, defined by a document that has faults of its own."""
        if name is None or name in self._services or name in self._third_parties:
            return False
        return name in self._perhaps or name in self._names[Kind.SERVICE] or name in self._names[Kind.THIRD_PARTY]


def _api_names(service: Placed) -> set[str]:
    document = service.document
    return {name for entry in document.places("spec", "api") if (name := document.text(*entry, "name")) is not None}


def _unique_api_names(service: Placed) -> Iterator[Fault]:
    seen: set[str] = set()
    for entry in service.document.places("spec", "api"):
        place = (*entry, "name")
        name = service.document.text(*place)
        if name is not None and name in seen:
            yield service.fault(place, f"duplicate name {quoted(name)} in `api`", FaultCode.CONFLICT)
        seen.add(name or "")
