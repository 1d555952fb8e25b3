"""The demo: a small shop on real Envoys, and what happens when one calls another, step by step on the screen.

`play` tells the story; what each step does stands in `scenes`. Each step says beforehand what must come out, and the
story's exit status is 0 only if every one did: it is a test that people can watch. The policies are copied first, so
that the edits the story makes touch nobody's files.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from authz.errors import AuthzError, UsageError
from authz.mesh.demo.scenes import SCENES, Outcome, Scene, prepare
from authz.mesh.demo.stage import Stage
from authz.mesh.running_mesh import Mesh

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

DEFAULT_POLICIES: Final = "policies"
_WIDTH: Final = 100


def play(*, keep_up: bool, state: str | None, policies: str = DEFAULT_POLICIES) -> int:
    """Play the story; gives 0 if every step came out as it says, else 1.

    With `keep_up` the mesh stays until Ctrl-C. Raises UsageError where the shop's policies are not there.
    """
    if not Path(policies).is_dir():
        raise UsageError(f"there is no policy folder `{policies}` here; run this from the project's folder")
    # Said aloud: a shell that starts a program in the background has it ignore Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    with tempfile.TemporaryDirectory(prefix="authz-demo-") as folder:
        copied = Path(folder, "policies")
        shutil.copytree(policies, copied)
        prepare(copied)
        # A mesh of its own beside any other one, unless the user names its place.
        place = state if state is not None else str(Path(folder, "state"))
        screen = _Screen(coloured=sys.stdout.isatty())
        screen.opening()
        with Mesh.start(str(copied), state=place, report=screen.progress) as mesh:
            outcomes = _play_scenes(Stage(mesh=mesh, policies=copied), screen)
            screen.summary(SCENES, outcomes)
            if keep_up:
                _stay_up(screen, place)
    return 0 if all(outcome.as_told for outcome in outcomes) else 1


def _play_scenes(stage: Stage, screen: _Screen) -> list[Outcome]:
    outcomes = []
    for number, scene in enumerate(SCENES, start=1):
        screen.scene(number, scene)
        stage.say = screen.line
        try:
            outcome = scene.play(stage)
        except AuthzError as error:
            outcome = Outcome(expected="no error", came=str(error))
        screen.outcome(outcome)
        outcomes.append(outcome)
    return outcomes


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _stay_up(screen: _Screen, place: str) -> None:
    try:
        screen.invitation(place)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("\nstopping the mesh")


class _Screen:
    """What the story looks like: colours on a terminal, plain text elsewhere."""

    def __init__(self, *, coloured: bool) -> None:
        self._coloured = coloured

    def opening(self) -> None:
        print(self._paint("1", "Picoseg: a small shop, every call authorized by identity, method, path and clock"))
        self._prose(
            "gateway (the edge), storefront, orders, catalog and payments, each behind a real Envoy with mTLS and an"
            " authz sidecar that is asked before every call leaves and before it enters; acme-analytics, a third party,"
            " calls in and is called until one date."
        )
        print()

    def progress(self, text: str) -> None:
        print(self._paint("2", f"  {text}"), flush=True)

    def scene(self, number: int, scene: Scene) -> None:
        print()
        print(self._paint("1", f"{number:2}. {scene.title}"))
        self._prose(scene.why)

    def line(self, text: str) -> None:
        print(f"      {text}", flush=True)

    def outcome(self, outcome: Outcome) -> None:
        if outcome.as_told:
            print("    " + self._paint("32", f"✓ {outcome.came}"), flush=True)
        else:
            print("    " + self._paint("31", f"✗ {outcome.came}, and not {outcome.expected}"), flush=True)

    def summary(self, scenes: Sequence[Scene], outcomes: Sequence[Outcome]) -> None:
        print()
        print(self._paint("1", "What happened"))
        width = max(len(scene.title) for scene in scenes)
        for number, (scene, outcome) in enumerate(zip(scenes, outcomes, strict=True), start=1):
            mark = self._paint("32", "✓") if outcome.as_told else self._paint("31", "✗")
            print(f"  {mark} {number:2}. {scene.title:<{width}}  {outcome.came}")
        good = sum(outcome.as_told for outcome in outcomes)
        print(f"\n  {good} of {len(outcomes)} steps came out as told")

    def invitation(self, state: str) -> None:
        print()
        print("The mesh stays up until Ctrl-C. In another terminal:")
        where = f"--state {state}"
        print(f"  .venv/bin/authz mesh status {where}")
        print(f"  .venv/bin/authz mesh call {where} --from storefront --to catalog --method GET --path /items/42")
        sys.stdout.flush()

    def _prose(self, text: str) -> None:
        for line in textwrap.wrap(text, _WIDTH - 4):
            print(f"    {line}")
        sys.stdout.flush()

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._coloured else text
