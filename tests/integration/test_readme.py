"""The README is run as written: every command, every policy, every link."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from authz.policy.document import SourceFile
from authz.policy.policy_set import parse_policy_set

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("envoy/*.md")])

#: in expected output: any text within a line, or, alone on a line, any lines
ELLIPSIS = "…"


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)


GUIDE = blocks("console", (ROOT / "docs/windows.md").read_text())


def steps(block: str) -> list[tuple[str, str]]:
    """Give each `$ command` with the output that stands under it."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def fits(expected: str, shown: str) -> bool:
    pattern = ""
    for line in expected.splitlines():
        pattern += "(?:.*\n)*?" if line == ELLIPSIS else ".*".join(map(re.escape, line.split(ELLIPSIS))) + "\n"
    return re.fullmatch(pattern, shown) is not None


def on_a_terminal(command: str, folder: Path, environment: dict[str, str]) -> str:
    """Give what a command prints for a person who looks at it."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["/bin/sh", "-c", command], cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ):
        os.close(theirs)
        shown = b""
        # Linux answers EIO where the last process has let go of a terminal.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                shown += part
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with what the README's commands are run on."""
    shutil.copytree(ROOT / "policies", tmp_path / "policies")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "policy.yaml").write_text(
        "apiVersion: authz/v1\nkind: Mesh\nmetadata: {name: shop}\nspec:\n  trustDomain: [shop.example]\n"
    )
    return tmp_path


@pytest.mark.envoy
@pytest.mark.parametrize("block", [*blocks("console"), *GUIDE], ids=lambda block: block.splitlines()[0][:60])
def test_every_command_prints_what_the_readme_and_the_guide_say(block: str, folder: Path) -> None:
    environment = {
        **os.environ,
        "NO_COLOR": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    try:
        for command, expected in steps(block):
            shown = on_a_terminal(command, folder, environment)
            assert fits(expected, shown), f"$ {command}\n{shown}"
    finally:
        if "mesh up" in block:
            subprocess.run([sys.executable, "-m", "authz", "mesh", "down"], cwd=folder, check=True, timeout=120)


def test_the_policy_that_is_explained_is_the_one_in_the_folder() -> None:
    quoted = [block for block in blocks("yaml") if block.startswith("# policies/")]
    assert quoted
    for block in quoted:
        name, _, text = block.partition("\n")
        assert lines_that_matter(text)
        documents = [lines_that_matter(each) for each in (ROOT / name.removeprefix("# ")).read_text().split("\n---\n")]
        for document in text.split("\n---\n"):
            assert lines_that_matter(document) in documents


def lines_that_matter(text: str) -> list[str]:
    without_comments = (re.sub(r"(^|\s)#.*", "", line).rstrip() for line in text.splitlines())
    return [re.sub(r" +", " ", line) for line in without_comments if line]


def test_the_shell_block_names_flags_that_exist() -> None:
    for block in blocks("sh"):
        words = block.split()
        command = words[1]
        told = subprocess.run(
            [sys.executable, "-m", "authz", command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for flag in re.findall(r"--[a-z-]+", block):
            assert flag in told


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for named in re.findall(r"(?:`|^ {4})make ([a-z0-9-]+)\b", document.read_text(), re.MULTILINE):
            assert named in targets, f"{document}: make {named}"


def test_the_sets_of_the_language_guide_load() -> None:
    guide = (ROOT / "docs/policy-language.md").read_text()
    sets = [
        each for each in re.findall(r"^```yaml\n(.*?)^```", guide, re.MULTILINE | re.DOTALL) if "kind: Mesh\n" in each
    ]
    assert sets
    for each in sets:
        parse_policy_set([SourceFile(path="guide.yaml", content=each.encode())])


def test_every_test_that_the_threat_model_names_exists() -> None:
    text = (ROOT / "docs/threat-model.md").read_text()
    named = re.findall(r"`((?:[\w/]+/)?test_\w+\.py)(?:::(test_\w+))?`", text)
    assert named
    for file, test in named:
        (path,) = [path for path in ROOT.glob("tests/**/*.py") if str(path).endswith("/" + file)]
        assert not test or f"def {test}(" in path.read_text(), f"{file}::{test}"


def test_every_claim_of_the_threat_model_names_the_test_that_shows_it() -> None:
    text = (ROOT / "docs/threat-model.md").read_text()
    claims = re.findall(r"^\*\*(.+?)\.\*\*(.*?)\n\n", text[: text.index("## Limits")], re.MULTILINE | re.DOTALL)
    assert claims
    assert [
        claim for claim, shown in claims if not re.search(r"`(?:[\w/]+/)?test_\w+\.py(?:::test_\w+)?`", shown)
    ] == []
