"""Time zones: the offsets of every zone that there is, before, at and after each of its changes."""

from __future__ import annotations

import io
import random
import struct
from datetime import timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from authz.policy.zone import CYCLE_S, DAY_S, Zone, ZoneError, zone_from_tzif, zone_named
from authz.zone_data import zone_bytes, zone_names
from tests.support.wall_clock import EPOCH, zone_info

YEAR_S = 365 * DAY_S
#: the years 2 to 9998: in them, no offset leads out of what datetime can say
FIRST_S, LAST_S = -62_103_974_400, 253_339_228_800


def tzif(footer: str, *, offsets: tuple[int, ...] = (0,), times: tuple[int, ...] = (), leaps: int = 0) -> bytes:
    """Write TZif data of version 3: each transition is to the next of the offsets."""
    header = struct.pack(">4sc15x6l", b"TZif", b"3", 0, 0, leaps, len(times), len(offsets), 4)
    kinds = bytes(min(index + 1, len(offsets) - 1) for index in range(len(times)))
    types = b"".join(struct.pack(">lBB", offset, 0, 0) for offset in offsets)
    old = struct.pack(">4sc15x6l", b"TZif", b"3", 0, 0, 0, 0, 1, 4) + struct.pack(">lBB", 0, 0, 0) + b"AAA\0"
    new = header + struct.pack(f">{len(times)}q", *times) + kinds + types + b"AAA\0"
    return old + new + f"\n{footer}\n".encode()


def offset_by_zoneinfo(zone: ZoneInfo, at_s: int) -> int:
    offset = (EPOCH + timedelta(seconds=at_s)).astimezone(zone).utcoffset()
    assert offset is not None
    return int(offset.total_seconds())


def changes(zone: Zone, from_s: int, until_s: int) -> list[int]:
    return [segment.start_s for segment in zone.segments(from_s, until_s)][1:]


def test_every_zone_has_the_offsets_that_zoneinfo_reads_in_the_same_data() -> None:
    chance = random.Random(1)  # noqa: S311 which instants are looked at is no secret
    for name in sorted(zone_names()):
        zone, expected = zone_named(name), zone_info(name)
        edges = changes(zone, FIRST_S, 0) + changes(zone, 0, 70 * YEAR_S) + changes(zone, 200 * YEAR_S, 205 * YEAR_S)
        asked = [edge_s + beside for edge_s in edges for beside in (-1, 0, 1)]
        asked += [chance.randrange(FIRST_S, LAST_S) for _ in range(50)]
        asked += [chance.randrange(0, 100 * YEAR_S) for _ in range(50)]
        for at_s in asked:
            assert zone.offset_s(at_s) == offset_by_zoneinfo(expected, at_s), (name, at_s)


def test_the_segments_of_every_zone_are_without_gap_and_each_has_one_offset() -> None:
    for name in sorted(zone_names()):
        zone = zone_named(name)
        segments = list(zone.segments(-150 * YEAR_S, 90 * YEAR_S))
        assert segments[0].start_s == -150 * YEAR_S
        assert segments[-1].end_s == 90 * YEAR_S
        assert all(one.end_s == two.start_s and one.offset_s != two.offset_s for one, two in pairwise(segments)), name
        for segment in segments:
            assert zone.offset_s(segment.start_s) == zone.offset_s(segment.end_s - 1) == segment.offset_s


@pytest.mark.parametrize("name", ["Europe/Berlin", "Africa/Casablanca", "America/Santiago", "Asia/Gaza", "UTC"])
def test_after_400_years_everything_comes_again(name: str) -> None:
    zone = zone_named(name)
    later_s = zone.repeats_from_s + 100 * YEAR_S
    once = [(segment.start_s, segment.offset_s) for segment in zone.segments(later_s, later_s + CYCLE_S)]
    again = [
        (segment.start_s - CYCLE_S, segment.offset_s)
        for segment in zone.segments(later_s + CYCLE_S, later_s + 2 * CYCLE_S)
    ]
    assert once == again


@pytest.mark.parametrize("at_s", [-(10**30), -62_135_596_801, -62_135_596_800, 253_402_300_800, 10**30])
def test_there_is_no_first_and_no_last_year(at_s: int) -> None:
    for name in ("Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "UTC"):
        zone = zone_named(name)
        (first, *_) = zone.segments(at_s, at_s + YEAR_S)
        assert zone.offset_s(at_s) == first.offset_s


@pytest.mark.parametrize(
    "footer",
    [
        "EST5EDT,0/0,J365/25",  # RFC 9636 3.3.1: summer time all year
        "AAA-1BBB,J60/2,J300/3",
        "AAA-1BBB-1:30,M2.5.0,M10.5.6/-26",
        "<-03>3<-02>,M3.5.0/-1,M10.5.0/0",
        "AAA10BBB,M10.1.0,M4.1.0/3",
        "IST-1GMT0,M10.5.0,M3.5.0/1",
        "AAA0:20:34",
    ],
)
def test_a_footer_is_read_as_zoneinfo_reads_it(footer: str) -> None:
    data = tzif(footer, offsets=(0, -1234), times=(-(10**9),))
    zone, expected = zone_from_tzif("X", data), ZoneInfo.from_file(io.BytesIO(data))
    for segment in zone.segments(0, 30 * YEAR_S):
        for at_s in (*range(segment.start_s, segment.end_s, DAY_S // 2), segment.end_s - 1):
            assert segment.offset_s == zone.offset_s(at_s) == offset_by_zoneinfo(expected, at_s), at_s


@pytest.mark.parametrize(
    ("begins", "expected"),
    [
        ("J1/0", ["1970-01-01", "1971-01-01", "1972-01-01"]),
        ("J59/0", ["1970-02-28", "1971-02-28", "1972-02-28"]),
        ("J60/0", ["1970-03-01", "1971-03-01", "1972-03-01"]),  # whether or not there is a 29 February
        ("0/0", ["1970-01-01", "1971-01-01", "1972-01-01"]),
        ("59/0", ["1970-03-01", "1971-03-01", "1972-02-29"]),
        ("60/24", ["1970-03-03", "1971-03-03", "1972-03-02"]),
        ("M2.5.0/0", ["1970-02-22", "1971-02-28", "1972-02-27"]),
        ("M12.5.4/0", ["1970-12-31", "1971-12-30", "1972-12-28"]),
        ("M1.1.4/-24", ["1969-12-31", "1971-01-06", "1972-01-05"]),
    ],
)
def test_the_dates_of_a_footer(begins: str, expected: list[str]) -> None:
    # zoneinfo of Python 3.11 takes days that count from 0, and J59 in leap years, for the day beside.
    zone = zone_from_tzif("X", tzif(f"UTC0XXX,{begins},J200", times=(-(10**9),)))
    begun = [segment.start_s for segment in list(zone.segments(-6 * DAY_S, 3 * YEAR_S))[1:] if segment.offset_s]
    assert [f"{EPOCH + timedelta(seconds=at_s):%Y-%m-%d}" for at_s in begun] == expected


def test_a_rule_without_a_beginning_holds_always() -> None:
    zone = zone_from_tzif("X", tzif("CET-1CEST,M3.5.0,M10.5.0/3", offsets=(3600,)))
    assert zone.offset_s(-30 * YEAR_S + 200 * DAY_S) == 7200
    assert len(changes(zone, -1000 * YEAR_S, -900 * YEAR_S)) == 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"TZif",
        zone_bytes("Europe/Berlin")[:-1],
        zone_bytes("Europe/Berlin")[:300],
        zone_bytes("Europe/Berlin").replace(b"CET-1CEST,M3.5.0", b"CET-1CEST,X3.5.0"),
        zone_bytes("Europe/Berlin").replace(b"TZif", b"TZii"),
        zone_bytes("Europe/Berlin").replace(b"TZif2", b"TZif\0"),
        tzif("UTC0", leaps=1),
        tzif("CET-1CEST,M13.5.0,M10.5.0/3", offsets=(0, 0), times=(0,))[:-40],
    ],
)
def test_data_that_is_broken_is_an_error(data: bytes) -> None:
    with pytest.raises(ZoneError, match="the data of the time zone `X` cannot be read"):
        zone_from_tzif("X", data)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("europe/berlin", "; did you mean `Europe/Berlin`?"),
        ("Berlin", "; did you mean `Europe/Berlin`?"),
        ("Europe/Berln", "; did you mean `Europe/Berlin`?"),
        ("America/New York", "; did you mean `America/New_York`?"),
        ("US/Estern", "; did you mean `US/Eastern`?"),
        ("utc", "; did you mean `UTC`?"),
        ("CEST", "; write a name such as `Europe/Berlin`"),
        ("+01:00", "; an offset is no zone: write a name such as `Europe/Berlin`, or `UTC`"),
        ("", "; write a name such as `Europe/Berlin`"),
        ("../../etc/passwd", "; write a name such as `Europe/Berlin`"),
        ("/usr/share/zoneinfo/UTC", "; did you mean `Etc/UTC`?"),
    ],
)
def test_an_unknown_zone_is_an_error_that_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ZoneError) as error:
        zone_named(name)
    assert str(error.value) == f"`{name}` is no IANA time zone{hint}"


def test_a_name_that_is_none_reads_no_file() -> None:
    with pytest.raises(KeyError):
        zone_bytes("../zones")


def test_zones_are_those_of_the_pinned_package_whatever_the_machine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONTZPATH", "/nowhere")
    monkeypatch.setenv("TZDIR", "/nowhere")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert zone_from_tzif("Europe/Berlin", zone_bytes("Europe/Berlin")).offset_s(0) == 3600
    assert len(zone_names()) > 590


def test_a_zone_is_one_value() -> None:
    assert zone_named("Europe/Berlin") is zone_named("Europe/Berlin")
    assert zone_named("Europe/Berlin") != zone_named("Europe/Paris")
