"""What is said of encryption is true, also where no record tells; and what is said of edges without calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.hub_process import batch, flow, record

if TYPE_CHECKING:
    from tests.browser.sight import Sight
    from tests.support.hub_process import Hub


def test_a_call_to_a_third_party_is_never_said_to_be_plain(sight: Sight, hub: Hub) -> None:
    parties = [each["name"] for each in hub.answer("/services")["services"] if each["kind"] == "third_party"]
    edges = [each for each in hub.answer("/edges?since=1h")["edges"] if each["to"] in parties]
    assert edges
    for edge in edges:
        sight.open(f"#/map/edge/{edge['from']}/{edge['to']}")
        said = sight.find("#edge .tls").inner_text()
        assert "not encrypted" not in said
        assert "no TLS" not in said
        sent = edge["allowed"] > edge["unreached"]
        assert ("TLS from the caller's Envoy on" if sent else "not sent") in said, edge


def test_a_call_that_was_refused_at_its_caller_was_not_sent(sight: Sight, hub: Hub) -> None:
    calls = hub.answer("/calls?decision=deny&limit=500")["calls"]
    refused = next(each for each in calls if each["direction"] == "outbound" and each["tls"]["version"] is None)
    sight.open(f"#/call/{refused['decision_id']}")
    row = sight.find("main .rowfacts > div", has_text="encrypted by")
    assert "not sent" in row.inner_text()
    assert "not encrypted" not in row.inner_text()


def test_a_call_to_a_third_party_that_was_cut_had_been_sent(sight: Sight, hub: Hub) -> None:
    plain = {"version": None, "cipher": None, "peer_serial": None}
    party = {"service": None, "third_party": "acme-analytics", "host": "api.acme.example"}
    cut = record(
        7_000_001, "orders", "orders", direction="outbound", destination=party, tls=plain, cut=True, status=200
    )
    assert hub.send(batch(2, [], [cut], sidecar="orders", boot="c0c0c0c0c0c0c0c0"))[0] == 200
    sight.open(f"#/call/{cut['decision_id']}")
    row = sight.find("main .rowfacts > div", has_text="encrypted by")
    assert "TLS from the caller's Envoy on" in row.inner_text()
    assert "not sent" not in row.inner_text()


def test_an_edge_on_which_no_call_began_says_so(sight: Sight, hub: Hub) -> None:
    ended = flow("returns", "archive", count=0, cut=2, statuses={}, duration_us_log2=[], bytes_sent=10, check_us_sum=0)
    assert hub.send(batch(1, [ended], sidecar="archive"))[0] == 200
    sight.open("#/map/edge/returns/archive")
    assert "No call began in this time: 2 cut." in sight.find("#edge").inner_text()
    words = sight.of_map(
        "cy.edges().filter((each) => each.data('from') === 'returns').map((each) => each.data('words'))"
    )
    assert words in (["2 cut"], [""])
    dash = sight.of_map("cy.edges().filter((each) => each.data('from') === 'returns').map((each) => each.data('dash'))")
    assert dash == ["dotted"]
    sight.picture("edge-without-calls-light")
