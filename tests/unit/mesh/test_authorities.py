from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from authz.identity.bundle import bundle_from_pem
from authz.identity.named_authority import named_authority, nanoseconds
from authz.identity.named_certificate import named_certificate, require_vouched_for
from authz.identity.trust import Trust
from authz.identity.x509_chain import chain_from_pem, verify_x509_svid
from authz.identity.x509_svid import x509_svid_from_pem
from authz.mesh.authorities import AUTHORITY_LIFETIME, SVID_LIFETIME, MeshAuthorities
from tests.support.mesh_layouts import laid_out
from tests.support.policy_sets import MIXED, parsed

if TYPE_CHECKING:
    from authz.mesh.layout import Layout

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return laid_out(parsed(*MIXED), state=str(tmp_path))


def _certificate(path: str | Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(path).read_bytes())


def _public(pem: bytes) -> bytes:
    key = load_pem_private_key(pem, password=None).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_every_workload_gets_an_svid_of_an_hour_under_the_authority_of_its_trust_domain(layout: Layout) -> None:
    authorities = MeshAuthorities(layout, now=NOW)
    issued = [one for one in (*layout.services, *layout.third_parties) if not getattr(one, "attested", False)]
    assert {one.name for one in layout.services if one in issued}, "a Service with patterns alone"
    assert authorities.renew(NOW) == sum(one.identity is not None for one in issued)
    bundles = dict(layout.bundle_files)
    for one in (*layout.services, *layout.third_parties):
        if one.name == "certified":
            continue  # it has no SVID, and another certificate
        if one.identity is None or one not in issued:
            assert not Path(one.places.svid_directory).exists()
            continue
        folder = Path(one.places.svid_directory)
        svid = x509_svid_from_pem((folder / "svid.pem").read_bytes())
        assert svid.spiffe_id == one.identity
        leaf = _certificate(folder / "svid.pem")
        assert leaf.not_valid_after_utc == NOW + SVID_LIFETIME
        trust = Trust.of([bundle_from_pem((folder / "bundle.pem").read_bytes(), one.identity.trust_domain)])
        chain = chain_from_pem((folder / "svid.pem").read_bytes())
        assert verify_x509_svid(chain, trust, NOW).spiffe_id == one.identity
        assert (folder / "bundle.pem").read_bytes() == Path(bundles[one.identity.trust_domain.name]).read_bytes()
        others = bundles.keys() - {one.identity.trust_domain.name}
        assert others
        assert {each.name for each in folder.glob("bundle.*.pem")} == {f"bundle.{each}.pem" for each in others}
        for name in others:
            assert (folder / f"bundle.{name}.pem").read_bytes() == Path(bundles[name]).read_bytes()
        spki = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        assert _public((folder / "key.pem").read_bytes()) == spki


def test_svids_are_renewed_at_half_of_their_life_and_not_before(layout: Layout) -> None:
    authorities = MeshAuthorities(layout, now=NOW)
    authorities.renew(NOW)
    folder = Path(next(one for one in layout.services if not one.attested).places.svid_directory)
    before = [_certificate(folder / "svid.pem").serial_number, _public((folder / "key.pem").read_bytes())]
    half = NOW + SVID_LIFETIME / 2
    assert authorities.renew(half - timedelta(seconds=2)) == 0
    assert authorities.renew(half) == 4
    assert authorities.renew(half) == 0
    after = [_certificate(folder / "svid.pem").serial_number, _public((folder / "key.pem").read_bytes())]
    assert set(before).isdisjoint(after)
    assert _certificate(folder / "svid.pem").not_valid_after_utc == half + SVID_LIFETIME


def test_a_stand_in_has_a_certificate_for_its_hosts_under_an_authority_of_its_own(layout: Layout) -> None:
    MeshAuthorities(layout, now=NOW)
    (psp,) = [one for one in layout.third_parties if one.name == "psp"]
    leaf = _certificate(Path(psp.places.tls_directory, "svid.pem"))
    leaf.verify_directly_issued_by(_certificate(psp.places.authority_file))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert tuple(names.get_values_for_type(x509.DNSName)) == psp.dns_names
    assert leaf.not_valid_after_utc == NOW + AUTHORITY_LIFETIME
    authorities = [Path(file).read_bytes() for _, file in layout.bundle_files]
    authorities += [Path(one.places.authority_file).read_bytes() for one in layout.third_parties if one.dns_names]
    assert len(set(authorities)) == 3 + 3, "own trust domains have one root, every other one its own"


def test_a_stand_in_without_spiffe_id_calls_with_a_certificate_of_the_authority_that_sidecars_read(
    layout: Layout,
) -> None:
    MeshAuthorities(layout, now=NOW)
    (certified,) = [one for one in layout.third_parties if one.name == "certified"]
    files = dict(layout.caller_authorities)
    assert files.keys() == {"partner.pem"}
    leaf = named_certificate(Path(certified.places.svid_directory, "svid.pem").read_bytes())
    assert leaf.names == {("dns", "client.partner.example")}
    signer = named_authority(Path(files["partner.pem"]).read_bytes()).issuer_of(leaf.certificate)
    assert signer is not None
    assert require_vouched_for(leaf, signer, nanoseconds(NOW)) == nanoseconds(NOW + AUTHORITY_LIFETIME)


def test_no_key_of_an_authority_and_no_readable_key_is_written(layout: Layout, tmp_path: Path) -> None:
    MeshAuthorities(layout, now=NOW).renew(NOW)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()]
    keys = [path for path in files if b"PRIVATE" in path.read_bytes()]
    assert len(keys) == 4 + 3 + 1
    assert {path.name for path in keys} == {"key.pem"}
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}
