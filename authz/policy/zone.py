"""Time zones: how far local wall-clock time is ahead of UTC, and from when until when.

Decides what a zone's name and its TZif data mean. Which data that is, `authz.zone_data` decides; what follows for a
window, `hours`. Seconds are whole seconds since the epoch, and every integer is one: nothing here has a first or a
last year, and nothing raises for an instant.

# INVARIANT (one value a name): a zone is made only by :func:`zone_named`, so that equal names are equal zones.

RFC 9636, https://www.rfc-editor.org/rfc/rfc9636
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import date
from difflib import get_close_matches
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, Final, TypeAlias

from authz.policy.errors import PolicyError, quoted
from authz.zone_data import zone_bytes, zone_names

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_S: Final = 86_400
#: The Gregorian calendar repeats after 400 years, to the day of the week: they are 20,871 whole weeks.
CYCLE_S: Final = 146_097 * DAY_S

_CYCLE_YEARS: Final = 400
_EPOCH: Final = date(1970, 1, 1).toordinal()
#: A year from which on the calendar is counted in cycles; any will do that `date` has with the 400 after it.
_ANCHOR_YEAR: Final = 2000
_ANCHOR_DAY: Final = date(_ANCHOR_YEAR, 1, 1).toordinal() - _EPOCH
#: The longest name of tzdata has 32 characters; what is much longer is no misspelling of one, and neither is `CEST`.
_MIN_HINTED_CHARACTERS: Final = 5
_MAX_HINTED_CHARACTERS: Final = 40
_MAX_LENGTH_GAP: Final = 2


class ZoneError(PolicyError):
    """A text names no time zone, or a zone's data is not as RFC 9636 demands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A span of seconds [start_s, end_s) in which local time is `offset_s` ahead of UTC throughout."""

    start_s: int
    end_s: int
    offset_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """A time zone: offset `_offsets_s[0]` until `_starts_s[0]`, and so on; after the last start, by `_rule`."""

    name: str
    _starts_s: tuple[int, ...] = field(compare=False, repr=False)
    _offsets_s: tuple[int, ...] = field(compare=False, repr=False)
    _rule: _YearlyRule | None = field(compare=False, repr=False)

    @property
    def changes_from_s(self) -> int:
        """The first second at which the offset is another one than ever before; 0 if it never changes."""
        return self._starts_s[0] if self._starts_s else 0

    @property
    def repeats_from_s(self) -> int:
        """The second from which on offsets repeat with the calendar, each after :data:`CYCLE_S`."""
        return self._starts_s[-1] if self._starts_s else 0

    def offset_s(self, at_s: int) -> int:
        """Give how far local time is ahead of UTC."""
        known = bisect_right(self._starts_s, at_s)
        offset_s = self._offsets_s[known]
        if self._rule is not None and known == len(self._starts_s):
            for change_s, next_offset_s in self._rule.changes(at_s):
                if change_s > at_s:
                    break
                offset_s = next_offset_s
        return offset_s

    def segments(self, from_s: int, until_s: int) -> Iterator[Segment]:
        """Give the segments that [from_s, until_s) consists of, in order and without a gap."""
        start_s, offset_s = from_s, self.offset_s(from_s)
        for change_s, next_offset_s in self._changes(from_s):
            if change_s >= until_s:
                break
            if next_offset_s == offset_s:  # what changes is only the name, or whether it is called summer time
                continue
            if change_s > start_s:
                yield Segment(start_s=start_s, end_s=change_s, offset_s=offset_s)
            start_s, offset_s = change_s, next_offset_s
        if until_s > start_s:
            yield Segment(start_s=start_s, end_s=until_s, offset_s=offset_s)

    def _changes(self, after_s: int) -> Iterator[tuple[int, int]]:
        """Give what comes later than `after_s`: when, and the offset from then on."""
        for index in range(bisect_right(self._starts_s, after_s), len(self._starts_s)):
            yield self._starts_s[index], self._offsets_s[index + 1]
        if self._rule is not None:
            last_s = max(after_s, self.repeats_from_s)
            for change_s, offset_s in self._rule.changes(last_s):
                if change_s > last_s:
                    yield change_s, offset_s


_OFFSET_OF_UTC: Final = re.compile(r"(?:UTC|GMT)?[+-][0-9]{1,2}(?::?[0-9]{2})?")


@cache
def zone_named(name: str) -> Zone:
    """Give the zone of an IANA name, such as `Europe/Berlin`; raises ZoneError. Reads each zone once."""
    if name not in zone_names():
        raise ZoneError(f"{quoted(name)} is no IANA time zone{_hint(name)}")
    return zone_from_tzif(name, zone_bytes(name))


def _hint(name: str) -> str:
    """Give the hint `; did you mean `x`?` where a zone's city is the same or nearly so; cheap, because bounded."""
    if _OFFSET_OF_UTC.fullmatch(name):
        return "; an offset is no zone: write a name such as `Europe/Berlin`, or `UTC`"
    area, _, city = name.strip().replace(" ", "_").lower().rpartition("/")
    by_city = _names_by_city()
    if city not in by_city and _MIN_HINTED_CHARACTERS <= len(name) <= _MAX_HINTED_CHARACTERS:
        # Most misspellings keep the first letter; and not all of 600 names are compared for each of many faults.
        alike = [each for each in by_city if each[:1] == city[:1] and abs(len(each) - len(city)) <= _MAX_LENGTH_GAP]
        city = next(iter(get_close_matches(city, alike, n=1, cutoff=0.75)), city)
    meant = sorted(by_city.get(city, ()), key=lambda each: each.lower().rpartition("/")[0] != area)
    return f"; did you mean `{meant[0]}`?" if meant else "; write a name such as `Europe/Berlin`"


@cache
def _names_by_city() -> dict[str, tuple[str, ...]]:
    """Give the zones' names by what stands last in them, in lower case."""
    found: dict[str, tuple[str, ...]] = {}
    for name in sorted(zone_names()):
        city = name.rpartition("/")[2].lower()
        found[city] = (*found.get(city, ()), name)
    return found


# --- TZif ----------------------------------------------------------------------------------------------------------

# RFC 9636 3.1: magic, version, 15 bytes unused, and six counts.
_HEADER: Final = struct.Struct(">4sc15x6l")
_TYPE: Final = struct.Struct(">lBB")
_TIME_BYTES: Final = 8
#: The first block has times of four bytes and is there for readers that know no other.
_OLD_TIME_BYTES: Final = 4


def zone_from_tzif(name: str, data: bytes) -> Zone:
    """Read a zone from its TZif data, version 2 or later; raises ZoneError."""
    try:
        return _zone(name, data)
    except (struct.error, ValueError, IndexError) as error:
        raise ZoneError(f"the data of the time zone {quoted(name)} cannot be read") from error


def _zone(name: str, data: bytes) -> Zone:
    _, end = _block(data, 0, _OLD_TIME_BYTES)
    (times, types, utc_offsets), end = _block(data, end, _TIME_BYTES)
    # RFC 9636 3.3: the footer is one line between two line breaks; it may be empty.
    footer = data[end:].decode("ascii")
    if not footer.startswith("\n") or not footer.endswith("\n"):
        raise ValueError(footer)
    rule = _rule(footer[1:-1])
    if rule is not None and not times:
        # The rule holds for ever. From year 1 on is enough: no year before it can be written.
        times, types = (_seconds(1, 1, 1),), (0,)
    return Zone(
        name=name,
        _starts_s=times,
        # RFC 9636 3.2: before the first transition, local time is of type 0.
        _offsets_s=(utc_offsets[0], *(utc_offsets[each] for each in types)),
        _rule=rule,
    )


_Block: TypeAlias = "tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]"


def _block(data: bytes, start: int, time_bytes: int) -> tuple[_Block, int]:
    """Read header and block: transition times, their types, and the types' offsets; and where the block ends."""
    magic, version, is_utc, is_std, leaps, times, types, characters = _HEADER.unpack_from(data, start)
    if magic != b"TZif" or version < b"2" or leaps:  # POSIX time has no leap seconds, and neither have windows
        raise ValueError(version)
    at = start + _HEADER.size
    starts_s = struct.unpack_from(f">{times}{'q' if time_bytes == _TIME_BYTES else 'l'}", data, at)
    at += times * time_bytes
    kinds = struct.unpack_from(f">{times}B", data, at)
    at += times
    offsets_s = tuple(_TYPE.unpack_from(data, at + index * _TYPE.size)[0] for index in range(types))
    at += types * _TYPE.size + characters + leaps * (time_bytes + 4) + is_std + is_utc
    return (starts_s, kinds, offsets_s), at


# --- the footer: what holds after the last transition --------------------------------------------------------------

_NAME: Final = r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)"
_OFFSET: Final = r"[+-]?[0-9]{1,3}(?::[0-9]{2}){0,2}"
_DATE: Final = rf"(?:M[0-9]{{1,2}}\.[1-5]\.[0-6]|J[0-9]{{1,3}}|[0-9]{{1,3}})(?:/{_OFFSET})?"
_FOOTER: Final = re.compile(rf"{_NAME}({_OFFSET})(?:{_NAME}({_OFFSET})?,({_DATE}),({_DATE}))?")
_HOUR_S: Final = 3600
_DEFAULT_TIME: Final = "2:00:00"
_LEAP_DAY: Final = 60  # 1 March in a leap year, counted from 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _YearDate:
    """A day of every year, and `time_s`, the wall-clock time on it in seconds after midnight (or before)."""

    form: str
    numbers: tuple[int, ...]
    time_s: int

    def seconds(self, year: int) -> int:
        """Give the local time in seconds since the epoch's local midnight."""
        match self.form:
            case "M":  # month, week (5 is the last one), day of the week from Sunday
                month, week, weekday = self.numbers
                first = _seconds(year, month, 1) // DAY_S
                next_month = _seconds(year + month // 12, month % 12 + 1, 1) // DAY_S
                day = first + (weekday - (first + 4)) % 7 + (week - 1) * 7  # the epoch was a Thursday
                while day >= next_month:
                    day -= 7
            case "J":  # 1 to 365, where 29 February is never counted
                (number,) = self.numbers
                leap = _seconds(year, 3, 1) - _seconds(year, 1, 1) == _LEAP_DAY * DAY_S
                day = _seconds(year, 1, 1) // DAY_S + number - 1 + (leap and number >= _LEAP_DAY)
            case _:  # 0 to 365, where it is
                (number,) = self.numbers
                day = _seconds(year, 1, 1) // DAY_S + number
        return day * DAY_S + self.time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _YearlyRule:
    """Summer time, every year alike."""

    standard_s: int
    summer_s: int
    begins: _YearDate
    ends: _YearDate

    def changes(self, around_s: int) -> Iterator[tuple[int, int]]:
        """Give the changes without end, when and to which offset; the first lies before `around_s`."""
        # A change stands at most eight days outside its year (RFC 9636 3.3.1: hours from -167 to 167).
        for year in count(_year(around_s) - 2):
            begins = self.begins.seconds(year) - self.standard_s, self.summer_s
            ends = self.ends.seconds(year) - self.summer_s, self.standard_s
            yield from (begins, ends) if begins[0] < ends[0] else (ends, begins)


def _rule(footer: str) -> _YearlyRule | None:
    """Read the footer; None where local time does not change any more."""
    if not footer:
        return None
    found = _FOOTER.fullmatch(footer)
    if found is None:
        raise ValueError(footer)
    standard, summer, begins, ends = found.groups()
    if begins is None:
        return None
    # POSIX writes what is to be added to local time; and summer time is an hour more where nothing is said.
    standard_s = -_clock_s(standard)
    summer_s = standard_s + _HOUR_S if summer is None else -_clock_s(summer)
    return _YearlyRule(standard_s=standard_s, summer_s=summer_s, begins=_year_date(begins), ends=_year_date(ends))


def _year_date(text: str) -> _YearDate:
    day, _, time = text.partition("/")
    form = day[0] if day[0].isalpha() else ""
    numbers = tuple(int(number) for number in day.removeprefix(form).split("."))
    return _YearDate(form=form, numbers=numbers, time_s=_clock_s(time or _DEFAULT_TIME))


def _clock_s(text: str) -> int:
    hours, minutes, seconds = (*(int(part) for part in text.lstrip("+-").split(":")), 0, 0)[:3]
    return (hours * _HOUR_S + minutes * 60 + seconds) * (-1 if text.startswith("-") else 1)


# --- the calendar, without a first or a last year --------------------------------------------------------------------


def _seconds(year: int, month: int, day: int) -> int:
    """Give the seconds from the epoch to a date's midnight."""
    cycle, rest = divmod(year - _ANCHOR_YEAR, _CYCLE_YEARS)
    return (date(_ANCHOR_YEAR + rest, month, day).toordinal() - _EPOCH) * DAY_S + cycle * CYCLE_S


def _year(at_s: int) -> int:
    """Give the year of an instant in UTC."""
    cycle, rest_s = divmod(at_s - _ANCHOR_DAY * DAY_S, CYCLE_S)
    return date.fromordinal(_EPOCH + _ANCHOR_DAY + rest_s // DAY_S).year + cycle * _CYCLE_YEARS
