"""What a check costs by how its caller is proven, from bytes to bytes, in microseconds of CPU; no transport.

`python -m tests.bench.tokens` prints the best of some rounds: by the certificate alone, with and without bundles to
hold it against, by a token that comes again, and by one that is new.
"""

from __future__ import annotations

import gc
import mmap
import time
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from authz.identity.authority import Authority
from authz.identity.spiffe_id import SpiffeId, TrustDomain
from authz.identity.trust import Trust
from authz.policy.index import compile_index
from authz.sidecar.check.checker import Checker, Workload
from authz.sidecar.in_force import InForce, PolicyInForce
from authz.sidecar.shared_memory import TRUST_BYTES
from authz.sidecar.trust_page import TrustPage
from tests.support.check_request import check_request
from tests.support.jwt_svids import TokenIssuer, bearer
from tests.support.policy_sets import document, parsed, service

if TYPE_CHECKING:
    from collections.abc import Sequence

SHOP = TrustDomain.parse("shop.example")
ORDERS, GATEWAY, CATALOG = (f"spiffe://shop.example/{name}" for name in ("orders", "gateway", "catalog"))
#: more than are remembered: each of them is new when it comes again
MANY_TOKENS = 5000
ROUNDS = 5
CHECKS = 2000
SET = (
    document("Mesh", "m", "{trustDomains: [shop.example]}"),
    service("orders"),
    service("gateway"),
    service("catalog", more=", accepts: [x509-svid, jwt-svid], forwarders: [gateway]"),
    document("MicroPolicy", "r", "{from: [{services: [orders]}], to: [{services: [catalog], operations: all}]}"),
)
ISSUERS = (
    TokenIssuer(trust_domain=SHOP),
    TokenIssuer(trust_domain=SHOP, key=ec.generate_private_key(ec.SECP384R1()), algorithm="ES384"),
    TokenIssuer(trust_domain=SHOP, key=rsa.generate_private_key(65537, 2048), algorithm="RS256"),
    TokenIssuer(trust_domain=SHOP, key=rsa.generate_private_key(65537, 4096), algorithm="RS256"),
)


def checker(trust: Trust | None) -> Checker:
    in_force = InForce()
    in_force.policy = PolicyInForce(index=compile_index(parsed(*SET)))
    memory = mmap.mmap(-1, TRUST_BYTES)
    TrustPage(memory).write(trust or Trust.of([]))
    workload = Workload(service="catalog", identity=lambda: None, trust=None if trust is None else TrustPage(memory))
    return Checker(workload=workload, in_force=in_force, record=lambda _: True)


def cost_us(asked: Checker, messages: Sequence[bytes]) -> float:
    """Give the CPU time of one check, the least of the rounds."""
    following = cycle(messages)
    for _ in range(min(len(messages), CHECKS)):
        assert b"allowed" in asked.answer(next(following))
    rounds = []
    for _ in range(ROUNDS):
        began_ns = time.process_time_ns()
        for _ in range(CHECKS):
            asked.answer(next(following))
        rounds.append((time.process_time_ns() - began_ns) / CHECKS / 1000)
    return min(rounds)


def main() -> None:
    now = datetime.now(UTC)
    authority = Authority.generate(SHOP, now, timedelta(hours=1))
    usual = tuple((f"x-header-{number}", b"some value of a usual length") for number in range(16))

    def asking(by: str, *headers: tuple[str, bytes]) -> bytes:
        svid = authority.issue_x509_svid(SpiffeId.parse(by), now, timedelta(hours=1))
        return check_request(certificate_pem=svid.certificate_pem, headers=(*usual, *headers)).SerializeToString()

    gc.disable()
    alone, proven = asking(ORDERS), asking(GATEWAY)
    trust = Trust.of([ISSUERS[0].bundle(authority.certificate_pem)])
    print(f"{'certificate, no bundles':<32}{cost_us(checker(None), [alone]):8.1f}")
    print(f"{'certificate':<32}{cost_us(checker(trust), [alone]):8.1f}")
    print(f"{'certificate, a token of the app':<32}{cost_us(checker(trust), [asking(ORDERS, bearer(b'opaque'))]):8.1f}")
    for issuer in ISSUERS:
        held = checker(Trust.of([issuer.bundle(authority.certificate_pem)]))
        tokens = [
            issuer.token(ORDERS, CATALOG, now_ns=time.time_ns(), claims={"jti": str(number)})
            for number in range(MANY_TOKENS)
        ]
        messages = [proven_with(proven, each) for each in tokens]
        name = f"{issuer.algorithm}, {issuer.key.key_size} bits"
        print(f"{f'token again, {name}':<32}{cost_us(held, messages[:1]):8.1f}")
        print(f"{f'token anew, {name}':<32}{cost_us(held, messages):8.1f}")


def proven_with(message: bytes, token: bytes) -> bytes:
    """Give a check with a token more."""
    request = check_request(headers=(bearer(token),))
    header = request.attributes.request.http.header_map.headers[-1]
    asked = type(request).FromString(message)
    asked.attributes.request.http.header_map.headers.add(key=header.key, raw_value=header.raw_value)
    return bytes(asked.SerializeToString())


if __name__ == "__main__":
    main()
