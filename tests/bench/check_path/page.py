"""The page that measurements stand in: each part between two markers of its own.

A run replaces what an earlier one wrote there, and nothing else.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from authz.mesh.envoy_binary import envoy_binary
from tests.bench.check_path.variants import OPA_ENVOY

PAGE = Path("docs/performance.md")
CHART = Path("docs/images/check-path.svg")


def machine() -> str:
    """Say what this is measured on."""
    envoy = subprocess.run([envoy_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    parts = [processor(), f"{os.cpu_count()} cores", f"Linux {platform.release()}"]
    parts += [f"Python {platform.python_version()}", f"Envoy {envoy.strip().split('/')[-4]}"]
    if OPA_ENVOY in os.environ:
        told = subprocess.run([os.environ[OPA_ENVOY], "version"], capture_output=True, text=True, check=False).stdout
        parts.append(f"OPA {told.partition('Version: ')[2].partition(chr(10))[0] or 'of no known version'}")
    return ", ".join(parts)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def replaced(page: str, name: str, body: str) -> str:
    """Put a part between its two markers; raises ValueError where the page lacks one of them."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"the page has no `{begin}` with an `{end}` behind it: put them where this part belongs")
    return f"{before}{begin}\n{body.strip()}\n{end}{after}"


def write_part(name: str, body: str) -> None:
    """Write one part into the page."""
    PAGE.write_text(replaced(PAGE.read_text("utf-8"), name, body), "utf-8")
    print(f"bench: written to {PAGE}")
