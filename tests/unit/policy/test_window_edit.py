"""The date of one window is replaced where it is written, and nothing else."""

from __future__ import annotations

import pytest

from authz.policy.document import SourceFile
from authz.policy.policy_set import parse_policy_set
from authz.policy.schema import Kind
from authz.policy.window_edit import WindowEditError, closed_at

MESH = "apiVersion: authz/v1\nkind: Mesh\nmetadata: {name: m}\nspec: {trustDomains: [shop.example]}\n"
NEW = "2026-11-23T13:00:00.123Z"
BLOCK = """\
# A comment before.
apiVersion: authz/v1
kind: ThirdParty
metadata: {name: acme, owner: "a b"}   # trailing
spec:
  hosts: [api.acme.example]
  # closes: 2001-01-01T00:00:00Z
  window:
    closes:   OLD   # the contract's end
    opens: 2026-01-01T00:00:00Z
"""
FLOW = (
    "apiVersion: authz/v1\nkind: ThirdParty\nmetadata: {name: acme}\n"
    "spec: {hosts: [api.acme.example], window: {opens: 2026-01-01T00:00:00Z,   closes: OLD}}\n"
)
RULE = """\
apiVersion: authz/v1
kind: MicroPolicy
metadata: {name: acme}
spec:
  from: [{thirdParties: [acme]}]
  to: [{thirdParties: [acme], operations: all}]
  window: {closes: 2027-01-01T00:00:00Z}
"""


def file(text: str) -> SourceFile:
    return SourceFile("set.yaml", text.encode())


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    "written",
    [
        "2027-03-01T00:00:00Z",
        '"2027-03-01T00:00:00Z"',
        "'2027-03-01T00:00:00Z'",
        '"2027-03-01\\x5400:00:00Z"',
        "2027-03-01T00:00:00+01:00",
    ],
)
@pytest.mark.parametrize("text", [BLOCK, FLOW], ids=["block", "flow"])
def test_only_the_date_changes_however_it_is_written(text: str, written: str, mark: str, end: str) -> None:
    whole = mark + "---\n".join(["# ü, é and \U0001f600\n" + MESH, text, RULE]).replace("\n", end)
    before = file(whole.replace("OLD", written))
    parse_policy_set([before])
    edit = closed_at(before, Kind.THIRD_PARTY, "acme", NEW)
    quote = written[0] if written[0] in "\"'" else ""
    assert edit.file.content.decode() == whole.replace("OLD", f"{quote}{NEW}{quote}")
    (changed,) = parse_policy_set([edit.file]).third_parties
    assert changed.window.closes_ns == 1_795_438_800_123_000_000
    lines = before.content.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert lines[edit.line - 1][edit.column - 1 :].startswith(written)


def test_a_rule_and_a_third_party_of_one_name_are_told_apart() -> None:
    whole = file("---\n".join([MESH, FLOW.replace("OLD", "2027-03-01T00:00:00Z"), RULE]))
    edit = closed_at(whole, Kind.MICRO_POLICY, "acme", NEW)
    assert edit.file.content == whole.content.replace(b"2027-01-01T00:00:00Z", NEW.encode())
    assert edit.old == "2027-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BLOCK.replace("OLD", "|-\n      2027-03-01T00:00:00Z"), "set.yaml:9:15: the date is not written on one line"),
        (
            BLOCK.replace("  window:\n", "  ? window\n  :\n").replace("    closes:   OLD   # the contract's end\n", ""),
            "set.yaml: the date cannot be moved without a risk",
        ),
        (BLOCK.replace("OLD", "[2027-03-01T00:00:00Z]"), "set.yaml:9:15: `closes` is no date"),
        (MESH, "there is no ThirdParty `acme`"),
        (BLOCK + "x: *y\n", "aliases are not allowed"),
    ],
)
def test_what_cannot_be_moved_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(WindowEditError) as refused:
        closed_at(file(text), Kind.THIRD_PARTY, "acme", NEW)
    assert message in str(refused.value)


def test_a_rule_without_a_window_is_refused_with_what_to_write() -> None:
    with pytest.raises(WindowEditError, match=r"set.yaml:4:1: `acme` has no window; .*`window: \{closes: TIME\}`"):
        closed_at(file(RULE.replace("  window: {closes: 2027-01-01T00:00:00Z}\n", "")), Kind.MICRO_POLICY, "acme", NEW)


HOURS = 'during: [{days: [mon], from: "08:00", until: "18:00", timezone: UTC}]'


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("before", "after", "place"),
    [
        (f"  window:  # when\n\n    # opens first\n    {HOURS}\n",
         f"  window:  # when\n    closes: {NEW}\n\n    # opens first\n    {HOURS}\n", (8, 13)),
        (f"  window:\n    {HOURS}", f"  window:\n    closes: {NEW}\n    {HOURS}", (8, 13)),
        (f"  window: {{ {HOURS} }}  # when\n", f"  window: {{ closes: {NEW}, {HOURS} }}  # when\n", (7, 21)),
        ('  "window": {"opens": "2026-01-01T00:00:00Z"}\n',
         f'  "window": {{closes: {NEW}, "opens": "2026-01-01T00:00:00Z"}}\n', (7, 22)),
    ],
)  # fmt: skip
def test_a_window_without_an_end_gets_one_and_every_comment_stays_where_it_is(
    before: str, after: str, place: tuple[int, int], end: str
) -> None:
    head = RULE.replace("  window: {closes: 2027-01-01T00:00:00Z}\n", "")
    edit = closed_at(file((head + before).replace("\n", end)), Kind.MICRO_POLICY, "acme", NEW)
    assert edit.file.content.decode() == (head + after).replace("\n", end)
    assert (edit.line, edit.column, edit.old, edit.new) == (*place, None, NEW)


@pytest.mark.parametrize("closes", ["", "now", "2026-11-23", "2026-11-23T13:00:00", "2026-11-23T13:00:00Z # x"])
def test_what_is_no_time_is_never_written(closes: str) -> None:
    with pytest.raises(WindowEditError):
        closed_at(file(FLOW.replace("OLD", "2027-03-01T00:00:00Z")), Kind.THIRD_PARTY, "acme", closes)
