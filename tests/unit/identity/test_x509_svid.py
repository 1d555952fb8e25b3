from __future__ import annotations

import base64
import ipaddress
import warnings
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.x509_svid import MAX_CERTIFICATE_BYTES, X509Svid, X509SvidError, x509_svid_from_pem
from tests.support.certificates import DNS, NOW, NOW_NS, SPIFFE_ID, URI, der, key_usage, leaf, pem, with_serial_octet

OTHER_ID = "spiffe://shop.example/ns/shop/sa/admin"
SECOND = 1_000_000_000


def refusal(certificate: bytes | x509.Certificate) -> str:
    with pytest.raises(X509SvidError) as refused:
        x509_svid_from_pem(certificate if isinstance(certificate, bytes) else pem(certificate))
    return str(refused.value)


def pem_of(content: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(content) + b"-----END CERTIFICATE-----\n"


def test_a_leaf_says_who_until_when_and_its_serial() -> None:
    assert x509_svid_from_pem(pem(leaf())) == X509Svid(
        spiffe_id=SpiffeId.parse(SPIFFE_ID),
        serial="abc",
        not_before_ns=NOW_NS - 60 * SECOND,
        not_after_ns=NOW_NS + 3600 * SECOND,
    )


def test_what_our_authority_issues_is_an_x509_svid() -> None:
    authority = Authority.generate(TrustDomain.parse("shop.example"), NOW, timedelta(days=1))
    issued = authority.issue_x509_svid(SpiffeId.parse(SPIFFE_ID), NOW, timedelta(hours=1))
    svid = x509_svid_from_pem(issued.certificate_pem)
    assert str(svid.spiffe_id) == SPIFFE_ID
    assert svid.not_after_ns == NOW_NS + 3600 * SECOND
    assert svid.serial == f"{x509.load_pem_x509_certificate(issued.certificate_pem).serial_number:x}"


@pytest.mark.parametrize(
    "certificate",
    [
        leaf([DNS("orders.shop.example"), URI(SPIFFE_ID), x509.IPAddress(ipaddress.ip_address("10.0.0.1"))]),
        leaf([URI(SPIFFE_ID), x509.RFC822Name("a@b.c"), x509.DirectoryName(x509.Name([]))]),
        leaf([URI(SPIFFE_ID), x509.OtherName(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")]),
        leaf(extended=None),
        leaf(
            extended=[ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH, x509.ObjectIdentifier("1.2.3")]
        ),
        leaf(constraints=None),
        leaf(usage=key_usage("digital_signature", "key_encipherment", "key_agreement")),
        leaf(subject="orders", names_critical=False),
        leaf(extra=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), False)]),
    ],
    ids=["other-names", "more-names", "other-name", "no-eku", "more-eku", "no-bc", "more-usages", "subject", "extra"],
)
def test_what_the_rules_leave_open_is_no_reason_to_refuse(certificate: x509.Certificate) -> None:
    assert str(x509_svid_from_pem(pem(certificate)).spiffe_id) == SPIFFE_ID


@pytest.mark.parametrize(
    ("certificate", "why"),
    [
        (leaf([URI(SPIFFE_ID), URI(OTHER_ID)]), "exactly one URI SAN, this certificate has 2"),
        (leaf([URI(SPIFFE_ID), URI(SPIFFE_ID)]), "exactly one URI SAN, this certificate has 2"),
        (leaf([URI(SPIFFE_ID), URI("https://shop.example/")]), "exactly one URI SAN, this certificate has 2"),
        (leaf([DNS("orders.shop.example")]), "exactly one URI SAN, this certificate has 0"),
        (leaf([DNS(SPIFFE_ID)]), "exactly one URI SAN, this certificate has 0"),
        (leaf([]), "exactly one URI SAN, this certificate has 0"),
        (leaf(None), "no subject alternative name"),
        (leaf(None, subject=SPIFFE_ID), "no subject alternative name"),
        (leaf([URI("https://shop.example/orders")]), "the URI SAN is no SPIFFE ID"),
        (leaf([URI(SPIFFE_ID + "\n")]), "the URI SAN is no SPIFFE ID"),
        (leaf([URI(SPIFFE_ID + "\0.evil")]), "the URI SAN is no SPIFFE ID"),
        (leaf([URI(" " + SPIFFE_ID)]), "the URI SAN is no SPIFFE ID"),
        (leaf([URI("spiffe://Shop.example/orders")]), "the URI SAN is no SPIFFE ID"),
        (leaf([URI("spiffe://shop.example/%6frders")]), "the URI SAN is no SPIFFE ID"),
        (leaf([URI("spiffe://shop.example/a/../orders")]), "the URI SAN is no SPIFFE ID"),
        (leaf([URI("spiffe://shop.example/")]), "the URI SAN is no SPIFFE ID"),
        (leaf([URI("spiffe://td/".ljust(2049, "x"))]), "at most 2048 bytes"),
        (leaf([URI("spiffe://shop.example")]), "has no path"),
        (leaf(names_critical=False), "the subject is empty and the subject alternative name is not critical"),
        (leaf(constraints=x509.BasicConstraints(ca=True, path_length=None)), "cA is true"),
        (leaf(constraints=x509.BasicConstraints(ca=True, path_length=0)), "cA is true"),
        (leaf(usage=None), "the key usage is missing"),
        (leaf(usage_critical=False), "the key usage is not critical"),
        (leaf(usage=key_usage("digital_signature", "key_cert_sign")), "keyCertSign or cRLSign"),
        (leaf(usage=key_usage("digital_signature", "crl_sign")), "keyCertSign or cRLSign"),
        (leaf(usage=key_usage("key_encipherment")), "no digitalSignature"),
        (leaf(extended=[ExtendedKeyUsageOID.SERVER_AUTH]), "lacks serverAuth or clientAuth"),
        (leaf(extended=[ExtendedKeyUsageOID.CLIENT_AUTH]), "lacks serverAuth or clientAuth"),
        (leaf(extended=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), "lacks serverAuth or clientAuth"),
        (leaf(extra=[(x509.PrecertPoison(), True)]), "the critical extension `1.3.6.1.4.1.11129.2.4.3`"),
        (
            leaf(extra=[(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)]),
            "the critical extension `1.2.3.4` has no meaning",
        ),
    ],
)
def test_a_certificate_that_breaks_a_rule_is_refused_with_the_rule(certificate: x509.Certificate, why: str) -> None:
    assert why in refusal(certificate)


def test_the_certificate_of_an_authority_is_no_svid() -> None:
    authority = Authority.generate(TrustDomain.parse("shop.example"), NOW, timedelta(days=1))
    assert "cA is true" in refusal(authority.certificate_pem)


def test_a_server_certificate_is_no_svid() -> None:
    authority = Authority.generate(TrustDomain.parse("shop.example"), NOW, timedelta(days=1))
    issued = authority.issue_server_certificate(["api.acme.example"], NOW, timedelta(hours=1))
    assert "lacks serverAuth or clientAuth" in refusal(issued.certificate_pem)


def test_every_truncation_of_a_certificate_is_refused() -> None:
    content = der(leaf())
    for length in range(len(content)):
        refusal(pem_of(content[:length]))


def test_bytes_after_the_certificate_are_refused() -> None:
    assert refusal(pem_of(der(leaf()) + b"\0")) == "the certificate cannot be read"


def test_every_truncation_of_the_text_is_refused_up_to_its_last_line_break() -> None:
    text = pem(leaf())
    for length in range(len(text) - 1):
        refusal(text[:length])


@pytest.mark.parametrize("serial", [b"\x80", b"\xff", b"\x00"], ids=["most-negative", "negative", "zero"])
def test_a_serial_that_is_not_positive_is_refused_without_a_word_of_the_library(serial: bytes) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        why = refusal(with_serial_octet(serial))
    assert (why, said) == ("the serial number is not positive", [])


@pytest.mark.parametrize("serial", [0x7F, 0x80, 0xFF, 0x8000, 1 << 158], ids=hex)
def test_a_serial_that_is_positive_is_taken(serial: int) -> None:
    assert x509_svid_from_pem(pem(leaf(serial=serial))).serial == f"{serial:x}"


@pytest.mark.parametrize(("octets", "taken"), [(20, True), (21, False), (40, False)])
def test_a_serial_of_more_than_twenty_octets_is_refused(octets: int, taken: bool) -> None:  # noqa: FBT001 the expectation
    # No builder writes it: a serial of one octet is replaced, and both lengths before it with it.
    content, more = der(leaf(serial=0x4A)), octets - 1
    outer, inner = int.from_bytes(content[2:4], "big"), int.from_bytes(content[6:8], "big")
    assert content[8:16] == b"\xa0\x03\x02\x01\x02\x02\x01\x4a"
    patched = pem_of(
        b"".join(
            (
                *(content[:2], (outer + more).to_bytes(2, "big"), content[4:6], (inner + more).to_bytes(2, "big")),
                *(content[8:14], bytes([octets]), b"\x4a" * octets, content[16:]),
            )
        )
    )
    if taken:
        assert x509_svid_from_pem(patched).serial == "4a" * octets
    else:
        refusal(patched)


def test_a_repeated_extension_is_refused() -> None:
    # The second SAN is written under another OID first, since no builder makes two.
    stand_in, names = b"\x55\x1d\x4d", b"\x55\x1d\x11"
    second = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.77"), b"\x30\x03\x86\x01a")
    content = der(leaf(extra=[(second, False)]))
    assert content.count(stand_in) == 1
    refusal(pem_of(content.replace(stand_in, names)))


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\x80"])
def test_a_uri_that_is_not_ascii_is_refused(bad: bytes) -> None:
    content = der(leaf())
    assert content.count(b"sa/orders") == 1
    refusal(pem_of(content.replace(b"sa/orders", b"sa/order" + bad)))


def test_the_first_of_several_certificates_is_the_leaf() -> None:
    other = leaf([URI(OTHER_ID)])
    assert str(x509_svid_from_pem(pem(leaf()) + pem(other)).spiffe_id) == SPIFFE_ID
    assert str(x509_svid_from_pem(pem(other) + pem(leaf())).spiffe_id) == OTHER_ID


def test_a_ca_before_the_leaf_is_no_svid() -> None:
    assert "cA is true" in refusal(pem(leaf(constraints=x509.BasicConstraints(ca=True, path_length=0))) + pem(leaf()))


def test_line_breaks_of_both_kinds_are_read() -> None:
    text = pem(leaf())
    assert x509_svid_from_pem(text.replace(b"\n", b"\r\n")) == x509_svid_from_pem(text)
    assert x509_svid_from_pem(text.rstrip(b"\n")) == x509_svid_from_pem(text)
    assert x509_svid_from_pem(text + b"\n\n") == x509_svid_from_pem(text)


def test_nothing_but_certificates_may_stand_in_the_text() -> None:
    text = pem(leaf())
    key = Authority.generate(TrustDomain.parse("td"), NOW, timedelta(days=1)).to_pem()
    for hostile in (
        b"",
        b"\n",
        b"garbage",
        b"\0" * 1000,
        b"garbage\n" + text,
        text + b"garbage",
        b"\n" + text,
        b" " + text,
        text + b"garbage\n" + text,
        text.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"),
        text.replace(b"BEGIN CERTIFICATE", b"BEGIN X509 CERTIFICATE"),
        text.replace(b"-----\n", b"-----\nProc-Type: 4,ENCRYPTED\n\n", 1),
        text.replace(b"\n", b"\r"),
        text.replace(b"\n", b"\n\n"),
        text.replace(b"\n", b" \n"),
        text[: len(text) // 2] + text,
        text.replace(b"M", b"=", 1),
        text.replace(b"M", b"-", 1),
        b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n" + text,
        b"-----BEGIN CERTIFICATE-----\n====\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n",
        text.replace(b"\n", b"%0A"),
        key,
        text + key,
        key + text,
    ):
        refusal(hostile)


def test_a_refused_private_key_is_not_repeated() -> None:
    key = Authority.generate(TrustDomain.parse("td"), NOW, timedelta(days=1)).to_pem()
    assert refusal(key) == "a private key stands where only certificates belong"


def test_a_list_of_five_thousand_names_is_too_long_to_be_read() -> None:
    giant = pem(leaf([URI(SPIFFE_ID), *(DNS(f"host-{number}.shop.example") for number in range(5000))]))
    assert len(giant) > MAX_CERTIFICATE_BYTES
    assert refusal(giant) == f"a certificate has at most {MAX_CERTIFICATE_BYTES} bytes, not {len(giant)}"


def test_the_longest_list_of_names_that_fits_is_read() -> None:
    names = [DNS(f"h{number}.shop.example") for number in range(2000)]
    assert str(x509_svid_from_pem(pem(leaf([*names, URI(SPIFFE_ID)]))).spiffe_id) == SPIFFE_ID
    assert "this certificate has 2" in refusal(leaf([URI(OTHER_ID), *names, URI(SPIFFE_ID)]))
    assert "this certificate has 900" in refusal(leaf([URI(f"spiffe://td/{number}") for number in range(900)]))


def test_times_are_read_to_the_end_of_the_calendar() -> None:
    last = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    svid = x509_svid_from_pem(pem(leaf(not_before=datetime(1960, 1, 1, tzinfo=UTC), not_after=last)))
    assert svid.not_after_ns == 253_402_300_799 * SECOND
    assert svid.not_before_ns == -315_619_200 * SECOND
