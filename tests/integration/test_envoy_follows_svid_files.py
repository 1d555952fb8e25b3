"""A real Envoy takes the SVIDs that we issue, from the directory that we write, and follows it."""

from __future__ import annotations

import json
import socket
import ssl
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.svid_files import write_svid
from tests.support.envoy_process import PATIENCE_S, EnvoyProcess

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.envoy

SHOP = TrustDomain.parse("shop.example")
TYPES = "type.googleapis.com/envoy.extensions"
TLS = f"{TYPES}.transport_sockets.tls.v3"


def test_an_envoy_presents_each_renewed_svid_and_trusts_each_new_authority(tmp_path: Path) -> None:
    directory, server, admin = tmp_path / "svid", tmp_path / "server", tmp_path / "admin"
    authority = Authority.generate(SHOP, datetime.now(UTC), timedelta(days=1))
    serial = _issue(directory, authority)
    configuration = _configuration(tmp_path, directory, server, admin)
    with EnvoyProcess(configuration, str(admin)):
        assert _presented(server, _client(tmp_path, authority)) == serial
        for authority_of_next in (authority, authority, Authority.generate(SHOP, datetime.now(UTC), timedelta(days=1))):
            serial = _issue(directory, authority_of_next)
            client = _client(tmp_path, authority_of_next)
            end_s = time.monotonic() + PATIENCE_S
            while _presented(server, client) != serial:  # Envoy says to nobody that it has read a file
                assert time.monotonic() < end_s
                time.sleep(0.01)


def _issue(directory: Path, authority: Authority) -> int:
    workload = SpiffeId.parse("spiffe://shop.example/ns/shop/sa/orders")
    svid = authority.issue_x509_svid(workload, datetime.now(UTC), timedelta(hours=1))
    write_svid(directory, svid, authority.certificate_pem)
    return x509.load_pem_x509_certificate(svid.certificate_pem).serial_number


def _client(tmp_path: Path, authority: Authority) -> ssl.SSLContext:
    directory = tmp_path / "client"
    _issue(directory, authority)
    context = ssl.create_default_context(cadata=authority.certificate_pem.decode("ascii"))
    context.check_hostname = False
    context.load_cert_chain(directory / "svid.pem", directory / "key.pem")
    return context


def _presented(server: Path, client: ssl.SSLContext) -> int | None:
    """Give the serial number of what the server presents, None where one side does not trust the other."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(server))
        try:
            with client.wrap_socket(connection) as tls:
                tls.sendall(b"x")
                certificate = tls.getpeercert() if tls.recv(1) else None
        except (ssl.SSLError, ConnectionError):
            return None
    return None if certificate is None else int(str(certificate["serialNumber"]), 16)


def _configuration(tmp_path: Path, directory: Path, server: Path, admin: Path) -> Path:
    watched = {"watched_directory": {"path": str(directory)}}
    bundle = {"filename": str(directory / "bundle.pem")}
    svid = {
        "certificate_chain": {"filename": str(directory / "svid.pem")},
        "private_key": {"filename": str(directory / "key.pem")},
        **watched,
    }
    validator = {
        "@type": f"{TLS}.SPIFFECertValidatorConfig",
        "trust_domains": [{"name": str(SHOP), "trust_bundle": bundle}],
    }
    trusted = {
        "trusted_ca": bundle,
        "custom_validator_config": {"name": "envoy.tls.cert_validator.spiffe", "typed_config": validator},
        **watched,
    }
    tls = {
        "tls_certificate_sds_secret_configs": [_secret(tmp_path, "svid", {"tls_certificate": svid})],
        "validation_context_sds_secret_config": _secret(tmp_path, "trusted", {"validation_context": trusted}),
    }
    chain = {
        "transport_socket": {
            "name": "tls",
            "typed_config": {
                "@type": f"{TLS}.DownstreamTlsContext",
                "require_client_certificate": True,
                "common_tls_context": tls,
            },
        },
        "filters": [{"name": "echo", "typed_config": {"@type": f"{TYPES}.filters.network.echo.v3.Echo"}}],
    }
    listener = {"name": "server", "address": {"pipe": {"path": str(server)}}, "filter_chains": [chain]}
    bootstrap = {
        "node": {"id": "orders", "cluster": "orders"},
        "admin": {"address": {"pipe": {"path": str(admin)}}},
        "static_resources": {"listeners": [listener]},
    }
    configuration = tmp_path / "envoy.json"
    configuration.write_text(json.dumps(bootstrap))
    return configuration


def _secret(tmp_path: Path, name: str, content: dict[str, object]) -> dict[str, object]:
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps({"resources": [{"@type": f"{TLS}.Secret", "name": name, **content}]}))
    return {"name": name, "sds_config": {"path_config_source": {"path": str(file)}}}
