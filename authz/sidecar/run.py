"""One sidecar from start to stop, by either transport."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from authz.sidecar.errors import SidecarError
from authz.sidecar.settings import CheckTransport

if TYPE_CHECKING:
    from authz.sidecar.settings import SidecarSettings


def run(settings: SidecarSettings, *, transport: CheckTransport) -> None:
    """Run a sidecar until SIGTERM or SIGINT; raises SidecarError where it cannot start."""
    prepare(settings)
    match transport:
        case CheckTransport.NATIVE:
            from authz.sidecar.supervisor import supervise  # noqa: PLC0415 each transport is read where it is used

            supervise(settings)
        case CheckTransport.GRPCIO:
            from authz.sidecar.single_process import run_single_process  # noqa: PLC0415 same

            run_single_process(settings)


def prepare(settings: SidecarSettings) -> None:
    """Make the state folder, and raise SidecarError where there are no policies to begin with."""
    if settings.state is not None:
        try:
            settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SidecarError(f"{settings.state}: the state folder cannot be made: {error.strerror}") from error
    if not Path(settings.policies).is_dir():
        from authz.sidecar.control import last_good  # noqa: PLC0415 what reads policies is large, and rarely needed here

        if settings.state is None or last_good.kept(settings.state) is None:
            raise SidecarError(f"{settings.policies}: there is no such policy folder")
