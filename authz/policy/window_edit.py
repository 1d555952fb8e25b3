"""Moving the end of a window where it is written: one value of a file's text is replaced, and nothing else.

A window that had no end gets one: in a line of its own behind `window:`, or as the first entry within the braces.

The place comes from `document_reader`, which knows where each value begins; where it ends follows from how it is
written: a plain one has its own text, a quoted one ends with its quote. Whether the set is a good one with the new date
is not decided here: whoever writes it down reads the whole set again before.

# INVARIANT (one value): every byte of the file but those of an old date stays; read again, the file says what it said,
# but for that date. An edit that cannot be proven to do so is refused with a WindowEditError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from authz.instant import rfc3339_from_ns
from authz.policy.document import Document, Node, SourceFile
from authz.policy.document_reader import read_documents
from authz.policy.errors import PolicyError, printable, quoted
from authz.policy.window import InstantError, parse_instant_ns

if TYPE_CHECKING:
    from authz.policy.schema import Kind

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
#: what YAML takes for the end of a line; the others are faults of a policy file
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_WINDOW: Final = ("spec", "window")
#: What has to be escaped within these quotes ends nothing: a doubled quote, or what follows a backslash.
_QUOTED: Final = {
    '"': re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL),
    "'": re.compile(r"'(?:[^']|'')*'"),
}


class WindowEditError(PolicyError):
    """The end of a window cannot be moved; says why, and what to do instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowEdit:
    """A new end of a window: the file's new bytes, and where the date stands (from 1, in characters).

    `old` and `new` are the dates as they are written, without quotes; `old` is None where the window had no end.
    """

    file: SourceFile
    line: int
    column: int
    old: str | None
    new: str


def closed_at(file: SourceFile, kind: Kind, name: str, closes: str) -> WindowEdit:
    """Give the file with another `closes` of the window of a document; raises WindowEditError.

    `closes` is RFC 3339 with an offset, and stands in the file as it is given.
    """
    try:
        parse_instant_ns(closes)
    except InstantError as error:
        raise WindowEditError(str(error)) from error
    read = read_documents(file)
    if read.faults:
        raise WindowEditError(str(read.faults[0]))
    document = _document(read.documents, kind, name)
    if document is None:
        raise WindowEditError(f"{printable(file.path)}: there is no {kind} {quoted(name)}")
    mark = _BYTE_ORDER_MARK if file.content.startswith(_BYTE_ORDER_MARK) else b""
    text = file.content.removeprefix(_BYTE_ORDER_MARK).decode("utf-8")
    node = document.find(*_WINDOW, "closes")
    if node is None:
        start, end, old = _first_place(text, document, name), None, None
        before, after = _around(text, document.node(*_WINDOW))
    elif isinstance(node.value, str):
        start, old = _offset(text, node.line, node.column), node.value
        end = _end(text, start, node.value)
        if end is None:
            message = "the date is not written on one line, plain or in quotes; write it so"
            raise WindowEditError(f"{printable(file.path)}:{node.line}:{node.column}: {message}")
        before = after = text[start] if text[start] in _QUOTED else ""
    else:
        raise WindowEditError(f"{printable(file.path)}:{node.line}:{node.column}: `closes` is no date")
    new = f"{text[:start]}{before}{closes}{after}{text[start if end is None else end :]}"
    edited = SourceFile(path=file.path, content=mark + new.encode())
    moved = _require_one_value(file, edited, kind, name, closes)
    return WindowEdit(file=edited, line=moved.line, column=moved.column, old=old, new=closes)


def _first_place(text: str, document: Document, name: str) -> int:
    """Give the offset at which a window without an end gets one; raises WindowEditError where there is no window."""
    window = document.find(*_WINDOW)
    if window is None or not window.children:
        place = document.node("spec")
        raise WindowEditError(
            f"{printable(document.path)}:{place.key_line}:{place.key_column}: {quoted(name)} has no window; "
            f"give its spec one: `window: {{closes: TIME}}`"
        )
    if _is_flow(text, window):
        first = min(window.children.values(), key=lambda child: (child.key_line, child.key_column))
        return _offset(text, first.key_line, first.key_column)
    # Behind the line of `window:`, so that every comment stays above what it is about.
    return _offset(text, window.key_line + 1, 1)


def _around(text: str, window: Node) -> tuple[str, str]:
    """Give what is to stand before and behind a date that is written where there was none."""
    if _is_flow(text, window):
        return "closes: ", ", "
    found = _LINE_END.search(text)
    return f"{' ' * (window.column - 1)}closes: ", "\n" if found is None else found.group()


def _is_flow(text: str, window: Node) -> bool:
    start = _offset(text, window.line, window.column)
    return text.startswith("{", start)


def _document(documents: tuple[Document, ...], kind: Kind, name: str) -> Document | None:
    return next(
        (each for each in documents if each.text("kind") == kind and each.text("metadata", "name") == name), None
    )


def _offset(text: str, line: int, column: int) -> int:
    """Give the offset of a place, counted from 1 in lines and characters."""
    start = 0
    for _ in range(line - 1):
        found = _LINE_END.search(text, start)
        if found is None:
            return len(text)
        start = found.end()
    return start + column - 1


def _end(text: str, start: int, value: str) -> int | None:
    """Give the offset behind a value; None where it is written in a way that has no certain end."""
    pattern = _QUOTED.get(text[start : start + 1])
    if pattern is not None:
        found = pattern.match(text, start)
        return None if found is None else found.end()
    return start + len(value) if text.startswith(value, start) else None


def _require_one_value(before: SourceFile, after: SourceFile, kind: Kind, name: str, closes: str) -> Node:
    """Give the date's new place; raises WindowEditError if anything else has changed."""
    # INVARIANT (one value): what is given was read again.
    read = read_documents(after)
    old, new = read_documents(before).documents, read.documents
    if not read.faults and len(old) == len(new):
        changed = _document(old, kind, name)
        expected: list[Any] = [
            _with_end(each.root.value, closes) if each is changed else each.root.value for each in old
        ]
        moved = _document(new, kind, name)
        if moved is not None and expected == [each.root.value for each in new]:
            return moved.node(*_WINDOW, "closes")
    message = "the date cannot be moved without a risk to what else the file says; move it by hand"
    raise WindowEditError(f"{printable(before.path)}: {message}")


def _with_end(root: Any, closes: str) -> Any:
    spec = root["spec"]
    return {**root, "spec": {**spec, "window": {**spec["window"], "closes": closes}}}


def written_instant(instant_ns: int) -> str:
    """Write an instant as policies do: RFC 3339 in UTC, without the milliseconds where there are none."""
    return rfc3339_from_ns(instant_ns).replace(".000Z", "Z")
