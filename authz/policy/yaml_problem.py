"""What a YAML parser stumbled over, in the words of who wrote the file: where it is, and what to write instead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from authz.policy.errors import quoted

if TYPE_CHECKING:
    import yaml

#: The marks that git leaves in a file; nothing else in a policy begins a line with them.
_CONFLICT: Final = re.compile(r"^<{7} .*$", re.MULTILINE)
_QUOTES: Final = 'a text with `{`, `}`, `[`, `]`, `,` or `: ` in it is written in quotes, such as "/items/{id}"'
#: (what the parser did not find or found, within what) -> what to do
_REMEDIES: Final = {
    "found character '\\t' that cannot start any token": "a tab; indent with spaces",
    "found a tab character where an indentation space is expected": "a tab; indent with spaces",
    "found a tab character that violates indentation": "a tab; indent with spaces",
    "did not find expected ',' or ']'": f"the list `[...]` does not go on here; close it, or: {_QUOTES}",
    "did not find expected ',' or '}'": f"the mapping `{{...}}` does not go on here; close it, or: {_QUOTES}",
    "did not find expected node content": "a value is missing here, or a `[` or `{` before it is not closed",
    "did not find expected '-' indicator": "the list does not go on here; indent each `- ` as the first one",
    "mapping values are not allowed in this context": (
        "`: ` is not expected here; indent the line as the fields beside it, or write a text with `: ` in it in quotes"
    ),
    "block sequence entries are not allowed in this context": "`- ` is not expected here; begin the list on a new line",
    "found unknown escape character": "in \"...\" a backslash is written `\\\\`; in '...' it stands for itself",
    "found undefined tag handle": "a text that begins with `!` is written in quotes",
}
# What begins further up than it is noticed: the parser's other mark is the place to mend.
_REMEDIES_WHERE_IT_BEGINS: Final = {
    "could not find expected ':'": "this line is no `key: value`; write a `:` and a space behind the key",
    "found unexpected end of stream": "this quote is not closed",
    "found unexpected document indicator": "this quote is not closed",
}
_STARTS: Final = {
    "*": "a text that begins with `*` is written in quotes",
    "&": "a text that begins with `&` is written in quotes",
}


def conflict_marker(text: str) -> int | None:
    """Give where a merge that nobody has finished left its first mark; None if there is none."""
    found = _CONFLICT.search(text)
    return None if found is None else found.start()


def yaml_problem(error: yaml.MarkedYAMLError, text: str) -> tuple[int, int, str]:
    """Give line and column, from 1, of what is no YAML, and what is wrong with it."""
    problem, context = error.problem or "", error.context or ""
    begins = _REMEDIES_WHERE_IT_BEGINS.get(problem)
    mark = (error.context_mark if begins else None) or error.problem_mark or error.context_mark
    if mark is None:
        return 1, 1, "not YAML: it cannot be read"
    here = text[mark.index : mark.index + 1]
    line = text[text.rfind("\n", 0, mark.index) + 1 :].partition("\n")[0]
    if "{{" in line or "{%" in line:
        told = "a template, `{{ ... }}`, is to be rendered first"
    elif "${" in line:
        told = "`${...}` is not replaced here; write the value"
    elif "cannot start any token" in problem and here != "\t":
        told = f"no text begins with {quoted(here)}; write it in quotes"
    elif "cannot start any token" in problem:
        told = "a tab; indent with spaces"
    elif "alphabetic or numeric character" in problem:
        told = _STARTS["*" if "alias" in context else "&"]
    elif problem == "did not find expected key" and here in {"]", "}"}:
        told = f"`{here}` closes nothing; leave it out"
    elif problem == "did not find expected key" and "block mapping" in context:
        told = "this line is indented otherwise than the fields beside it; indent them alike"
    else:
        told = begins or _REMEDIES.get(problem) or _in_its_own_words(problem, context)
    return mark.line + 1, mark.column + 1, f"not YAML: {told}"


def _in_its_own_words(problem: str, context: str) -> str:
    words = " ".join(part for part in (problem, context) if part)
    return quoted(words)[1:-1].lower() or "it cannot be read"
