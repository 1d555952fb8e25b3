"""What wrk prints is read whole, or refused."""

from __future__ import annotations

import pytest

from tests.bench.check_path.wrk import Target, WrkError, microseconds, wrk_result

PLAIN = """Running 2s test @ http://127.0.0.1:40001/r9/42
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.21ms  843.52us  15.20ms   94.93%
    Req/Sec    13.51k     1.60k   16.20k    70.00%
  Latency Distribution
     50%    1.05ms
     75%    1.31ms
     90%    1.73ms
     99%  987.00us
  26916 requests in 2.01s, 3.59MB read
Requests/sec:  13391.62
Transfer/sec:      1.79MB
"""
FAILING = PLAIN.replace(
    "Requests/sec",
    "  Socket errors: connect 1, read 20, write 300, timeout 4000\n  Non-2xx or 3xx responses: 7\nRequests/sec",
)


def test_every_number_is_read() -> None:
    read = wrk_result(PLAIN)
    assert (read.requests, read.rps) == (26_916, 13_391.62)
    assert (read.p50_us, read.p99_us, read.max_us) == (1_050, 987, 15_200)
    assert read.failed == 0


def test_every_kind_of_failure_counts() -> None:
    read = wrk_result(FAILING)
    assert (read.refused, read.broken, read.failed) == (7, 4_321, 4_328)


@pytest.mark.parametrize("missing", ["Requests/sec", "requests in", "50%", "99%", "Latency  "])
def test_what_lacks_a_number_is_no_measurement(missing: str) -> None:
    with pytest.raises(WrkError):
        wrk_result("\n".join(line for line in PLAIN.splitlines() if missing not in line))


@pytest.mark.parametrize(("text", "us"), [("87.00us", 87), ("1.02ms", 1_020), ("3.00s", 3e6), ("1.50m", 9e7)])
def test_a_duration_has_a_unit(text: str, us: float) -> None:
    assert microseconds(text) == pytest.approx(us)


@pytest.mark.parametrize("text", ["", "12", "us", "1.0h", "-nanus", "1.0us "])
def test_what_has_no_unit_is_no_duration(text: str) -> None:
    with pytest.raises(WrkError, match="is no duration"):
        microseconds(text)


def test_wrk_is_told_where_and_as_whom_to_call() -> None:
    told = Target(address="127.0.0.1:1", path="/r9/42", host="s2").command(16, 2, 1)
    assert told[:3] == ["taskset", "-c", "1"]
    assert {"-c16", "-d2s", "--latency", "Host: s2", "http://127.0.0.1:1/r9/42"} <= set(told)
