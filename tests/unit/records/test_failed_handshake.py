from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from authz.decision import Reason
from authz.identity.spiffe_id import SpiffeId
from authz.records.failed_handshake import MAX_FAILURE_CHARS, FailedHandshake, handshake_line, plain_failure
from tests.unit.records.test_decision_record import KEYS

CLAIMED = SpiffeId.parse("spiffe://evil.example/orders")
VERIFY = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: "
CHAIN = VERIFY + "X509_verify_cert: certificate verification error at depth 0: "
END = ":TLS_error_end"


def handshake(*, address: str = "192.0.2.7:40123", failure: str = "no tls") -> FailedHandshake:
    return FailedHandshake(
        time_ns=1_780_000_000_123_999_999,
        address=address,
        failure=failure,
        reason=Reason.UNIDENTIFIED,
        claimed=CLAIMED,
        tls_version="TLSv1_3",
        tls_cipher="TLS_AES_256_GCM_SHA384",
    )


def line(of: FailedHandshake, count: int = 1) -> bytes:
    return handshake_line(of, decision_id="d1", sidecar="catalog", revision="r", count=count)


def test_it_has_the_keys_of_a_decision_record_and_one_more() -> None:
    written = json.loads(line(handshake()))
    assert set(written) == KEYS | {"handshake"}
    assert set(written["caller"]) == {"identity", "service", "third_party", "presented_by", "address"}
    assert set(written["destination"]) == {"service", "third_party", "host"}
    assert set(written["tls"]) == {"version", "cipher", "peer_serial"}
    assert (written["direction"], written["decision"], written["reason"]) == ("inbound", "deny", "unidentified")
    assert (written["method"], written["path"], written["protocol"]) == ("", None, None)
    assert written["destination"]["service"] == "catalog"
    assert written["time"] == "2026-05-28T20:26:40.123Z"


def test_what_a_certificate_claims_is_no_identity() -> None:
    written = json.loads(line(handshake()))
    assert written["caller"]["identity"] is None
    assert written["handshake"] == {"failure": "no tls", "claimed": "spiffe://evil.example/orders", "count": 1}


@pytest.mark.parametrize(
    ("said", "failure", "reason"),
    [
        (
            "TLS_error:|268435648:SSL routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE:"
            "peer did not provide required client certificate" + END,
            "no client certificate",
            Reason.UNIDENTIFIED,
        ),
        (
            CHAIN + "unable to get local issuer certificate" + END,
            "certificate not proven: unable to get local issuer certificate",
            Reason.UNTRUSTED,
        ),
        (
            CHAIN + "certificate has expired" + END,
            "certificate not proven: certificate has expired",
            Reason.UNIDENTIFIED,
        ),
        (
            CHAIN.replace("depth 0", "depth 1") + "self signed certificate in certificate chain" + END,
            "certificate not proven: self signed certificate in certificate chain",
            Reason.UNTRUSTED,
        ),
        (VERIFY + "cert precheck" + END, "certificate not proven: cert precheck", Reason.UNIDENTIFIED),
        (
            VERIFY + "no trust bundle store" + END,
            "certificate not proven: its trust domain has no bundle",
            Reason.UNTRUSTED,
        ),
        (
            "TLS_error:|268435696:SSL routines:OPENSSL_internal:UNSUPPORTED_PROTOCOL" + END,
            "no tls version in common",
            Reason.UNIDENTIFIED,
        ),
        (
            "TLS_error:|268435612:SSL routines:OPENSSL_internal:HTTP_REQUEST" + END,
            "http without tls",
            Reason.UNIDENTIFIED,
        ),
        (
            "TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER" + END,
            "no tls",
            Reason.UNIDENTIFIED,
        ),
        ("transport socket timeout was reached", "the handshake took too long", Reason.UNIDENTIFIED),
        (
            "TLS_error:|268435568:SSL routines:OPENSSL_internal:BAD_PACKET_LENGTH|268435595:SSL routines:"
            "OPENSSL_internal:DECRYPTION_FAILED_OR_BAD_RECORD_MAC" + END,
            "BAD_PACKET_LENGTH|DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
            Reason.UNIDENTIFIED,
        ),
        ("", "the handshake failed", Reason.UNIDENTIFIED),
    ],
)
def test_envoys_words_become_plain_ones_and_a_reason(said: str, failure: str, reason: Reason) -> None:
    assert plain_failure(said, CLAIMED) == (failure, reason)


def test_a_certificate_that_names_no_trust_domain_is_unidentified() -> None:
    said = VERIFY + "no trust bundle store" + END
    assert plain_failure(said, None)[1] is Reason.UNIDENTIFIED


class TestWhateverAPeerMakesEnvoySay:
    @given(said=st.text(max_size=600) | st.text(max_size=600).map(lambda text: CHAIN + text), claims=st.booleans())
    def test_is_cut_and_denied(self, said: str, claims: bool) -> None:  # noqa: FBT001
        failure, reason = plain_failure(said, CLAIMED if claims else None)
        assert 0 < len(failure) <= MAX_FAILURE_CHARS
        assert reason in {Reason.UNIDENTIFIED, Reason.UNTRUSTED}

    @given(text=st.text() | st.text(alphabet='\x00\n\r"\\\x1b\u2028é', max_size=900), address=st.text())
    def test_stays_within_one_line_of_printable_ascii(self, text: str, address: str) -> None:
        written = line(handshake(failure=text, address=address))
        assert written.endswith(b"\n")
        assert all(0x20 <= byte < 0x7F for byte in written[:-1])
        assert len(written) < 6 * 1024
        assert json.loads(written)["handshake"]["failure"] in {text, text[: MAX_FAILURE_CHARS - 1] + "…"}


def test_the_host_of_an_address_has_no_port() -> None:
    assert handshake(address="192.0.2.7:1").host == "192.0.2.7"
    assert handshake(address="[2001:db8::1]:1").host == "[2001:db8::1]"
    assert handshake(address="").host == ""
