"""One caller that calls again and again on a connection that it keeps, and remembers each answer and when it came."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tests.bench.check_path.wrk import Target

PATIENCE_S = 30.0
#: what a call is counted as that got no answer
NO_ANSWER = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    began_s: float
    ended_s: float
    status: int

    @property
    def took_ms(self) -> float:
        return (self.ended_s - self.began_s) * 1e3


class Probing:
    """Calls in a thread of its own while the context lasts; times are those of `time.monotonic`."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._probes: list[Probe] = []
        self._more = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="probing", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._thread.join(PATIENCE_S)

    def since(self, began_s: float) -> list[Probe]:
        """Give the calls that began after an instant and have ended."""
        with self._more:
            return [each for each in self._probes if each.began_s >= began_s]

    def until(self, status: int, *, since_s: float, within_s: float) -> Probe | None:
        """Wait for the first answer of this status to a call that began after an instant; None where none comes."""
        with self._more:
            self._more.wait_for(lambda: self._first(status, since_s) is not None, within_s)
            return self._first(status, since_s)

    def _first(self, status: int, since_s: float) -> Probe | None:
        # The last ones are looked at first: a long run has many before them.
        found = None
        for each in reversed(self._probes):
            if each.began_s < since_s:
                break
            if each.status == status:
                found = each
        return found

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._target.address, timeout=PATIENCE_S)
        while not self._stopped:
            began_s = time.monotonic()
            try:
                connection.request("GET", self._target.path, headers={"Host": self._target.host})
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                connection.close()
                status = NO_ANSWER
            with self._more:
                self._probes.append(Probe(began_s=began_s, ended_s=time.monotonic(), status=status))
                self._more.notify_all()
        connection.close()
