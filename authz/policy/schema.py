"""The kinds of the policy language as values: what a document may say.

Decides everything that one document alone can decide. What needs a second document (names that must exist, trust
domains, owners of identities and hosts) is decided in `references`. Nothing is coerced and nothing is optional by
accident: an unknown field, a wrong type, an empty list is a fault, and all of them are found in one pass.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from authz.policy.evidence_fields import Attestation, BundleEndpoint, CertificateNames, EndpointProfile, FileField
from authz.policy.field_reading import Fields, problem
from authz.policy.operation_fields import ApiField, OperationsField  # noqa: TC001 pydantic reads the annotations
from authz.policy.route import PathShape  # noqa: TC001 same
from authz.policy.schema_fields import (
    AskedCallField,
    Attributes,
    AttributeSelector,
    BothDatesField,
    Conditions,
    DurationField,
    Evidence,
    EvidenceField,
    ExpectationField,
    Identities,
    InstantField,
    Mode,
    ModeField,
    Name,
    Names,
    RevocationField,
    ServiceHostField,
    ShapeField,
    ThirdPartyHostField,
    TlsField,
    TrustDomainField,
    TunnelField,
    WindowField,
)
from authz.policy.window import ALWAYS
from authz.request import TlsVersion

API_VERSION: Final = "authz/v1"


class Kind(StrEnum):
    """The kinds of document."""

    MESH = "Mesh"
    SERVICE = "Service"
    THIRD_PARTY = "ThirdParty"
    MICRO_POLICY = "MicroPolicy"
    GUARDRAIL = "Guardrail"
    POLICY_TEST = "PolicyTest"


class Metadata(Fields):
    """What every document says about itself."""

    name: Name
    owner: str | None = None
    labels: Attributes = Field(default_factory=dict)
    annotations: Attributes = Field(default_factory=dict)


class Named(BaseModel):
    """A value of the set, by the metadata of its document."""

    model_config = ConfigDict(frozen=True)

    metadata: Metadata

    @property
    def name(self) -> str:
        """The name, unique in its kind."""
        return self.metadata.name


# --- Mesh ----------------------------------------------------------------------------------------------------------


class Federation(Fields):
    """A trust domain that is not ours, and whose workloads may be known here; `bundle` is the file of its roots."""

    trust_domain: TrustDomainField
    bundle: FileField | None = None
    endpoint: BundleEndpoint | None = None

    @model_validator(mode="after")
    def _has_authorities(self) -> Self:
        if self.bundle is None and self.endpoint is None:
            raise problem("one of `bundle` and `endpoint` is required: where the trust domain's authorities are")
        if self.bundle is None and self.endpoint is not None and self.endpoint.profile is EndpointProfile.HTTPS_SPIFFE:
            # SPIFFE Federation 5.2.2: the server is verified by the bundle that is there already.
            raise problem("`bundle` is required with `https_spiffe`: the endpoint's server is verified by it")
        return self


class Defaults(Fields):
    """What holds where a Service does not say otherwise."""

    mode: ModeField = Mode.ENFORCE


class MeshSpec(Fields):
    """What holds for the whole set."""

    trust_domains: Annotated[tuple[TrustDomainField, ...], Field(min_length=1)]
    federates: Annotated[tuple[Federation, ...], Field(min_length=1)] = ()
    defaults: Defaults = Defaults()
    revoked: Annotated[tuple[RevocationField, ...], Field(min_length=1)] = ()


class Mesh(Named, MeshSpec):
    """The one Mesh of a set; the first of its `trust_domains` is the local one."""

    @property
    def federations(self) -> tuple[Federation, ...]:
        """The federated trust domains."""
        return self.federates


# --- Service and ThirdParty ----------------------------------------------------------------------------------------


class PathsAllowed(Fields):
    """The shapes of path that a destination opts in to."""

    allow: Annotated[tuple[ShapeField, ...], Field(min_length=1)]


class _Destination(Fields):
    attributes: Attributes = Field(default_factory=dict)
    paths: PathsAllowed | None = None

    @property
    def path_shapes(self) -> frozenset[PathShape]:
        """The shapes of path that are refused elsewhere and allowed here."""
        return frozenset() if self.paths is None else frozenset(self.paths.allow)


class Egress(Fields):
    """What a Service may do outside of policies about requests: the opaque tunnels that it may open."""

    connect: Annotated[tuple[TunnelField, ...], Field(min_length=1)]


class ServiceSpec(_Destination):
    """A workload that calls and is called."""

    identities: Identities
    api: Annotated[tuple[ApiField, ...], Field(min_length=1)] = ()
    hosts: Annotated[tuple[ServiceHostField, ...], Field(min_length=1)] = ()
    accepts: Annotated[tuple[EvidenceField, ...], Field(min_length=1)] = (Evidence.X509_SVID,)
    forwarders: Names = ()
    mode: ModeField | None = None
    egress: Egress | None = None
    attest: Annotated[tuple[Attestation, ...], Field(min_length=1)] = ()

    @property
    def tunnels(self) -> frozenset[tuple[str, int]]:
        """The hosts and ports that it may open opaque tunnels to."""
        return frozenset() if self.egress is None else frozenset((each.name, each.port) for each in self.egress.connect)


class Service(Named, ServiceSpec):
    """A Service of the set."""


class ThirdPartySpec(_Destination):
    """A service outside the mesh, and when it is commissioned."""

    identities: Identities = ()
    certificates: Annotated[tuple[CertificateNames, ...], Field(min_length=1)] = ()
    hosts: Annotated[tuple[ThirdPartyHostField, ...], Field(min_length=1)] = ()
    window: BothDatesField
    tls: TlsField = TlsVersion.TLS_1_2

    @model_validator(mode="after")
    def _is_reachable(self) -> Self:
        if not self.identities and not self.certificates and not self.hosts:
            raise problem(
                "at least one of `identities`, `certificates` (it calls) and `hosts` (it is called) is required"
            )
        return self


class ThirdParty(Named, ThirdPartySpec):
    """A ThirdParty of the set."""


# --- MicroPolicy ---------------------------------------------------------------------------------------------------


class CallerSelector(Fields):
    """Callers for whom every field given holds; within a field, any value is enough."""

    services: Names = ()
    third_parties: Names = ()
    identities: Identities = ()
    attributes: AttributeSelector = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        if self.services and self.third_parties:
            raise problem("no caller is a Service and a ThirdParty at once; write two entries", at=("thirdParties",))
        return self


class TargetSelector(Fields):
    """Destinations, and what may be done there."""

    services: Names = ()
    third_parties: Names = ()
    attributes: AttributeSelector = Field(default_factory=dict)
    operations: OperationsField

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> Self:
        given = [name for name in ("services", "third_parties", "attributes") if getattr(self, name)]
        if not given:
            raise problem("one of `services`, `thirdParties` and `attributes` is required")
        if len(given) > 1:
            raise problem("only one of `services`, `thirdParties` and `attributes` is allowed; write two entries")
        return self


class MicroPolicySpec(Fields):
    """What is allowed; nothing else is."""

    callers: Annotated[tuple[CallerSelector, ...], Field(min_length=1, alias="from")]
    targets: Annotated[tuple[TargetSelector, ...], Field(min_length=1, alias="to")]
    when: Conditions = ()
    window: WindowField = ALWAYS
    mode: ModeField = Mode.ENFORCE


class MicroPolicy(Named, MicroPolicySpec):
    """A MicroPolicy of the set."""


# --- Guardrail -----------------------------------------------------------------------------------------------------


class Requirement(Fields):
    """What a call, or what allows it, must meet; at least one of them is written."""

    tls: TlsField | None = None
    max_window_ns: Annotated[DurationField | None, Field(alias="maxWindow")] = None


class GuardrailSpec(Fields):
    """What is forbidden, whatever is allowed; an absent `from` or `to` (None) is everyone or everything."""

    callers: Annotated[tuple[CallerSelector, ...] | None, Field(min_length=1, alias="from")] = None
    targets: Annotated[tuple[TargetSelector, ...] | None, Field(min_length=1, alias="to")] = None
    when: Conditions = ()
    window: WindowField = ALWAYS
    mode: ModeField = Mode.ENFORCE
    require: Requirement | None = None


class Guardrail(Named, GuardrailSpec):
    """A Guardrail of the set."""


# --- PolicyTest ----------------------------------------------------------------------------------------------------


class PolicyTestCase(Fields):
    """One call and what is expected of its answer; `at_ns` wins over the test's own `now_ns`."""

    name: str
    call: AskedCallField
    at_ns: Annotated[InstantField | None, Field(alias="at")] = None
    expect: ExpectationField


class PolicyTestSpec(Fields):
    """Cases that hold whenever they are run: the clock is part of them."""

    now_ns: Annotated[InstantField | None, Field(alias="now")] = None
    cases: Annotated[tuple[PolicyTestCase, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _says_when(self) -> Self:
        if self.now_ns is None and any(case.at_ns is None for case in self.cases):
            raise problem("`now` is required where a case has no `at`")
        return self


class PolicyTest(Named, PolicyTestSpec):
    """A PolicyTest of the set."""


#: The kinds, and what their `spec` is.
SPECS: Final[dict[Kind, tuple[type[Fields], type[Named]]]] = {
    Kind.MESH: (MeshSpec, Mesh),
    Kind.SERVICE: (ServiceSpec, Service),
    Kind.THIRD_PARTY: (ThirdPartySpec, ThirdParty),
    Kind.MICRO_POLICY: (MicroPolicySpec, MicroPolicy),
    Kind.GUARDRAIL: (GuardrailSpec, Guardrail),
    Kind.POLICY_TEST: (PolicyTestSpec, PolicyTest),
}
