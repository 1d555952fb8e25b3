"""What the policies say of an identity: whether it is a Service's, whose bundles that needs, what is revoked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from authz.doctor.identity_source import bundle_observation
from authz.doctor.observation import missing, ok, warning
from authz.errors import AuthzError
from authz.federation.bundle_file import read_bundle_file
from authz.policy.errors import PolicyError, PolicySetFaults, nearest, quoted
from authz.policy.revocation import RevokedSerial, canonical_serial
from authz.policy_folder import load_policy_folder
from authz.sidecar.own_policy import OwnPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz.doctor.identity_source import Fetched
    from authz.doctor.observation import Observation
    from authz.federation.relationship import Relationship
    from authz.identity.x509_svid import X509Svid
    from authz.policy.policy_set import PolicySet

_REGISTER = "register it at the source, or list it in the Service's `identities`"


def policies_observations(folder: str, service: str | None, fetched: Fetched | None) -> Iterator[Observation]:
    """Look at a policy folder and, where a source was asked, hold what came against it."""
    try:
        policy_set = load_policy_folder(folder)
    except PolicySetFaults as faults:
        first, *more = str(faults).splitlines()
        yield missing("policies", f"{first}" + (f"; and {len(more)} more" if more else ""), f"authz lint {folder}")
        return
    except (PolicyError, AuthzError) as error:
        yield missing("policies", str(error), f"authz lint {folder}")
        return
    yield ok("policies", f"{folder}: revision {policy_set.revision[:12]}, {len(policy_set.services)} Services")
    own = OwnPolicy.of(policy_set, service or "", folder)
    if service is not None:
        yield from _service(policy_set, service, own, fetched)
    now = datetime.now(UTC)
    if fetched is not None:
        yield from _own_bundles(own, fetched)
    for relationship in own.federates:
        yield _federated(relationship, fetched, now)


def _service(policy_set: PolicySet, service: str, own: OwnPolicy, fetched: Fetched | None) -> Iterator[Observation]:
    about = f"service {service}"
    names = [one.name for one in policy_set.services]
    if service not in names:
        yield missing(about, "there is no such Service in the set" + nearest(service, names), "name one that is")
        return
    listed = ", ".join(quoted(str(one)) for one in own.identities)
    if not own.identities:
        yield missing(about, "has no `identities`: no SVID is ever its own", "list them in the Service")
        return
    if fetched is None:
        yield ok(about, f"is {listed}")
        return
    svids = [held.svid for held in fetched.x509.svids]
    held = next((one for one in svids if own.owns(one.spiffe_id)), None)
    if held is None:
        came = ", ".join(quoted(str(one.spiffe_id)) for one in svids)
        yield missing(about, f"is {listed}, and the source has only {came}", _REGISTER)
        return
    yield ok(about, f"is {held.spiffe_id}, which the source has")
    yield _revocation(policy_set, held)


def _revocation(policy_set: PolicySet, svid: X509Svid) -> Observation:
    about, revoked = "revocation", policy_set.mesh.revoked
    if svid.spiffe_id in revoked:
        remedy = "give the Service another ID, or take this one out of `revoked`"
        return missing(about, f"{svid.spiffe_id} is in the Mesh's `revoked`: every call with it is denied", remedy)
    serial = RevokedSerial(trust_domain=svid.spiffe_id.trust_domain, serial=canonical_serial(svid.serial))
    if serial in revoked:
        says = f"the SVID's serial {svid.serial} is in the Mesh's `revoked`: every call with it is denied"
        return missing(about, says, "have the source issue another SVID, with a new key")
    return ok(about, f"neither the ID nor the serial is among the {len(revoked)} that are revoked")


def _own_bundles(own: OwnPolicy, fetched: Fetched) -> Iterator[Observation]:
    """Say which trust domains of the Mesh the source has no bundle of."""
    trust = fetched.x509.trust
    for trust_domain in own.trust_domains:
        if trust.bundle(trust_domain) is None:
            says = f"`{trust_domain}` is the Mesh's own, and the source has no bundle of it: nobody of it is believed"
            remedy = "let the source federate with it, or take it out of the Mesh's `trustDomains`"
            yield missing(f"trust domain {trust_domain}", says, remedy)
    for trust_domain in sorted(fetched.x509.own - {*own.trust_domains}):
        says = f"the source issues for `{trust_domain}`, which is none of the Mesh's `trustDomains`"
        yield missing(f"trust domain {trust_domain}", says, "add it there, or ask another source")


def _federated(relationship: Relationship, fetched: Fetched | None, now: datetime) -> Observation:
    """Say where the bundle of a federated trust domain is from: the source, else the policies' file or endpoint."""
    trust_domain, endpoint = relationship.trust_domain, relationship.endpoint
    about = f"federates {trust_domain}"
    x509 = None if fetched is None else fetched.x509.trust.bundle(trust_domain)
    jwt = None if fetched is None else fetched.jwt.bundle(trust_domain)
    if x509 is not None or jwt is not None:
        return bundle_observation(about, x509, jwt, now, kind="delivered by the source")
    if relationship.bundle_file is None:
        url = "nowhere" if endpoint is None else endpoint.url
        says = f"the source has no bundle of it; the sidecar fetches one from {url}, which was not tried here"
        return warning(about, says, "`authz doctor --state DIR` of the running sidecar says how that goes")
    try:
        bundle = read_bundle_file(relationship.bundle_file, trust_domain).bundle
    except AuthzError as error:
        if endpoint is not None and endpoint.server is None:
            return warning(about, f"{error}; it is fetched from {endpoint.url}", "repair the file, or leave it out")
        return missing(about, f"{error}: nobody of it is believed", "`authz bundle set` puts a bundle there")
    return bundle_observation(about, bundle, bundle, now, kind=f"from {relationship.bundle_file}")
