"""The one way to write a policy file: the same for everybody, comments kept, and the meaning never touched.

Two spaces for each level, lists indented below their key, one blank line at most, no spaces within braces, double
quotes where there were single ones, the fields of the envelope in the language's order. What was written in one line
(`{...}`, `[...]`) stays in one line as long as it fits into 120 columns. Nothing is quoted or unquoted that means
something else then, and lists are never sorted: their order may matter to the reader.

# INVARIANT (meaning): what is given was read again, and says what the original says, with all of its comments.
# INVARIANT (idempotent): what is given is formatted already.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from authz.policy.document import SourceFile
from authz.policy.document_reader import read_documents
from authz.policy.layout import LayoutError, read_layout
from authz.policy.schema import Metadata

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from authz.policy.document import Value
    from authz.policy.layout import Comment, Entry, Written, WrittenDocument

MAX_COLUMNS: Final = 120
_STEP: Final = 2
_ENVELOPE: Final = ("apiVersion", "kind", "metadata", "spec")


def formatted(file: SourceFile) -> bytes:
    """Give a file's content as it is to be written; raises LayoutError that says what keeps it from being formatted.

    The file's documents are YAML without faults of form; whether they are policies does not matter.
    """
    faults = read_documents(file).faults
    if faults:
        raise LayoutError(faults[0].line, faults[0].message)
    text = file.content.removeprefix(b"\xef\xbb\xbf").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    result = _written(text)
    before, after = _meaning(text), _meaning(result)
    if before != after or _comments(text) != _comments(result) or _written(result) != result:
        raise LayoutError(1, "its layout cannot be changed without a risk to what it says")
    return result.encode("utf-8")


def _meaning(text: str) -> tuple[Value, ...]:
    return tuple(each.root.value for each in read_documents(SourceFile("", text.encode("utf-8"))).documents)


def _comments(text: str) -> Counter[str]:
    counted: Counter[str] = Counter()
    for document in read_layout(text):
        counted.update(_all_comments(document.root))
    return counted


def _all_comments(node: Written) -> Iterator[str]:
    yield from node.trailing
    yield from (comment.text for comment in node.foot)
    for entry in node.entries:
        yield from (comment.text for comment in entry.head)
        if entry.key is not None:
            yield from entry.key.trailing
        yield from _all_comments(entry.value)


def _written(text: str) -> str:
    documents = read_layout(text)
    return "---\n".join(_document(document) for document in documents) if documents else text


def _document(document: WrittenDocument) -> str:
    root = document.root
    if root.is_mapping and not root.is_flow and root.entries:
        # What stands above a document is about all of it, whichever field comes first.
        first = root.entries[0]
        head, blank = first.head, first.after_blank
        first.head, first.after_blank = [], False
        _sort_fields(root)
        root.entries[0].head = [*head, *root.entries[0].head]
        root.entries[0].after_blank = blank
    page = _Page()
    page.collection(root, 0, "")
    return "\n".join(page.lines) + "\n"


def _sort_fields(root: Written) -> None:
    """Put the fields of the envelope and of the metadata into the order of the language; a spec keeps its author's."""
    _sort(root, _ENVELOPE)
    for entry in root.entries:
        if _key(entry) == "metadata":
            _sort(entry.value, [field.alias or name for name, field in Metadata.model_fields.items()])


def _sort(mapping: Written, order: Sequence[str]) -> None:
    if mapping.is_mapping:
        places = {name: number for number, name in enumerate(order)}
        mapping.entries.sort(key=lambda entry: places.get(_key(entry), len(places)))


def _key(entry: Entry) -> str:
    return "" if entry.key is None else entry.key.value


class _Page:
    """The lines of one document, as they are written."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def collection(self, node: Written, indent: int, start: str) -> None:
        """Write a mapping or list in block style; its first line begins with `start` where that is not empty."""
        for number, entry in enumerate(node.entries):
            self._head(entry, indent, inline=bool(start) and number == 0)
            begin = start if start and number == 0 else " " * indent
            if entry.key is None:
                self._item(entry, begin, indent)
            else:
                self._field(entry, begin, indent)
        self._comments(node.foot, indent)

    def _head(self, entry: Entry, indent: int, *, inline: bool) -> None:
        if not inline:
            self._comments(entry.head, indent)
            if entry.after_blank:
                self._blank()

    def _comments(self, comments: Iterable[Comment], indent: int) -> None:
        for comment in comments:
            if comment.after_blank:
                self._blank()
            self.lines.append(" " * indent + comment.text)

    def _blank(self) -> None:
        """Leave one line empty, but not at the beginning, and not right below a key."""
        if self.lines and self.lines[-1] and not self.lines[-1].partition(" #")[0].rstrip().endswith((":", "-")):
            self.lines.append("")

    def _field(self, entry: Entry, begin: str, indent: int) -> None:
        key, value = entry.key, entry.value
        name = f"{begin}{'' if key is None else key.text}:"
        about_key = [] if key is None else key.trailing
        line = self._in_line(value, len(name) + 1)
        if line is None:
            self._end_line(name, [*about_key, *value.trailing], indent)
            self.collection(value, indent + _STEP, "")
        else:
            # Between a key and its value there is no room for a comment in one line: it moves above.
            at = len(self.lines)
            self._value(name, value, line, indent)
            self.lines[at:at] = [" " * indent + comment for comment in about_key] if not begin.strip() else []
            if begin.strip() and about_key:
                self.lines[at] += "  " + " ".join(about_key)

    def _item(self, entry: Entry, begin: str, indent: int) -> None:
        value = entry.value
        line = self._in_line(value, len(begin) + _STEP)
        if line is not None:
            self._value(f"{begin}-", value, line, indent)
            return
        first = value.entries[0]
        # Between a dash and what it stands before there is no room: such comments move above.
        above = [*(comment.text for comment in first.head), *value.trailing]
        self.lines += [" " * indent + comment for comment in above]
        self.collection(value, indent + _STEP, f"{begin}- ")

    def _value(self, begin: str, value: Written, line: str, indent: int) -> None:
        self._end_line(f"{begin} {line}".rstrip(), value.trailing, indent)
        self.lines += [" " * (indent + _STEP) + each if each else "" for each in value.block[1:]]

    def _end_line(self, line: str, trailing: Sequence[str], indent: int) -> None:
        """Write a line with the comment that ends it; of several, the others stand above."""
        self.lines += [" " * indent + comment for comment in trailing[:-1]]
        self.lines.append(line + (f"  {trailing[-1]}" if trailing else ""))

    def _in_line(self, node: Written, column: int) -> str | None:
        """Give what can be written behind a key or a dash; None for what takes lines of its own."""
        if node.block:
            return node.block[0]
        if node.text is not None:
            return node.text
        if not node.entries and not node.foot:
            return "{}" if node.is_mapping else "[]"
        if not node.is_flow or node.has_comments:
            return None
        line = _flow(node)
        return line if column + len(line) <= MAX_COLUMNS else None


def _flow(node: Written) -> str:
    if node.text is not None:
        return node.text
    parts = []
    for entry in node.entries:
        value = _flow(entry.value)
        parts.append(value if entry.key is None else f"{entry.key.text}: {value}".rstrip())
    inside = ", ".join(parts)
    return f"{{{inside}}}" if node.is_mapping else f"[{inside}]"
