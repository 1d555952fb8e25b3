"""Lets Schemathesis look for faults of a running hub's API: `make test-api`.

What it generates is checked against the OpenAPI document: status codes, forms of answers, content types, what must be
refused and what must not.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.hub.traffic import Traffic
from tests.support.hub_process import Hub, batch as made_batch, flow, record

ROOT = Path(__file__).parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=100, help="generated cases of each operation")
    given = parser.parse_args()
    with Hub("--policies", str(ROOT / "policies")) as hub:
        for batch in Traffic(services=5, decisions=2000, days=0.5, until_s=int(time.time())).batches():
            status, answer = hub.send(batch)
            if status != 200:
                raise SystemExit(answer["error"])
        status = hub.answer("/status")
        example = record(1, decision_id="0123456789abcdef0123456789abcdef", revision=status["policies"]["revision"])
        hub.send(made_batch(1, [flow()], [example]))
        # A stream of events has no end, and so no answer that could be checked.
        command = [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{hub.url}/api/v1/openapi.json", "--no-color"),
            *("--checks", "all", "--max-examples", str(given.examples), "--exclude-operation-id", "stream"),
            *("--phases", "examples,coverage,fuzzing", "--request-timeout", "60", "--seed", "8"),
            *("--rate-limit", "45/s"),
            *("--exclude-checks", "unsupported_method"),
        ]
        path = os.pathsep.join((str(ROOT), *filter(None, (os.environ.get("PYTHONPATH"),))))
        hooks = {**os.environ, "PYTHONPATH": path, "SCHEMATHESIS_HOOKS": "tests.tools.api_hooks"}
        return subprocess.run(command, cwd=hub.folder, env=hooks, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
