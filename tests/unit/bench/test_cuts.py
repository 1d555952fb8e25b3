"""Which bound a call has met that was refused at its beginning."""

from __future__ import annotations

from tests.bench.cuts import refused_by

COUNTERS = {
    "http.outbound.ext_authz.outbound.error": 25,
    "cluster.service_catalog.ext_authz.outbound.error": 25,
    "http.outbound.ext_authz.outbound.denied": 0,
    "http.outbound.ext_authz.outbound.ok": 9975,
    "http.outbound.ext_proc.message_timeouts": 3,
    "http.outbound.ext_proc.streams_started": 9975,
}


def test_a_refused_call_is_counted_once_by_the_bound_that_it_met() -> None:
    assert refused_by(COUNTERS) == {
        "no answer to the check within 350 ms": 25,
        "no word of the hold within 1 s": 3,
    }
    assert refused_by({"http.inbound.ext_authz.inbound.denied": 7}) == {"refused by the check": 7}
    assert refused_by({}) == {}
