"""A real hub: what is sent to it is answered, once, whoever dies in between, and nobody else gets anything."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import itertools
import json
import re
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import pytest

from authz.hub.openapi import openapi_document
from authz.hub.operations import OPERATIONS
from authz.records.batch import MAX_BATCH_BYTES
from tests.support.conditions import eventually
from tests.support.hub_process import REVISION, Hub, batch, flow, record

if TYPE_CHECKING:
    from collections.abc import Iterator

POLICIES = str(Path(__file__).parents[3] / "policies")
HOSTILE = ("<script>alert(1)</script>", "\x1b[2J\x1b]0;owned\x07", "a/b?c#d&e=%2e", "\u202eevil", "x" * 250)


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub("--policies", POLICIES) as running:
        yield running


@pytest.fixture
def own_hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


def calls_of(hub: Hub) -> int:
    return sum(edge["calls"] for edge in hub.answer("/edges?since=1h")["edges"])


class TestIntake:
    def test_a_batch_is_answered_once_however_often_it_is_sent(self, own_hub: Hub) -> None:
        sent = batch(1, [flow(count=3)], [record(1)])
        assert own_hub.send(sent) == (200, {"stored": True})
        assert own_hub.send(sent) == (200, {"stored": False})
        assert own_hub.send(gzip.compress(json.dumps(sent).encode()), content_encoding="gzip") == (
            200,
            {"stored": False},
        )
        assert calls_of(own_hub) == 3

    def test_what_is_no_batch_is_refused_for_good(self, own_hub: Hub) -> None:
        for content in (b"", b"{", b"[]", b'{"sidecar": "x"}', json.dumps(batch(1, [flow(count=-1)])).encode()):
            status, body = own_hub.send(content)
            assert (status, body.keys()) == (400, {"error", "parameter"})
        assert own_hub.send(batch(1, [flow()], sidecar="orders"))[0] == 400, "flows of another sidecar"
        assert own_hub.answer("/status")["store"]["refused"] == 6

    def test_a_bomb_is_refused_before_it_is_unpacked(self, own_hub: Hub) -> None:
        bomb = gzip.compress(b"[" * (MAX_BATCH_BYTES * 20))
        assert len(bomb) < 200_000
        assert own_hub.send(bomb, content_encoding="gzip")[0] == 400
        status, _ = own_hub.send(b" " * (MAX_BATCH_BYTES + 1))
        assert status == 413
        assert own_hub.send(b"{}", content_encoding="br")[0] == 400

    def test_nothing_that_was_acknowledged_is_lost_or_doubled_when_the_hub_is_killed(self, tmp_path: Path) -> None:
        hub = Hub(folder=tmp_path)
        hub.start()
        sent, acknowledged, stop = 0, 0, threading.Event()

        def ship() -> None:
            nonlocal sent, acknowledged
            while not stop.is_set():
                sent += 1
                content = batch(sent, [flow(count=sent % 7 + 1)], [record(sent)])
                while True:  # as a shipper does: until there is an answer
                    try:
                        assert hub.send(content)[0] == 200
                    except (OSError, http.client.HTTPException):
                        time.sleep(0.01)
                        continue
                    acknowledged = sent
                    break

        shipper = threading.Thread(target=ship)
        shipper.start()
        try:
            port = hub.port
            for _ in range(5):
                goal = acknowledged + 15
                while acknowledged < goal:
                    time.sleep(0.005)
                hub.kill()
                hub.start(port)
        finally:
            stop.set()
            shipper.join()
        counts = {each["from"]: each["calls"] for each in hub.answer("/edges?since=1h")["edges"]}
        assert counts == {"storefront": sum(number % 7 + 1 for number in range(1, acknowledged + 1))}
        ids, cursor = [], ""
        while True:
            page = hub.answer(f"/calls?limit=1000{cursor}")
            ids += [int(each["decision_id"], 16) for each in page["calls"]]
            if page["cursor"] is None:
                break
            cursor = "&cursor=" + page["cursor"]
        assert sorted(ids) == list(range(1, acknowledged + 1))
        hub.stop()

    def test_a_second_hub_does_not_use_the_same_data(self, own_hub: Hub) -> None:
        other = Hub(folder=own_hub.folder)
        with pytest.raises(AssertionError, match="another hub uses it"):
            other.start()


class TestAnswers:
    def test_every_operation_is_answered_in_the_form_that_the_document_says(self, hub: Hub) -> None:
        hub.send(
            batch(1, [flow(count=2), flow("orders", decision="deny", reason="no_policy", policy=None)], [record(77)])
        )
        status, document = hub.get("/api/v1/openapi.json")
        assert (status, document) == (200, openapi_document())
        names = {
            "from": "storefront",
            "to": "catalog",
            "id": record(77)["decision_id"],
            "name": "storefront-reads-catalog",
        }
        for path, item in document["paths"].items():
            if path.endswith(("/stream", "/explain/{id}")):
                continue
            asked = path
            for name, value in names.items():
                asked = asked.replace(f"{{{name}}}", value)
            status, body = hub.get(asked)
            assert status == 200, (asked, body)
            reference = item["get"]["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
            schema = document["components"]["schemas"][reference.rpartition("/")[2]]
            assert set(schema["required"]) <= body.keys() <= schema["properties"].keys()

    def test_services_are_those_of_the_policies_and_whoever_was_seen(self, hub: Hub) -> None:
        hub.send(batch(2, [flow("stranger")]))
        found = {each["name"]: each for each in hub.answer("/services")["services"]}
        assert found["storefront"]["kind"] == "service"
        assert found["storefront"]["identities"] == ["spiffe://shop.example/ns/shop/sa/storefront"]
        assert found["storefront"]["mode"] == "enforce"
        assert found["acme-analytics"]["kind"] == "third_party"
        assert found["acme-analytics"]["state"] in {"opening", "open", "closing", "ended"}
        assert found["catalog"]["sidecar"]["revision"] == REVISION
        assert found["catalog"]["sidecar"]["name"] == "catalog"

    def test_the_status_of_a_sidecar_has_the_names_of_the_contract(self, hub: Hub) -> None:
        hub.send(batch(3))
        contract = {"name", "service", "revision", "lag_s", "last_seen", "svid_expires", "spooled", "lost", "unjoined"}
        (sidecar,) = (each for each in hub.answer("/status")["sidecars"] if each["name"] == "catalog")
        assert contract <= sidecar.keys()

    def test_windows_name_who_tried_after_the_end(self, tmp_path: Path) -> None:
        policies = tmp_path / "policies"
        policies.mkdir()
        (policies / "set.yaml").write_text(_CLOSED, "utf-8")
        with Hub("--policies", str(policies)) as hub:
            refused = {"reason": "decommissioned", "policy": "acme"}
            hub.send(batch(1, [], [record(1, **refused), record(2, **refused), record(3, **refused, cut=True)]))
            (window,) = hub.answer("/windows")["windows"]
            assert (window["name"], window["kind"], window["state"]) == ("acme", "third_party", "ended")
            after = window["attempts_after"]
            assert after["count"] == 2
            assert [(each["service"], each["sidecar"], each["count"]) for each in after["sources"]] == [
                ("storefront", "catalog", 2)
            ]
            assert after["first"] == record(1)["time"] or after["first"] is not None

    @pytest.mark.parametrize(
        "span", ["?since=2026-11-01T00:00:00Z&until=2026-11-01T00:00:00Z", "?since=3090-01-01T00:00:00Z"]
    )
    def test_a_span_that_ends_where_it_begins_or_has_not_begun_is_empty(self, hub: Hub, span: str) -> None:
        hub.send(batch(70, [flow()]))
        assert hub.answer("/edges" + span)["edges"] == []
        assert hub.answer("/edges/storefront/catalog" + span)["calls"] == 0
        assert hub.answer("/edges/storefront/catalog/history" + span)["points"] == []
        assert hub.answer("/policies/storefront-reads-catalog/usage" + span)["calls"] == 0
        assert hub.answer("/denials" + span)["denials"] == []

    def test_a_revision_says_what_it_changed(self, tmp_path: Path) -> None:
        policies = tmp_path / "policies"
        policies.mkdir()
        (policies / "set.yaml").write_text(_CLOSED, "utf-8")
        with Hub("--policies", str(policies)) as hub, _Listener(hub, "revision") as listener:
            (policies / "set.yaml").write_text(_CLOSED + _RULE, "utf-8")
            told = listener.next()
            newest, oldest = hub.answer("/revisions")["revisions"]
            assert told == ("revision", {**told[1], "revision": newest["revision"], "previous": oldest["revision"]})
            assert newest["in_force"]
            assert newest["previous"] == oldest["revision"]
            assert [(each["becomes"], each["policy"]) for each in newest["differences"]] == [("allow", "a-reads-b")]

    def test_a_call_is_explained_by_the_revision_that_decided_it(self, tmp_path: Path) -> None:
        policies = tmp_path / "policies"
        policies.mkdir()
        (policies / "set.yaml").write_text(_CLOSED, "utf-8")
        with Hub("--policies", str(policies)) as hub, _Listener(hub, "revision") as listener:
            first = hub.answer("/status")["policies"]["revision"]
            (policies / "set.yaml").write_text(_CLOSED + _RULE, "utf-8")
            second = listener.next()[1]["revision"]
            fields: dict[str, Any] = {"method": "GET", "path": "/x", "source": "a", "target": "b"}
            hub.send(
                batch(1, [], [record(1, revision=first, **fields), record(2, revision=second, **fields)], sidecar="b")
            )
            answers = [hub.answer(f"/explain/{number:032x}") for number in (1, 2)]
            assert [each["decision"] for each in answers] == ["deny", "allow"]
            # A record that says `deny` of what its revision allows has less than the call had.
            assert [each["was_decided_differently"] for each in answers] == [
                each["reason"] != hub.answer(f"/decisions/{number:032x}")["reason"]
                for number, each in enumerate(answers, start=1)
            ]
            assert answers[1]["was_decided_differently"] is True
            assert answers[0]["steps"]
            assert answers[0]["revision"] == first
            assert hub.get("/api/v1/explain/" + "9" * 32)[0] == 404

    def test_the_end_of_a_call_that_was_cut_is_explained_by_what_a_new_call_was_told_then(self, tmp_path: Path) -> None:
        policies = tmp_path / "policies"
        policies.mkdir()
        (policies / "set.yaml").write_text(_CLOSED, "utf-8")
        with Hub("--policies", str(policies)) as hub:
            revision = hub.answer("/status")["policies"]["revision"]
            fields: dict[str, Any] = {
                "method": "GET", "path": "/x", "source": "a", "target": "b", "policy": "removed", "revision": revision,
            }  # fmt: skip
            began = record(1, **fields, decision="allow", reason="allowed", status=None)
            ends = [record(number, **fields, cut=True) for number in (1, 2)]
            handshake = {"failure": "no client certificate", "claimed": None, "count": 1}
            failed = record(3, **fields, reason="unidentified", handshake=handshake)
            assert hub.send(batch(1, [], [began, *ends, failed], sidecar="b"))[0] == 200
            first, second = f"{1:032x}", f"{2:032x}"
            assert [hub.answer(f"/decisions/{first}{part}")["cut"] for part in ("", "?part=cut")] == [False, True]
            # Its beginning was not kept in full: its end is what there is.
            assert hub.answer(f"/decisions/{second}")["cut"] is True
            for path in (f"/explain/{first}?part=cut", f"/explain/{second}"):
                told = hub.answer(path)
                assert (told["decision"], told["reason"]) == ("deny", "no_policy")
                assert told["was_decided_differently"] is False
            assert hub.get(f"/api/v1/decisions/{3:032x}?part=cut")[0] == 404
            assert hub.get(f"/api/v1/decisions/{first}?part=all")[0] == 400
            status, told = hub.get(f"/api/v1/explain/{3:032x}")
            assert (status, told["error"]) == (
                404, "nothing was decided: the handshake failed before there was a call",
            )  # fmt: skip

    def test_the_map_of_then_is_compared_with_that_of_before(self, own_hub: Hub) -> None:
        from authz.instant import rfc3339_from_ns  # noqa: PLC0415 one test's

        hour_ago = rfc3339_from_ns((time.time_ns() // 10**10 - 360) * 10**10)
        own_hub.send(
            batch(1, [flow(time=hour_ago, count=4), flow("gone", time=hour_ago), flow(count=40), flow("fresh")])
        )
        edges = {each["from"]: each for each in own_hub.answer("/edges?since=30m&compare=45m")["edges"]}
        assert {name: each["compared"]["change"] for name, each in edges.items()} == {
            "storefront": "grown",
            "gone": "gone",
            "fresh": "new",
        }
        assert edges["gone"]["calls"] == 0
        then = own_hub.answer("/edges?since=30m&at=45m")["edges"]
        assert {each["from"]: each["calls"] for each in then} == {"storefront": 4, "gone": 1}

    @pytest.mark.parametrize(
        ("path", "parameter"),
        [
            ("/edges?since=yesterday", "since"),
            ("/edges?compare=x", "compare"),
            ("/edges?color=red", "color"),
            ("/edges?since=1h&since=2h", "since"),
            ("/edges?until=2h", "since"),
            ("/edges?since=2026-11-01T00:00:00.001Z&until=2026-11-01T00:00:00Z", "since"),
            ("/edges?since=1h&until=2h&at=1h&compare=3h", "since"),
            ("/calls?limit=0", "limit"),
            ("/calls?limit=1e3", "limit"),
            ("/calls?cursor=x", "cursor"),
            ("/calls?decision=maybe", "decision"),
            ("/calls?reason=because", "reason"),
            ("/denials?group=color", "group"),
            ("/edges/a/b/history?step=7", "step"),
            ("/stream?events=all", "events"),
        ],
    )
    def test_a_bad_parameter_is_named(self, hub: Hub, path: str, parameter: str) -> None:
        status, body = hub.get("/api/v1" + path)
        assert (status, body["parameter"]) == (400, parameter)
        assert body["error"]

    def test_every_question_of_a_span_refuses_one_that_ends_before_it_begins_and_says_so(self, hub: Hub) -> None:
        asked = [each for each in OPERATIONS if {"since", "until"} <= {part.name for part in each.parameters}]
        assert len(asked) == 8
        for operation in asked:
            path = "/api/v1" + re.sub(r"\{[a-z]+\}", "catalog", operation.path)
            status, body = hub.get(f"{path}?since=1h&until=2h")
            assert (status, body["parameter"]) == (400, "since")
            assert body["error"] == "it is after `until`; give an earlier time, or a longer age"
            if any(each.name == "since" and each.default for each in operation.parameters):
                status, body = hub.get(f"{path}?until=52w")
                assert (status, body["parameter"]) == (400, "since")
                assert body["error"].startswith("what it is where it is not given is after `until`; ")

    @pytest.mark.parametrize(
        "path", ["/edges/no/one", "/decisions/x", "/explain/x", "/policies/none/usage", "/nothing"]
    )
    def test_what_is_not_known_is_404_in_the_same_form(self, hub: Hub, path: str) -> None:
        status, body = hub.get("/api/v1" + path)
        assert (status, body.keys()) == (404, {"error", "parameter"})

    def test_hostile_names_come_back_as_they_are_and_are_found_by_them(self, own_hub: Hub) -> None:
        flows = []
        for number, name in enumerate(HOSTILE):
            caller = {**flow()["caller"], "service": name}
            flows.append(flow(caller=caller, method=name[:64], route=name))
            own_hub.send(
                batch(10 + number, [], [record(number, path=name, caller={**record()["caller"], "service": name})])
            )
        own_hub.send(batch(1, flows))
        for name in HOSTILE:
            edge = own_hub.answer(f"/edges/{quote(name, safe='')}/catalog")
            assert (edge["from"], [each["route"] for each in edge["routes"]]) == (name, [name])
            (found,) = own_hub.answer(f"/calls?from={quote(name, safe='')}")["calls"]
            assert found["path"] == name
        status, headers, body = own_hub.ask("/api/v1/edges")
        assert (status, headers["Content-Type"], headers["X-Content-Type-Options"]) == (
            200,
            "application/json",
            "nosniff",
        )
        assert b"\x1b" not in body


class TestPolicies:
    @pytest.mark.parametrize("is_gone", [False, True])
    def test_a_hub_that_begins_anew_where_they_cannot_be_used_knows_those_of_before(
        self, tmp_path: Path, *, is_gone: bool
    ) -> None:
        policies, away = tmp_path / "policies", tmp_path / "away"
        policies.mkdir()
        (policies / "set.yaml").write_text(_CLOSED, "utf-8")
        hub = Hub("--policies", str(policies), folder=tmp_path)
        with hub:
            revision = hub.answer("/status")["policies"]["revision"]
        if is_gone:
            policies.rename(away)
        else:
            (policies / "set.yaml").write_text("kind: [", "utf-8")
        with hub:
            known = hub.answer("/status")["policies"]
            assert (known["revision"], known["stale"]) == (revision, True)
            assert known["faults"]
            assert [each["name"] for each in hub.answer("/windows")["windows"]] == ["acme"]
            with _Listener(hub, "revision") as listener:
                if is_gone:
                    away.rename(policies)
                (policies / "set.yaml").write_text(_CLOSED + _RULE, "utf-8")
                assert listener.next()[1]["previous"] == revision
            assert hub.answer("/status")["policies"]["stale"] is False

    def test_a_hub_with_none_that_can_be_used_does_not_start_and_says_why(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="there is no such folder"):
            Hub("--policies", str(tmp_path / "none"), folder=tmp_path).start()
        (tmp_path / "policies").mkdir()
        with pytest.raises(AssertionError, match=r"policies:1:1: the set has no Mesh: there is no `\*\.yaml`"):
            Hub("--policies", str(tmp_path / "policies"), folder=tmp_path).start()
        (tmp_path / "policies" / "set.yaml").write_text(_CLOSED.replace("trustDomains", "trustDomain"), "utf-8")
        with pytest.raises(AssertionError, match=r"set.yaml:4:8: error: unknown field `trustDomain`|set.yaml:4:"):
            Hub("--policies", str(tmp_path / "policies"), folder=tmp_path).start()

    def test_a_clickhouse_that_is_not_there_is_said_in_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError) as failed:
            Hub("--store", "clickhouse://127.0.0.1:1/x", folder=tmp_path).start()
        assert str(failed.value).splitlines()[0] == (
            "--store: clickhouse://127.0.0.1:1/x: the server cannot be reached: connection refused"
        )


class TestEvents:
    def test_a_denial_is_told_while_it_is_stored(self, hub: Hub) -> None:
        with _Listener(hub, "deny") as listener:
            hub.send(batch(50, [], [record(50)]))
            kind, data = listener.next()
            assert (kind, data["decision_id"], data["reason"]) == ("deny", record(50)["decision_id"], "no_policy")

    def test_an_edge_that_is_new_is_told_once(self, hub: Hub) -> None:
        with _Listener(hub, "edge,deny") as listener:
            hub.send(batch(60, [flow("newcomer")]))
            hub.send(batch(61, [flow("newcomer")], [record(61)]))
            assert listener.next()[1]["from"] == "newcomer"
            assert listener.next()[0] == "deny"

    def test_whoever_asks_for_headers_alone_does_not_listen(self, own_hub: Hub) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", own_hub.port, timeout=120)
        connection.request("HEAD", "/api/v1/stream")
        answer = connection.getresponse()
        answer.read()
        assert (answer.status, answer.getheader("Allow")) == (405, "GET")
        connection.request("GET", "/metrics")
        assert b"\nauthz_hub_listeners 0.0\n" in connection.getresponse().read()
        connection.close()

    def test_who_stops_listening_is_forgotten_without_a_word_in_the_log(self, own_hub: Hub) -> None:
        def listeners() -> float:
            _, _, body = own_hub.ask("/metrics")
            return float(re.findall(rb"^authz_hub_listeners (.*)$", body, re.MULTILINE)[0])

        for round_of in range(3):
            gone = [_Listener(own_hub, "deny") for _ in range(5)]
            for each in gone:
                each.__exit__()
            own_hub.send(batch(80 + round_of, [], [record(80 + number) for number in range(20)]))
        assert eventually(lambda: listeners() == 0.0)
        assert "Traceback" not in own_hub.log.read_text()

    def test_who_listens_is_let_go_when_the_hub_ends(self, tmp_path: Path) -> None:
        hub = Hub(folder=tmp_path)
        hub.start()
        with _Listener(hub, "deny") as listener:
            assert hub.stop() == 0
            assert listener.rest() == b""


class TestAccess:
    def test_another_host_or_origin_gets_nothing(self, hub: Hub) -> None:
        assert hub.get("/api/v1/status", Host="evil.example")[0] == 421
        assert hub.get("/api/v1/status", Host=f"127.0.0.1.evil.example:{hub.port}")[0] == 421
        assert hub.get("/api/v1/status", Origin="http://evil.example")[0] == 403
        assert hub.get("/api/v1/status", Origin="null")[0] == 403
        assert hub.get("/api/v1/status", Sec_Fetch_Site="cross-site")[0] == 403
        assert hub.get("/api/v1/status", Host=f"localhost:{hub.port}", Origin=f"http://localhost:{hub.port}")[0] == 200

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (b"\x16\x03\x01secret\r\n\r\n", 400),
            (b"G@T /secret HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
            (b"GET /secret HTTP/3.0\r\nHost: 127.0.0.1\r\n\r\n", 400),
            (b"GET /secret HTTP/1.1\r\n\r\n", 400),
            (b"GET http://[secret/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nsecret x: 1\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nx: sec\x00ret\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"secret: 1\r\n" * 1000 + b"\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nx: " + b"secret" * 2000 + b"\r\n\r\n", 431),
            (b"GET /" + b"secret" * 30_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 414),
            (b"GET /secret HTTP/1.1\r\nHost: 127.0.0.1\r\nExpect: secret\r\nConnection: close\r\n\r\n", 417),
            (
                b"POST /intake/v1/batches HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n",
                400,
            ),
        ],
    )
    def test_what_is_no_request_is_answered_like_any_other_and_told_nothing(
        self, own_hub: Hub, sent: bytes, status: int
    ) -> None:
        usual = own_hub.ask("/api/v1/nothing")[1]
        said = len(own_hub.log.read_bytes())
        with socket.create_connection(("127.0.0.1", own_hub.port), timeout=120) as connection:
            connection.sendall(sent)
            with http.client.HTTPResponse(connection) as answer:
                answer.begin()
                body, headers = answer.read(), answer.headers
        assert answer.status == status
        assert json.loads(body).keys() == {"error", "parameter"}
        assert b"secret" not in body
        same = set(usual.keys()) - {"Date", "Content-Length", "Connection"}
        assert same >= {"Content-Security-Policy", "X-Content-Type-Options", "Server", "Cache-Control", "Content-Type"}
        assert {name: headers[name] for name in same} == {name: usual[name] for name in same}
        assert own_hub.answer("/edges")["edges"] == []
        assert len(own_hub.log.read_bytes()) == said

    def test_no_get_changes_anything_and_nothing_else_is_taken(self, hub: Hub) -> None:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            status, headers, _ = hub.ask("/api/v1/edges", method=method)
            assert status == 405
            assert "Access-Control-Allow-Origin" not in headers
        assert hub.ask("/intake/v1/batches")[0] == 405

    def test_every_answer_forbids_what_a_page_does_not_need(self, hub: Hub) -> None:
        for path in ("/", "/api/v1/status", "/api/v1/nothing", "/metrics", "/page/nothing.js"):
            _, headers, _ = hub.ask(path)
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["Referrer-Policy"] == "no-referrer"

    def test_a_file_of_the_page_is_sent_again_only_where_it_has_changed(self, hub: Hub) -> None:
        for path in ("/", "/page/app.js", "/page/vendor/cytoscape.js"):
            status, headers, body = hub.ask(path)
            assert (status, headers["Cache-Control"]) == (200, "no-cache")
            assert body
            status, again, nothing = hub.ask(path, {"If-None-Match": headers["ETag"]})
            assert (status, nothing, again["ETag"]) == (304, b"", headers["ETag"])
            assert "default-src 'none'" in again["Content-Security-Policy"]
            assert hub.ask(path, {"If-None-Match": '"another"'})[2] == body

    @pytest.mark.parametrize("path", ["/page/../server.py", "/page/..%2fserver.py", "/page//etc/passwd", "/page/%00"])
    def test_the_page_is_all_that_is_served_of_the_disk(self, hub: Hub, path: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=60)
        connection.request("GET", path)
        assert connection.getresponse().status in {400, 404}
        connection.close()

    def test_a_role_may_do_what_it_says_and_who_may_not_is_recorded(self, tmp_path: Path) -> None:
        access = tmp_path / "access.json"
        roles = ("sidecar", "viewer", "security", "admin")
        tokens = [
            {"name": f"of-{role}", "role": role, "sha256": hashlib.sha256(role.encode()).hexdigest()} for role in roles
        ]
        access.write_text(json.dumps({"tokens": tokens, "hosts": ["hub.example"]}))
        with Hub("--access", str(access)) as hub:

            def statuses(role: str) -> tuple[int, ...]:
                authorization = f"Bearer {role}"
                paths = ("/api/v1/edges", "/api/v1/calls", "/metrics")
                sent = hub.send(batch(1), authorization=authorization)[0]
                return (sent, *(hub.ask(path, {"Authorization": authorization})[0] for path in paths))

            assert statuses("sidecar") == (200, 403, 403, 403)
            assert statuses("viewer") == (403, 200, 403, 200)
            assert statuses("security") == (403, 200, 200, 200)
            assert statuses("admin") == (200, 200, 200, 200)
            assert statuses("guess") == (401, 401, 401, 401)
            assert hub.get("/api/v1/edges")[0] == 401
            assert hub.get("/healthz")[0] == 200
            assert hub.get("/api/v1/edges", Host="hub.example", Authorization="Bearer viewer")[0] == 200
            refused = [json.loads(line) for line in (hub.data / "refused.jsonl").read_text().splitlines()]
            assert [each["who"] for each in refused].count("of-viewer") == 2
            assert {
                "who": "of-viewer",
                "path": "/api/v1/calls",
                "why": "role viewer, security is needed",
            }.items() <= next(
                each for each in refused if each["path"] == "/api/v1/calls" and each["who"] == "of-viewer"
            ).items()

    def test_who_may_not_read_single_calls_is_told_no_address_of_who_tried_a_window(self, tmp_path: Path) -> None:
        (tmp_path / "policies").mkdir()
        (tmp_path / "policies" / "set.yaml").write_text(_CLOSED, "utf-8")
        roles = ("sidecar", "viewer", "security", "admin")
        tokens = [{"name": role, "role": role, "sha256": hashlib.sha256(role.encode()).hexdigest()} for role in roles]
        (tmp_path / "access.json").write_text(json.dumps({"tokens": tokens}))
        addresses = ("10.7.0.1:4000", "10.7.0.2:4000", "[2001:db8::77]:4000")
        refused = {"reason": "decommissioned", "policy": "acme"}
        knocks = [
            record(number, **refused, caller={**record(source=source)["caller"], "address": address})
            for number, (source, address) in enumerate(itertools.product(("storefront", None), addresses), start=1)
        ]
        with Hub("--policies", str(tmp_path / "policies"), "--access", str(tmp_path / "access.json")) as hub:
            assert hub.send(batch(1, [], knocks), authorization="Bearer sidecar")[0] == 200

            def sources(role: str) -> list[dict[str, Any]]:
                status, _, body = hub.ask("/api/v1/windows", {"Authorization": f"Bearer {role}"})
                assert status == 200
                if role == "viewer":
                    assert not any(each.encode() in body for each in ("10.7.0", "2001:db8", "4000"))
                (window,) = json.loads(body)["windows"]
                assert window["attempts_after"]["count"] == len(knocks)
                found: list[dict[str, Any]] = window["attempts_after"]["sources"]
                return found

            assert len(sources("security")) == len(sources("admin")) == len(knocks)
            assert {each["address"] for each in sources("security")} == {"10.7.0.1", "10.7.0.2", "2001:db8::77"}
            assert [(each["service"], each["address"], each["count"]) for each in sources("viewer")] == [
                (None, None, 3),
                ("storefront", None, 3),
            ]

    def test_without_access_it_listens_on_loopback_only(self, tmp_path: Path) -> None:
        hub = Hub("--listen", "0.0.0.0:0", folder=tmp_path)
        with pytest.raises(AssertionError, match="give --access"):
            hub.start()

    def test_who_asks_too_often_is_told_to_wait(self, own_hub: Hub) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", own_hub.port, timeout=60)
        statuses = set()
        for _ in range(2000):
            connection.request("GET", "/api/v1/nothing-to-count")
            answer = connection.getresponse()
            answer.read()
            statuses.add(answer.status)
            if answer.status == 429:
                assert answer.getheader("Retry-After") == "1"
                break
        connection.close()
        assert 429 in statuses

    def test_whoever_guesses_tokens_is_told_to_wait_and_those_who_have_one_are_not(self, tmp_path: Path) -> None:
        access = tmp_path / "access.json"
        entry = {"name": "ops", "role": "viewer", "sha256": hashlib.sha256(b"right").hexdigest()}
        access.write_text(json.dumps({"tokens": [entry]}))
        with Hub("--access", str(access)) as hub:
            connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=60)
            statuses = []
            while 429 not in statuses and len(statuses) < 5000:
                connection.request("GET", "/api/v1/status", headers={"authorization": f"Bearer {len(statuses)}"})
                answer = connection.getresponse()
                answer.read()
                statuses.append(answer.status)
            connection.close()
            assert set(statuses) == {401, 429}
            assert hub.get("/api/v1/status", Authorization="Bearer right")[0] == 200
            assert len((hub.data / "refused.jsonl").read_text().splitlines()) == statuses.count(401)


class _Listener:
    """Listens to events; what it was told is read one by one."""

    def __init__(self, hub: Hub, events: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=120)
        self._connection.request("GET", f"/api/v1/stream?events={events}")
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        assert self._answer.readline().startswith(b":")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._connection.close()

    def next(self) -> tuple[str, dict[str, Any]]:
        kind = ""
        while True:
            line = self._answer.readline()
            assert line, "the stream has ended"
            name, _, text = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = text
            if name == "data":
                return kind, json.loads(text)

    def rest(self) -> bytes:
        return self._answer.read().strip()


_CLOSED = """\
apiVersion: authz/v1
kind: Mesh
metadata: {name: mesh}
spec: {trustDomains: [shop.example]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: a}
spec: {identities: ["spiffe://shop.example/ns/shop/sa/a"]}
---
apiVersion: authz/v1
kind: Service
metadata: {name: b}
spec: {identities: ["spiffe://shop.example/ns/shop/sa/b"]}
---
apiVersion: authz/v1
kind: ThirdParty
metadata: {name: acme}
spec:
  hosts: [api.acme.example]
  window: {opens: "2020-01-01T00:00:00Z", closes: "2021-01-01T00:00:00Z"}
"""
_RULE = """\
---
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: a-reads-b}
spec:
  from: [{services: [a]}]
  to: [{services: [b], operations: [{methods: [GET], paths: ["/x"]}]}]
"""
