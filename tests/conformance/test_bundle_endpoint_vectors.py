"""SPIFFE Federation, requirement by requirement, as far as it is decided without a server."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from authz.federation.endpoint_url import endpoint_url, redirected_url
from authz.federation.errors import FederationError
from authz.federation.freshness import SupersededBundleError, require_successor
from authz.federation.poll_times import PollTimes
from authz.identity.spiffe_id import TrustDomain
from tests.support.partner import bundle_of, new_authority
from tests.support.policy_texts import faults

if TYPE_CHECKING:
    from authz.identity.authority import Authority
    from authz.identity.bundle import Bundle

VECTORS = yaml.safe_load(Path(__file__).with_name("identity").joinpath("bundle_endpoint.yaml").read_text())


def cases(kind: str) -> list[Any]:
    found = [(number, case) for number, case in enumerate(VECTORS["cases"], start=1) if kind in case]
    return [pytest.param(case, id=f"{case['for']} {number}") for number, case in found]


@cache
def _authority(name: str) -> Authority:
    assert name
    return new_authority()


def described(vector: dict[str, Any]) -> Bundle:
    authorities = [_authority(name) for name in vector["keys"]]
    trust_domain = TrustDomain.parse(vector.get("of", "acme.example"))
    return bundle_of(*authorities, sequence=vector.get("sequence"), trust_domain=trust_domain)


@pytest.mark.parametrize("case", cases("url"))
def test_the_url_of_an_endpoint(case: dict[str, Any]) -> None:
    if case["expect"] == "accepted":
        assert str(endpoint_url(case["url"])).lower().startswith("https://")
    else:
        with pytest.raises(FederationError):
            endpoint_url(case["url"])


@pytest.mark.parametrize("case", cases("url"))
def test_a_url_that_a_policy_set_may_have_is_one_of_an_endpoint(case: dict[str, Any]) -> None:
    federates = [{"trustDomain": "acme.example", "endpoint": {"url": case["url"], "profile": "https_web"}}]
    spec = {"trustDomains": ["shop.example"], "federates": federates}
    mesh = {"apiVersion": "authz/v1", "kind": "Mesh", "metadata": {"name": "m"}, "spec": spec}
    # The policy language may be narrower, never wider.
    if not faults(yaml.safe_dump(mesh), mesh=False):
        assert case["expect"] == "accepted"


@pytest.mark.parametrize("case", cases("redirect"))
def test_where_a_redirect_leads(case: dict[str, Any]) -> None:
    if case["expect"] == "accepted":
        assert str(redirected_url(endpoint_url(case["from"]), case["redirect"])) == case["to"]
    else:
        with pytest.raises(FederationError):
            redirected_url(endpoint_url(case["from"]), case["redirect"])


@pytest.mark.parametrize("case", cases("known"))
def test_what_supersedes_what(case: dict[str, Any]) -> None:
    known, fetched = described(case["known"]), described(case["fetched"])
    if case["expect"] == "accepted":
        require_successor(known, fetched)
    else:
        with pytest.raises(SupersededBundleError):
            require_successor(known, fetched)


@pytest.mark.parametrize("case", cases("pause_s"))
def test_when_an_endpoint_is_asked_again(case: dict[str, Any]) -> None:
    hint = timedelta(seconds=case["hint_s"]) if "hint_s" in case else None
    failures, has_bundle = case.get("failures", 0), case.get("has_bundle", True)
    longest, shortest = (
        PollTimes().pause(hint=hint, failures=failures, has_bundle=has_bundle, chance=chance) for chance in (0.0, 1.0)
    )
    assert longest == timedelta(seconds=case["pause_s"])
    assert shortest == longest * 0.9
