from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

from authz.identity.errors import IdentityError
from authz.identity.spiffe_id import (
    MAX_SPIFFE_ID_BYTES,
    MAX_TRUST_DOMAIN_BYTES,
    SpiffeId,
    SpiffeIdError,
    TrustDomain,
)

ORDERS = "spiffe://shop.example/ns/shop/sa/orders"


@pytest.mark.parametrize(
    "text",
    [
        ORDERS,
        "spiffe://shop.example",
        "spiffe://a/b",
        "spiffe://1.2.3.4/service",
        "spiffe://a_b-c.d/UPPER/lower/0.9_-",
        "spiffe://td/...",
        "spiffe://td/.hidden/..x/x..",
        "spiffe://td/%".replace("%", "_"),
    ],
)
def test_an_id_prints_as_it_was_written(text: str) -> None:
    assert str(SpiffeId.parse(text)) == text


def test_an_id_has_a_trust_domain_and_a_path() -> None:
    orders = SpiffeId.parse(ORDERS)
    assert orders.trust_domain == TrustDomain.parse("shop.example")
    assert orders.path == "/ns/shop/sa/orders"
    assert SpiffeId.parse("spiffe://shop.example").path == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not begin with `spiffe://`"),
        ("shop.example/orders", "does not begin with `spiffe://`"),
        ("https://shop.example/orders", "does not begin with `spiffe://`"),
        ("SPIFFE://shop.example/orders", "does not begin with `spiffe://`"),
        ("Spiffe://shop.example/orders", "does not begin with `spiffe://`"),
        ("spiffe:/shop.example/orders", "does not begin with `spiffe://`"),
        ("spiffe:shop.example", "does not begin with `spiffe://`"),
        (" spiffe://shop.example/orders", "does not begin with `spiffe://`"),
        ("\ufeffspiffe://shop.example/orders", "does not begin with `spiffe://`"),
        ("spiffe://", "empty trust domain"),
        ("spiffe:///orders", "empty trust domain"),
        ("spiffe://Shop.example/orders", "a trust domain has only"),
        ("spiffe://SHOP.EXAMPLE/orders", "a trust domain has only"),
        ("spiffe://shop.example:443/orders", "a trust domain has only"),
        ("spiffe://user@shop.example/orders", "a trust domain has only"),
        ("spiffe://user:secret@shop.example/orders", "a trust domain has only"),
        ("spiffe://shop%2eexample/orders", "a trust domain has only"),
        ("spiffe://shop.example?x=1", "a trust domain has only"),
        ("spiffe://shop.example#x", "a trust domain has only"),
        ("spiffe://[::1]/orders", "a trust domain has only"),
        ("spiffe://shop.example\\orders", "a trust domain has only"),
        ("spiffe://shop.example\n", "a trust domain has only"),
        ("spiffe://shop.example\n/orders", "a trust domain has only"),
        ("spiffe://shop.exаmple/orders", "a trust domain has only"),  # noqa: RUF001 a Cyrillic a
        ("spiffe://shop.example/", "ends in a slash"),
        ("spiffe://shop.example/orders/", "ends in a slash"),
        ("spiffe://shop.example//orders", "empty path segment"),
        ("spiffe://shop.example/a//b", "empty path segment"),
        ("spiffe://shop.example/.", "path segment `.`"),
        ("spiffe://shop.example/..", "path segment `..`"),
        ("spiffe://shop.example/./orders", "path segment `.`"),
        ("spiffe://shop.example/a/../orders", "path segment `..`"),
        ("spiffe://shop.example/%2e%2e/orders", "a path segment has only"),
        ("spiffe://shop.example/%6frders", "a path segment has only"),
        ("spiffe://shop.example/orders%0a", "a path segment has only"),
        ("spiffe://shop.example/orders?x=1", "a path segment has only"),
        ("spiffe://shop.example/orders#x", "a path segment has only"),
        ("spiffe://shop.example/orders;x", "a path segment has only"),
        ("spiffe://shop.example/a b", "a path segment has only"),
        ("spiffe://shop.example/*", "a path segment has only"),
        ("spiffe://shop.example/orders\n", "a path segment has only"),
        ("spiffe://shop.example/orders\r", "a path segment has only"),
        ("spiffe://shop.example/orders\0", "a path segment has only"),
        ("spiffe://shop.example/orders\u2028", "a path segment has only"),
        ("spiffe://shop.example/órders", "a path segment has only"),
        ("spiffe://shop.example/\u0661", "a path segment has only"),  # an Arabic digit, which \d would match
    ],
)
def test_what_is_not_written_as_the_specification_says_is_no_id(text: str, why: str) -> None:
    with pytest.raises(SpiffeIdError) as refused:
        SpiffeId.parse(text)
    assert why in str(refused.value)


def test_an_id_of_2048_bytes_is_the_longest() -> None:
    longest = "spiffe://td/".ljust(MAX_SPIFFE_ID_BYTES, "x")
    assert str(SpiffeId.parse(longest)) == longest
    with pytest.raises(SpiffeIdError, match="at most 2048 bytes, not 2049"):
        SpiffeId.parse(longest + "x")
    with pytest.raises(SpiffeIdError, match="at most 2048 bytes"):
        SpiffeId(trust_domain=TrustDomain.parse("td"), path="/".ljust(MAX_SPIFFE_ID_BYTES, "x"))


def test_a_text_far_too_long_is_refused_without_being_repeated() -> None:
    with pytest.raises(SpiffeIdError) as refused:
        SpiffeId.parse("spiffe://td/" + "x" * 10_000_000)
    assert len(str(refused.value)) < 100


def test_a_trust_domain_of_255_bytes_is_the_longest() -> None:
    longest = "a" * MAX_TRUST_DOMAIN_BYTES
    assert TrustDomain.parse(longest).name == longest
    assert SpiffeId.parse(f"spiffe://{longest}/x").trust_domain.name == longest
    for parse, text in ((TrustDomain.parse, longest + "a"), (SpiffeId.parse, f"spiffe://{longest}a/x")):
        with pytest.raises(SpiffeIdError, match="at most 255 bytes, not 256"):
            parse(text)


@pytest.mark.parametrize(
    "text", ["", "Shop.example", "shop.example/", "spiffe://shop.example", "shop.example\n", "a b", "a:1", "é"]
)
def test_a_trust_domain_is_a_bare_lower_case_name(text: str) -> None:
    with pytest.raises(SpiffeIdError):
        TrustDomain.parse(text)


def test_no_constructor_makes_what_the_parser_refuses() -> None:
    domain = TrustDomain.parse("td")
    with pytest.raises(SpiffeIdError):
        TrustDomain(name="TD")
    for path in ("x", "/", "/a/", "/../a", "/a%20", "/a\n"):
        with pytest.raises(SpiffeIdError):
            SpiffeId(trust_domain=domain, path=path)
        with pytest.raises(SpiffeIdError):
            replace(SpiffeId.parse("spiffe://td/a"), path=path)


def test_an_id_never_equals_a_text() -> None:
    orders: object = SpiffeId.parse(ORDERS)
    domain: object = TrustDomain.parse("shop.example")
    assert orders != ORDERS
    assert domain != "shop.example"
    assert len({orders, domain, ORDERS, "shop.example"}) == 4


def test_ids_are_equal_by_their_bytes() -> None:
    assert SpiffeId.parse(ORDERS) == SpiffeId.parse(ORDERS)
    assert hash(SpiffeId.parse(ORDERS)) == hash(SpiffeId.parse(ORDERS))
    assert SpiffeId.parse("spiffe://td/a") != SpiffeId.parse("spiffe://td/A")
    assert SpiffeId.parse("spiffe://td/a") != SpiffeId.parse("spiffe://td")


def test_an_id_cannot_be_changed() -> None:
    orders = SpiffeId.parse(ORDERS)
    with pytest.raises(FrozenInstanceError):
        orders.path = "/admin"  # type: ignore[misc]
    assert copy.deepcopy(orders) == pickle.loads(pickle.dumps(orders)) == orders  # noqa: S301 our own bytes


def test_a_message_about_a_hostile_text_stays_one_printable_line() -> None:
    for text in ("x\nlevel=info allowed", "x\x1b[2J", "x`y`", "\ud800", "\u202eevil"):
        with pytest.raises(IdentityError) as refused:
            SpiffeId.parse(text)
        message = str(refused.value)
        assert message.isprintable()
        assert message.isascii()
        assert message.count("`") == 4  # two around the text, two around the scheme
