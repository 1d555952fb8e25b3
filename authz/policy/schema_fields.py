"""The fields of the kinds: how each word, date, pattern and call is written, and the value that it becomes.

How they are read stands in `field_reading`, operations in `operation_fields`, what proves identities in
`evidence_fields`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Final, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag

from authz.decision import Reason, Verdict
from authz.identity.spiffe_id import TrustDomain
from authz.instant import NS_PER_S
from authz.policy.asked_call import AskedCall
from authz.policy.condition import Condition
from authz.policy.errors import quoted
from authz.policy.expectation import Expectation
from authz.policy.field_reading import LIST, WORD, Becomes, Fields, one_of, problem, text_by, word_or_list
from authz.policy.host import ThirdPartyHost, Tunnel, parse_service_host
from authz.policy.hours import Day, Hours, HoursEntry, parse_from_minute, parse_until_minute
from authz.policy.identity_pattern import IdentityPattern
from authz.policy.remedy import instead_of_name, nearest_word
from authz.policy.revocation import Revocation, parse_revocation
from authz.policy.route import PathShape
from authz.policy.window import NS_PER_DAY, Window, parse_instant_ns
from authz.policy.zone import Zone, zone_named
from authz.request import Direction, TlsVersion

_DNS_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

#: A workload has a handful of identities; what has a thousand is a pattern.
MAX_IDENTITIES: Final = 1000


# --- words ---------------------------------------------------------------------------------------------------------


def is_name(text: str) -> bool:
    """Whether a document can have this name."""
    return _DNS_LABEL.fullmatch(text) is not None


def _dns_label(text: str) -> str:
    if not is_name(text):
        why = f"{quoted(text)} is no DNS label: at most 63 of `a-z 0-9 -`, `-` neither first nor last"
        raise problem(why + instead_of_name(text))
    return text


class Mode(StrEnum):
    """Whether what a rule or a Service says holds, or is only recorded."""

    ENFORCE = "enforce"
    OBSERVE = "observe"


class Evidence(StrEnum):
    """What a Service accepts as proof of an identity."""

    X509_SVID = "x509-svid"
    JWT_SVID = "jwt-svid"


Name: TypeAlias = Annotated[str, text_by(_dns_label)]
Names: TypeAlias = Annotated[tuple[Name, ...], Field(min_length=1)]
ModeField: TypeAlias = Annotated[Mode, one_of(Mode)]
EvidenceField: TypeAlias = Annotated[Evidence, one_of(Evidence)]
ShapeField: TypeAlias = Annotated[PathShape, one_of(PathShape)]
TlsField: TypeAlias = Annotated[TlsVersion, one_of(TlsVersion)]
TrustDomainField: TypeAlias = Annotated[TrustDomain, text_by(TrustDomain.parse)]
IdentityField: TypeAlias = Annotated[IdentityPattern, text_by(IdentityPattern.parse)]
Identities: TypeAlias = Annotated[tuple[IdentityField, ...], Field(min_length=1, max_length=MAX_IDENTITIES)]
RevocationField: TypeAlias = Annotated[Revocation, text_by(parse_revocation)]
ServiceHostField: TypeAlias = Annotated[str, text_by(parse_service_host)]
ThirdPartyHostField: TypeAlias = Annotated[ThirdPartyHost, text_by(ThirdPartyHost.parse)]
TunnelField: TypeAlias = Annotated[Tunnel, text_by(Tunnel.parse)]
InstantField: TypeAlias = Annotated[int, text_by(parse_instant_ns)]
Attributes: TypeAlias = dict[str, str]


# --- windows -------------------------------------------------------------------------------------------------------

#: Hours differ from day to day, not from minute to minute; each entry costs edges on up to 435 days.
MAX_DURING: Final = 64


class _DuringFields(Fields):
    days: Annotated[tuple[Annotated[Day, one_of(Day)], ...], Field(min_length=1)]
    from_minute: Annotated[int, text_by(parse_from_minute), Field(alias="from")]
    until_minute: Annotated[int, text_by(parse_until_minute), Field(alias="until")]
    timezone: Annotated[Zone, text_by(zone_named)]


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
            tuple[Annotated[HoursEntry, Becomes(_DuringFields, _during)], ...],
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


WindowField: TypeAlias = Annotated[Window, Becomes(_WindowFields, _window)]
BothDatesField: TypeAlias = Annotated[Window, Becomes(_BothDates, _dates)]


# --- conditions and guardrails ---------------------------------------------------------------------------------------

#: The whole number and the unit of a duration.
_DURATION: Final = re.compile(r"([0-9]{1,12})([smhd])")
_UNIT_NS: Final = {"s": NS_PER_S, "m": 60 * NS_PER_S, "h": 3600 * NS_PER_S, "d": NS_PER_DAY}


def _duration_ns(text: str) -> int:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise problem(f"{quoted(text)} is no duration; write a whole number and `s`, `m`, `h` or `d`, such as `90d`")
    return int(found[1]) * _UNIT_NS[found[2]]


DurationField: TypeAlias = Annotated[int, text_by(_duration_ns)]

#: More conditions of one rule are one condition with `&&`; each costs a decision microseconds.
MAX_CONDITIONS: Final = 16
Conditions: TypeAlias = Annotated[
    tuple[Annotated[Condition, text_by(Condition.compile)], ...], Field(min_length=1, max_length=MAX_CONDITIONS)
]


# --- attribute selectors -------------------------------------------------------------------------------------------


def _one_value(text: str) -> tuple[str, ...]:
    return (text,)


AttributeSelector: TypeAlias = dict[
    str,
    Annotated[
        Annotated[tuple[str, ...], text_by(_one_value), Tag(WORD)]
        | Annotated[tuple[str, ...], Field(min_length=1), Tag(LIST)],
        Discriminator(word_or_list),
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
    direction: Annotated[Direction, one_of(Direction)] | None = None
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
    decision: Annotated[Verdict, one_of(Verdict)] | None = None
    reason: Annotated[Reason, one_of(Reason)] | None = None
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


AskedCallField: TypeAlias = Annotated[AskedCall, Becomes(_AskedCallFields, _asked_call)]
ExpectationField: TypeAlias = Annotated[
    Annotated[Expectation, text_by(_expected_word), Tag(WORD)]
    | Annotated[Expectation, Becomes(_ExpectationFields, _expectation), Tag(LIST)],
    Discriminator(word_or_list),
]
