"""How large a regular expression is that a condition matches with: RE2 takes time for each of its parts.

https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

import re
from typing import Final

_COUNTED: Final = re.compile(r"\{(\d{1,6})(?:,(\d{0,6}))?\}")
_PART: Final = re.compile(
    r"\{\d{1,6}(?:,\d{0,6})?\}|\\[pP]\{[^}]*\}|\\[pP].|\\.|\[\]?(?:\\[pP]\{[^}]*\}|\\.|[^\]\\])*\]", re.DOTALL
)
_LARGE_CLASS: Final = re.compile(r"\\[pPWDS]|\[\^")
_LARGE_CLASS_PARTS: Final = 16


def pattern_parts(pattern: str) -> int:
    """Give about how many instructions a pattern compiles to: a bound, with counted repetitions written out.

    A pattern that RE2 refuses is refused elsewhere.
    """
    totals = [0]  # one for each open group
    last = 0  # the size of what a quantifier would repeat
    at = 0
    while at < len(pattern):
        found = _PART.match(pattern, at)
        part = found.group() if found else pattern[at]
        at += len(part)
        counted = _COUNTED.fullmatch(part)
        if part == "(":
            totals.append(0)
            last = 0
        elif part == ")" and len(totals) > 1:
            last = totals.pop() + 1
            totals[-1] += last
        elif counted is not None:
            times = max(1, int(counted[2] or counted[1] or 1))
            totals[-1] += last * (times - 1)
            last *= times
        else:
            last = _LARGE_CLASS_PARTS * len(_LARGE_CLASS.findall(part)) or 1
            totals[-1] += last
    return sum(totals)
