"""The laws of what the issuer reads: one class per law, its docstring the sentence that is tested."""

from __future__ import annotations

import contextlib

from hypothesis import given, strategies as st

from authz.identity.errors import AuthorityError
from authz.identity.upstream_authority import UpstreamAuthority
from authz.issuer.errors import AttestationError
from authz.issuer.orchestrator import MAX_MESSAGE_BYTES, service_of
from tests.support.upstream_root import root_pem

ROOT = root_pem()


class TestAnyBytesAreAnUpstreamAuthorityOrAnError:
    """Any bytes are a root with its key or raise AuthorityError in one line that shows nothing of a key."""

    @given(st.binary(max_size=300))
    def test_law(self, pem: bytes) -> None:
        self._read(pem)

    @given(st.integers(0, len(ROOT) - 1), st.binary(min_size=1, max_size=4))
    def test_law_of_damage(self, at: int, octets: bytes) -> None:
        self._read(ROOT[:at] + octets + ROOT[at + len(octets) :])

    @given(st.lists(st.sampled_from(ROOT.splitlines(keepends=True)), max_size=40))
    def test_law_of_lines(self, lines: list[bytes]) -> None:
        self._read(b"".join(lines))

    def _read(self, pem: bytes) -> None:
        try:
            shown = repr(UpstreamAuthority.from_pem(pem))
        except AuthorityError as error:
            shown = str(error)
        assert shown.isprintable()
        assert "PRIVATE" not in shown


class TestAnyBytesAreAnOrchestratorsMessageOrAnError:
    """Any bytes name one Service or raise AttestationError."""

    @given(
        st.binary(max_size=MAX_MESSAGE_BYTES + 10)
        | st.lists(
            st.sampled_from([b'{"service":', b'"orders"', b"}", b",", b"[", b"null", b"1e999", b"NaN", b"\xff"])
        ).map(b"".join)
    )
    def test_law(self, message: bytes) -> None:
        with contextlib.suppress(AttestationError):
            assert isinstance(service_of(message), str)
            assert len(message) <= MAX_MESSAGE_BYTES
