"""Which ThirdParty a certificate without SPIFFE ID proves, and that what is remembered of it opens nothing."""

from __future__ import annotations

import logging
import mmap
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes

from authz.identity.named_authority import named_authority, nanoseconds
from authz.policy.index import compile_index
from authz.sidecar.authority_page import AuthorityPage
from authz.sidecar.check.certificate_callers import CertificateCallers
from authz.sidecar.control.authority_files import AuthorityFiles
from tests.support.named_callers import CallersAuthority, dns, uri
from tests.support.policy_sets import OPEN
from tests.support.policy_texts import document, parsed, service

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pytest

    from authz.policy.index import PolicyIndex
    from tests.support.named_callers import Caller

ONE, TWO = CallersAuthority("one"), CallersAuthority("two")


def index_of(**parties: str) -> PolicyIndex:
    return compile_index(
        parsed(
            service("a"),
            *(
                document("ThirdParty", name, f"{{certificates: [{entries}], window: {OPEN}}}")
                for name, entries in parties.items()
            ),
        )
    )


BOTH = index_of(
    acme="{authority: ./one.pem, dns: [acme.example]}, {authority: two.pem, dns: [acme.example]}",
    globex='{authority: one.pem, uri: ["urn:globex"]}, {authority: two.pem, dns: [globex.example]}',
)
FILES = {"one.pem": named_authority(ONE.pem), "two.pem": named_authority(TWO.pem)}


def encoded(caller: Caller) -> bytes:
    return quote_from_bytes(caller.pem).encode()


def now_ns(caller: Caller) -> int:
    return nanoseconds(caller.certificate.not_valid_before_utc)


def proven(caller: Caller, index: PolicyIndex = BOTH) -> str | None:
    found = CertificateCallers().caller(encoded(caller), index, FILES, now_ns(caller))
    return None if found is None else found.third_party


def test_a_name_counts_with_the_authority_that_it_stands_beside_and_with_no_other() -> None:
    assert proven(ONE.issue(dns("acme.example"))) == "acme"
    assert proven(TWO.issue(dns("acme.example"))) == "acme"
    assert proven(ONE.issue(uri("urn:globex"))) == "globex"
    assert proven(TWO.issue(dns("globex.example"))) == "globex"
    assert proven(TWO.issue(uri("urn:globex"))) is None
    assert proven(ONE.issue(dns("globex.example"))) is None
    assert proven(ONE.issue(dns("urn:globex"))) is None
    assert proven(CallersAuthority("one").issue(dns("acme.example"))) is None


def test_a_certificate_of_two_third_parties_is_neithers() -> None:
    assert proven(TWO.issue(dns("acme.example", "globex.example"))) is None
    assert proven(ONE.issue([*dns("acme.example", "else.example")])) == "acme"


def test_what_is_remembered_ends_with_the_certificate_the_set_and_the_authorities() -> None:
    callers, caller = CertificateCallers(), ONE.issue(dns("acme.example"), serial=0x1F)
    begin_ns = now_ns(caller)
    end_ns = nanoseconds(caller.certificate.not_valid_after_utc)

    def found(at_ns: int, index: PolicyIndex = BOTH, files: Mapping[str, object] = FILES) -> str | None:
        answer = callers.caller(encoded(caller), index, files, at_ns)  # type: ignore[arg-type]
        assert answer is None or (answer.serial, answer.proof_ends_ns) == ("1f", end_ns)
        return None if answer is None else answer.third_party

    assert [found(begin_ns), found(end_ns), found(end_ns + 1), found(begin_ns - 1)] == ["acme", "acme", None, None]
    assert found(begin_ns, index_of(globex="{authority: one.pem, dns: [acme.example]}")) == "globex"
    assert found(begin_ns, files={"two.pem": FILES["two.pem"]}) is None
    assert found(begin_ns, files={"one.pem": named_authority(ONE.pem + ONE.revoke(caller))}) is None
    assert found(begin_ns) == "acme"


def test_workers_see_what_was_written_and_what_finds_no_room_is_left_out() -> None:
    memory = mmap.mmap(-1, 4096)
    written, read = AuthorityPage(memory), AuthorityPage(memory)
    assert read() == {}
    large = ONE.pem * 7
    assert written.write({"one.pem": ONE.pem, "large.pem": large, "two.pem": TWO.pem}) == ("large.pem",)
    seen = read()
    assert {name: each.certificates_pem for name, each in seen.items()} == {"one.pem": ONE.pem, "two.pem": TWO.pem}
    written.write({"two.pem": TWO.pem, "one.pem": ONE.pem})
    assert read() is seen
    written.write({})
    assert read() == {}


class TestFiles:
    def test_a_file_is_followed_and_one_that_breaks_leaves_what_it_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        told: list[Mapping[str, bytes]] = []
        files = AuthorityFiles(str(tmp_path), instead={}, changed=told.append)
        (tmp_path / "one.pem").write_bytes(ONE.pem)
        files.configure(["one.pem", "two.pem"])
        assert told == [{"one.pem": ONE.pem}]
        (tmp_path / "two.pem").write_bytes(TWO.pem)
        files.look()
        (tmp_path / "one.pem").write_bytes(b"no authority")
        files.look()
        files.look()
        assert told[1:] == [{"one.pem": ONE.pem, "two.pem": TWO.pem}]
        assert caplog.text.count("not a PEM certificate; what it said before stays") == 1
        (tmp_path / "one.pem").unlink()
        files.look()
        files.configure(["two.pem"])
        assert told[2:] == [{"two.pem": TWO.pem}]
        files.configure([])
        assert told[3:] == [{}]
        assert files.authorities == {}

    def test_one_may_be_read_elsewhere(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        (tmp_path / "there.pem").write_bytes(TWO.pem)
        (tmp_path / "one.pem").write_bytes(ONE.pem)
        files = AuthorityFiles(str(tmp_path), instead={"one.pem": str(tmp_path / "there.pem")})
        files.configure(["one.pem"])
        assert files.authorities["one.pem"].certificates_pem == TWO.pem
