"""The vectors as every reader of them sees them: a set, and cases of calls with what is expected of the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

VECTORS = sorted(Path(__file__).with_name("vectors").glob("*.yaml"))


@dataclass(frozen=True)
class Case:
    name: str
    call: dict[str, Any]
    expect: dict[str, Any]

    @property
    def line(self) -> bytes:
        return json.dumps(self.call).encode()


def cases_of(vector: dict[str, Any]) -> Iterator[Case]:
    for case in vector.get("cases", ()):
        at = {"at": case.get("at", vector.get("at"))}
        yield Case(case["name"], {**vector["defaults"], **case["call"], **at}, case["expect"])
    for reason in ("allowed", "malformed"):
        for call in vector.get(reason, ()):
            words = {key: value for key, value in call.items() if key != "name"}
            yield Case(repr(words), {**vector["defaults"], **words, "at": vector["at"]}, {"reason": reason})
