"""Settings of the whole test suite: in CI every run of the property tests is the same one."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# Whoever starts the tests in the background of a script has them ignore Ctrl-C, and so would every process that they
# start: what is tested is what happens at a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
