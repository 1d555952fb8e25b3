"""The fields of the kinds: how each word, date, pattern and operation is written, and the value that it becomes.

A field's parser is the domain's own (`route`, `host`, `window`, ...); this module only fits it into the schema, so
that every fault of a document is found in one pass and knows its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable  # noqa: TC003 pydantic reads the annotations
from dataclasses import replace
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, GetCoreSchemaHandler, Tag
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from authz.decision import Reason, Verdict
from authz.errors import AuthzError
from authz.identity.spiffe_id import TrustDomain
from authz.instant import NS_PER_S
from authz.policy.asked_call import AskedCall
from authz.policy.condition import Condition
from authz.policy.errors import FaultCode, quoted
from authz.policy.expectation import Expectation
from authz.policy.host import ThirdPartyHost, parse_service_host
from authz.policy.hours import Day, Hours, HoursEntry, parse_from_minute, parse_until_minute
from authz.policy.identity_pattern import IdentityPattern
from authz.policy.operation import (
    ALL,
    EVERY_OPERATION,
    All,
    ApiEntry,
    ApiOperation,
    GrpcOperation,
    HttpOperation,
    Operation,
)
from authz.policy.remedy import instead_of_all, instead_of_name, instead_of_operations, nearest_word
from authz.policy.revocation import Revocation, parse_revocation
from authz.policy.route import GrpcMethod, PathShape, PathTemplate, parse_method
from authz.policy.window import NS_PER_DAY, Window, parse_instant_ns
from authz.policy.zone import Zone, zone_named
from authz.request import Direction, TlsVersion

T = TypeVar("T")

_DNS_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_API_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,127}")


#: A workload has a handful of identities; what has a thousand is a pattern.
MAX_IDENTITIES: Final = 1000
#: What is said of a field that the language has and this version does not.
NOT_SUPPORTED: Final = "not supported yet"


class Fields(BaseModel):
    """The fields of one mapping: none unknown, none coerced, never changed."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", alias_generator=to_camel, arbitrary_types_allowed=True
    )


# --- machinery -----------------------------------------------------------------------------------------------------


def problem(message: str, *, code: FaultCode = FaultCode.SCHEMA, at: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """Make the error that becomes a fault; `at` leads from the field's own place to the one at fault."""
    return PydanticCustomError("authz", "{message}", {"message": message, "code": code, "at": at})


class _Validated:
    """Annotates a value's type with the function that makes it; the type itself is the domain's, not the schema's."""

    def __init__(self, validate: Callable[[object], object]) -> None:
        self._validate = validate

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)


def _text(parse: Callable[[str], object]) -> _Validated:
    """Read a string into a value by a parser of the domain."""

    def validate(value: object) -> object:
        if not isinstance(value, str):
            raise PydanticCustomError("string_type", "not a string")
        try:
            return parse(value)
        except AuthzError as error:
            raise problem(str(error)) from error

    return _Validated(validate)


def _one_of(words: type[StrEnum], *, not_yet: StrEnum | None = None) -> _Validated:
    """Read one of an enumeration's words; `not_yet` is part of the language, and not of this version."""
    known = {str(word): word for word in words}

    def parse(text: str) -> StrEnum:
        if text not in known:
            raise problem(f"{quoted(text)} is none of {_listed(known)}{nearest_word(text, known)}")
        if text == not_yet:
            raise problem(
                f"`{text}` is not supported yet; only {_others(words, not_yet)} is", code=FaultCode.UNSUPPORTED
            )
        return known[text]

    return _text(parse)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _others(words: type[StrEnum], not_yet: StrEnum) -> str:
    return " or ".join(f"`{word}`" for word in words if word != not_yet)


class _Becomes:
    """Annotates a value's type with the fields that it is written in, and how it is made from them."""

    def __init__(self, fields: type[Fields], make: Callable[[Any], object]) -> None:
        self.fields = fields
        self._make = make

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._make, handler.generate_schema(self.fields))


def written_as(annotation: object) -> type[Fields] | None:
    """Give the fields that a value of this annotation is written in, if it is one of ours."""
    return annotation.fields if isinstance(annotation, _Becomes) else None


def _refuse(_: object) -> object:
    raise problem(NOT_SUPPORTED, code=FaultCode.UNSUPPORTED)


#: A field that the language has and this version does not.
NotSupported: TypeAlias = Annotated[None, _Validated(_refuse)]


# --- words ---------------------------------------------------------------------------------------------------------


def is_name(text: str) -> bool:
    """Whether a document can have this name."""
    return _DNS_LABEL.fullmatch(text) is not None


def _dns_label(text: str) -> str:
    if not is_name(text):
        why = f"{quoted(text)} is no DNS label: at most 63 of `a-z 0-9 -`, `-` neither first nor last"
        raise problem(why + instead_of_name(text))
    return text


def _api_name(text: str) -> str:
    if not _API_NAME.fullmatch(text):
        raise problem(f"{quoted(text)} is no name of an operation: letters, digits, `_`, `.` and `-`")
    return text


class Mode(StrEnum):
    """Whether what a rule or a Service says holds, or is only recorded."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class Evidence(StrEnum):
    """What a Service accepts as proof of an identity."""

    X509_SVID = "x509-svid"
    JWT_SVID = "jwt-svid"


Name: TypeAlias = Annotated[str, _text(_dns_label)]
Names: TypeAlias = Annotated[tuple[Name, ...], Field(min_length=1)]
ModeField: TypeAlias = Annotated[Mode, _one_of(Mode)]
EvidenceField: TypeAlias = Annotated[Evidence, _one_of(Evidence, not_yet=Evidence.JWT_SVID)]
ShapeField: TypeAlias = Annotated[PathShape, _one_of(PathShape)]
TlsField: TypeAlias = Annotated[TlsVersion, _one_of(TlsVersion)]
TrustDomainField: TypeAlias = Annotated[TrustDomain, _text(TrustDomain.parse)]
IdentityField: TypeAlias = Annotated[IdentityPattern, _text(IdentityPattern.parse)]
Identities: TypeAlias = Annotated[tuple[IdentityField, ...], Field(min_length=1, max_length=MAX_IDENTITIES)]
RevocationField: TypeAlias = Annotated[Revocation, _text(parse_revocation)]
ServiceHostField: TypeAlias = Annotated[str, _text(parse_service_host)]
ThirdPartyHostField: TypeAlias = Annotated[ThirdPartyHost, _text(ThirdPartyHost.parse)]
InstantField: TypeAlias = Annotated[int, _text(parse_instant_ns)]
Attributes: TypeAlias = dict[str, str]


# --- windows -------------------------------------------------------------------------------------------------------

#: Hours differ from day to day, not from minute to minute; each entry costs edges on up to 435 days.
MAX_DURING: Final = 64


class _DuringFields(Fields):
    days: Annotated[tuple[Annotated[Day, _one_of(Day)], ...], Field(min_length=1)]
    from_minute: Annotated[int, _text(parse_from_minute), Field(alias="from")]
    until_minute: Annotated[int, _text(parse_until_minute), Field(alias="until")]
    timezone: Annotated[Zone, _text(zone_named)]


def _during(fields: _DuringFields) -> HoursEntry:
    for index, day in enumerate(fields.days):
        if day in fields.days[:index]:
            raise problem(f"`{day}` is written twice", at=("days", index))
    return HoursEntry(
        days=frozenset(fields.days),
        from_minute=fields.from_minute,
        until_minute=fields.until_minute,
        zone=fields.timezone,
    )


def _not_too_many(value: object) -> object:
    """Refuse too long a list before its entries are looked at: each wrong zone's hint takes time."""
    if isinstance(value, tuple) and len(value) > MAX_DURING:
        raise problem(f"{len(value)} entries; {MAX_DURING} are allowed")
    return value


class _WindowFields(Fields):
    opens: InstantField | None = None
    closes: InstantField | None = None
    during: (
        Annotated[
            tuple[Annotated[HoursEntry, _Becomes(_DuringFields, _during)], ...],
            Field(min_length=1),
            BeforeValidator(_not_too_many),
        ]
        | None
    ) = None


class _BothDates(Fields):
    opens: InstantField
    closes: InstantField


def _dates(fields: _WindowFields | _BothDates) -> Window:
    if fields.opens is not None and fields.closes is not None and fields.closes <= fields.opens:
        raise problem("the window closes at or before it opens", at=("closes",))
    return Window(opens_ns=fields.opens, closes_ns=fields.closes)


def _window(fields: _WindowFields) -> Window:
    if not fields.model_fields_set:
        raise problem("one of `opens`, `closes` and `during` is required")
    dates = _dates(fields)
    if fields.during is None:
        return dates
    return replace(dates, hours=Hours.of(fields.during))


WindowField: TypeAlias = Annotated[Window, _Becomes(_WindowFields, _window)]
BothDatesField: TypeAlias = Annotated[Window, _Becomes(_BothDates, _dates)]


# --- operations ----------------------------------------------------------------------------------------------------


def _all(text: str) -> All:
    if text != "all":
        raise problem(f"{quoted(text)} is neither `all` nor a list{instead_of_all(text)}")
    return ALL


def _word_or_list(value: object) -> str:
    return "<word>" if isinstance(value, str) else "<list>"


_AllField: TypeAlias = Annotated[All, _text(_all), Tag("<word>")]
_Methods: TypeAlias = Annotated[
    _AllField | Annotated[tuple[Annotated[str, _text(parse_method)], ...], Field(min_length=1), Tag("<list>")],
    Discriminator(_word_or_list),
]
_Paths: TypeAlias = Annotated[
    _AllField
    | Annotated[tuple[Annotated[PathTemplate, _text(PathTemplate.parse)], ...], Field(min_length=1), Tag("<list>")],
    Discriminator(_word_or_list),
]
_GrpcMethods: TypeAlias = Annotated[tuple[Annotated[GrpcMethod, _text(GrpcMethod.parse)], ...], Field(min_length=1)]
_ApiName: TypeAlias = Annotated[str, _text(_api_name)]


class _OperationFields(Fields):
    methods: _Methods | None = None
    paths: _Paths | None = None
    grpc: _GrpcMethods | None = None


class _TargetOperationFields(_OperationFields):
    api: Annotated[tuple[_ApiName, ...], Field(min_length=1)] | None = None


class _ApiEntryFields(_OperationFields):
    name: _ApiName
    long_lived: bool = False


def _http_or_grpc(fields: _OperationFields) -> HttpOperation | GrpcOperation:
    """Make the operation that the fields say; each of the two ways to say it is complete and alone."""
    if fields.grpc is not None:
        for name, value in (("methods", fields.methods), ("paths", fields.paths)):
            if value is not None:
                raise problem(f"`grpc` says method and path; leave `{name}` out", at=(name,))
        return GrpcOperation(methods=fields.grpc)
    if fields.methods is None and fields.paths is None:
        raise problem("an operation is `methods` and `paths`, or `grpc`, or `api`")
    if fields.methods is None or fields.paths is None:
        missing, there = ("methods", "paths") if fields.methods is None else ("paths", "methods")
        raise problem(f"`{missing}` is required beside `{there}`; write `all` for every one")
    methods = ALL if fields.methods is ALL else _methods(fields.methods)
    return HttpOperation(methods=methods, paths=fields.paths)


@lru_cache(maxsize=256)
def _methods(given: tuple[str, ...]) -> frozenset[str]:
    """Give the methods as a set, the same one for the few combinations that all rules have."""
    return frozenset(given)


def _operation(fields: _TargetOperationFields) -> Operation:
    if fields.api is None:
        return _http_or_grpc(fields)
    for name, value in (("methods", fields.methods), ("paths", fields.paths), ("grpc", fields.grpc)):
        if value is not None:
            raise problem(f"`api` says what is allowed by name; put `{name}` into an entry of its own", at=(name,))
    return ApiOperation(names=fields.api)


def _api_entry(fields: _ApiEntryFields) -> ApiEntry:
    if fields.long_lived:
        raise problem("`longLived: true` is not supported yet", code=FaultCode.UNSUPPORTED, at=("longLived",))
    return ApiEntry(name=fields.name, operation=_http_or_grpc(fields))


def _every_operation(text: str) -> tuple[Operation, ...]:
    if text != "all":
        raise problem(f"{quoted(text)} is neither `all` nor a list{instead_of_operations(text)}")
    return (EVERY_OPERATION,)


ApiField: TypeAlias = Annotated[ApiEntry, _Becomes(_ApiEntryFields, _api_entry)]
OperationsField: TypeAlias = Annotated[
    Annotated[tuple[Operation, ...], _text(_every_operation), Tag("<word>")]
    | Annotated[
        tuple[Annotated[Operation, _Becomes(_TargetOperationFields, _operation)], ...],
        Field(min_length=1),
        Tag("<list>"),
    ],
    Discriminator(_word_or_list),
]


# --- conditions and guardrails ---------------------------------------------------------------------------------------

#: The whole number and the unit of a duration.
_DURATION: Final = re.compile(r"([0-9]{1,12})([smhd])")
_UNIT_NS: Final = {"s": NS_PER_S, "m": 60 * NS_PER_S, "h": 3600 * NS_PER_S, "d": NS_PER_DAY}


def _duration_ns(text: str) -> int:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise problem(f"{quoted(text)} is no duration; write a whole number and `s`, `m`, `h` or `d`, such as `90d`")
    return int(found[1]) * _UNIT_NS[found[2]]


DurationField: TypeAlias = Annotated[int, _text(_duration_ns)]

#: More conditions of one rule are one condition with `&&`; each costs a decision microseconds.
MAX_CONDITIONS: Final = 16
Conditions: TypeAlias = Annotated[
    tuple[Annotated[Condition, _text(Condition.compile)], ...], Field(min_length=1, max_length=MAX_CONDITIONS)
]


# --- attribute selectors -------------------------------------------------------------------------------------------


def _one_value(text: str) -> tuple[str, ...]:
    return (text,)


AttributeSelector: TypeAlias = dict[
    str,
    Annotated[
        Annotated[tuple[str, ...], _text(_one_value), Tag("<word>")]
        | Annotated[tuple[str, ...], Field(min_length=1), Tag("<list>")],
        Discriminator(_word_or_list),
    ],
]


# --- tests ---------------------------------------------------------------------------------------------------------


class _AskedCallFields(Fields):
    caller: Annotated[str | None, Field(alias="from")] = None
    to: str
    method: str | None = None
    path: str | None = None
    grpc: str | None = None
    headers: dict[str, str] | None = None
    tls: TlsField | None = None
    direction: Annotated[Direction, _one_of(Direction)] | None = None
    host: str | None = None


def _asked_call(fields: _AskedCallFields) -> AskedCall:
    return AskedCall(
        caller=fields.caller,
        destination=fields.to,
        method=fields.method,
        path=fields.path,
        grpc=fields.grpc,
        headers=tuple((fields.headers or {}).items()),
        tls=fields.tls,
        direction=fields.direction,
        host=fields.host,
    )


class _ExpectationFields(Fields):
    decision: Annotated[Verdict, _one_of(Verdict)] | None = None
    reason: Annotated[Reason, _one_of(Reason)] | None = None
    policy: Name | None = None


def _expectation(fields: _ExpectationFields) -> Expectation:
    if fields.decision is not None and fields.reason is not None and fields.reason.verdict != fields.decision:
        raise problem(f"the reason `{fields.reason}` is never given for `{fields.decision}`", at=("reason",))
    decision = fields.decision or (None if fields.reason is None else fields.reason.verdict)
    return Expectation(decision=decision, reason=fields.reason, policy=fields.policy)


def _expected_word(text: str) -> Expectation:
    if text not in {Verdict.ALLOW, Verdict.DENY}:
        raise problem(f"{quoted(text)} is neither `allow` nor `deny`{nearest_word(text, list(Verdict))}")
    return Expectation(decision=Verdict(text))


AskedCallField: TypeAlias = Annotated[AskedCall, _Becomes(_AskedCallFields, _asked_call)]
ExpectationField: TypeAlias = Annotated[
    Annotated[Expectation, _text(_expected_word), Tag("<word>")]
    | Annotated[Expectation, _Becomes(_ExpectationFields, _expectation), Tag("<list>")],
    Discriminator(_word_or_list),
]
