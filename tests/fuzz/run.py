"""Fuzzes the targets one after the other with atheris, guided by what of `authz` each input reaches.

    make fuzz SECONDS=60              # each target for so long
    make fuzz SECONDS=600 TARGETS="path host"

What is reached is kept in .cache/fuzz/corpus and taken up again by the next run; an input that breaks its target's
law is written to .cache/fuzz/found. Put it, with a name that says what it is, into tests/fuzz/corpus/TARGET.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SEEDS = Path(__file__).with_name("corpus")
KEPT = ROOT / ".cache/fuzz/corpus"
FOUND = ROOT / ".cache/fuzz/found"
WORDS = Path(__file__).with_name("words.dict")
#: one input takes milliseconds; what takes so long hangs
TIMEOUT_S = 10
MEMORY_MB = 2048
MAX_INPUT_BYTES = 4096


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="which targets (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        fuzz(arguments.targets[0], arguments.seconds)
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415 atheris must see the first import

    unknown = set(arguments.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    failed = [name for name in arguments.targets or TARGETS if not ran_clean(name, arguments.seconds)]
    for name in failed:
        print(f"fuzz: {name}: an input breaks the law; see above, and {FOUND / name}*")
    return 1 if failed else 0


def ran_clean(name: str, seconds: int) -> bool:
    print(f"fuzz: {name} for {seconds} s", flush=True)
    command = [sys.executable, "-m", "tests.fuzz.run", "--one", "--seconds", str(seconds), name]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target; ends the process."""
    import atheris  # noqa: PLC0415 no part of the installation

    with atheris.instrument_imports(include=["authz"]):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415 instrumented while it is imported

    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    FOUND.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={TIMEOUT_S}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-dict={WORDS}",
        f"-artifact_prefix={FOUND / name}-",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([name, *options, str(kept), str(SEEDS / name)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
