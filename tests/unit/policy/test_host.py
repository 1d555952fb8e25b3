from __future__ import annotations

import pytest

from authz.policy.host import HostError, ThirdPartyHost, parse_service_host, requested_host


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("api.acme.example", "api.acme.example"),
        ("API.Acme.Example.", "api.acme.example"),
        ("*.acme.example:8443", "*.acme.example:8443"),
        ("*.example", "*.example"),
        ("my_host.a-b.example:1", "my_host.a-b.example:1"),
    ],
)
def test_hosts_of_third_parties_are_read(text: str, shown: str) -> None:
    assert str(ThirdPartyHost.parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("localhost", "has a dot"),
        ("", "no host name"),
        ("*", "exactly one whole label"),
        ("*.*.example", "exactly one whole label"),
        ("a.*.example", "exactly one whole label"),
        ("a*.example", "exactly one whole label"),
        ("127.0.0.1", "not an IP address"),
        ("127.1", "not an IP address"),
        ("0x7f.1", "not an IP address"),
        ("1.2.3.0x4", "not an IP address"),
        ("[::1]:443", "not an IP address"),
        ("::1", "not an IP address"),
        ("api.acme.example:0", "is no port"),
        ("api.acme.example:", "is no port"),
        ("api.acme.example:65536", "is no port"),
        ("api.acme.example:0443", "is no port"),
        ("api..example", "no host name"),
        ("api.example..", "no host name"),
        ("-a.example", "no host name"),
        ("https://api.example/v1", "is no host name; write `api.example`"),
        ("api.example/x", "no host name"),
        ("user@api.example", "no host name"),
        ("a.example\n", "no host name"),
        ("ä.example", "xn--"),
        ("\u212aube.example", "xn--"),
        (".".join(["a" * 60] * 5), "no host name"),
    ],
)
def test_what_is_no_host_of_a_third_party_says_why(text: str, why: str) -> None:
    with pytest.raises(HostError) as raised:
        ThirdPartyHost.parse(text)
    assert why in str(raised.value)


@pytest.mark.parametrize(
    ("text", "why"), [("a:80", "leave the port out"), ("*.a", "exact"), ("a b", "no host name"), ("", "no host")]
)
def test_what_is_no_host_of_a_service_says_why(text: str, why: str) -> None:
    with pytest.raises(HostError) as raised:
        parse_service_host(text)
    assert why in str(raised.value)


def test_hosts_of_services_are_names() -> None:
    assert parse_service_host("Catalog.Shop.svc.cluster.local.") == "catalog.shop.svc.cluster.local"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("A.example.:443", ("a.example", 443)),
        ("a", ("a", None)),
        ("a:", None),
        ("a:b", None),
        ("a:0", None),
        ("a:00080", None),
        ("a:65536", None),
        ("[::1]:80", None),
        ("::1", None),
    ],
)
def test_a_requested_host_is_a_name_and_a_port(header: str, found: tuple[str, int | None] | None) -> None:
    assert requested_host(header) == found
