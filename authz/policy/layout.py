"""How a policy file is laid out: its documents as a tree of what was written, with every comment where it belongs.

Unlike `document`, which reads what a file means, this keeps how it is written: quotes, flow or block style, comments
and blank lines. What it cannot keep for sure it refuses, with a word (:class:`LayoutError`): then the file is not to be
written anew.

A comment belongs to the line that it ends; one on a line of its own to the entry that follows, or, where it is indented
deeper than that entry, to the end of the list or mapping before it.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml

from authz.policy.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: One comment up to its line's end, in text that has no scalar in it.
_COMMENT: Final = re.compile(r"(?:(?<=\s)|^)#[^\n]*", re.MULTILINE)
_DIRECTIVE: Final = re.compile(r"^%", re.MULTILINE)
#: The header of a block scalar that can be moved: `|` or `>`, and `-`.
_BLOCK_HEADER: Final = re.compile(r"[|>]-?")


class LayoutError(PolicyError):
    """A file has something that cannot be laid out anew without a risk; `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """A comment on a line of its own, with its `#`; `after_blank` where the line before it is empty."""

    text: str
    after_blank: bool


@dataclass(slots=True, kw_only=True)
class Written:
    """A value as it is written.

    A scalar has its `text` (lines, for a block scalar); a mapping or list has `entries`. `trailing` ends its last line,
    `foot` are the comments after its last entry.
    """

    offset: int
    column: int
    end: int = 0
    text: str | None = None
    block: tuple[str, ...] = ()
    value: str = ""
    is_mapping: bool = False
    is_flow: bool = False
    entries: list[Entry] = field(default_factory=list)
    trailing: list[str] = field(default_factory=list)
    foot: list[Comment] = field(default_factory=list)
    has_comments: bool = False


@dataclass(slots=True, kw_only=True)
class Entry:
    """An entry of a mapping (with its key) or of a list; `head` are the comments before it."""

    key: Written | None
    value: Written
    head: list[Comment] = field(default_factory=list)
    after_blank: bool = False

    @property
    def offset(self) -> int:
        """Where it begins, the dash of a list aside."""
        return self.value.offset if self.key is None else self.key.offset


@dataclass(slots=True, kw_only=True)
class WrittenDocument:
    """One document; `offset` is where its `---` stands, or 0."""

    offset: int
    root: Written


def read_layout(text: str) -> list[WrittenDocument]:
    """Read the documents of a text whose lines end in LF, and which is YAML; raises LayoutError."""
    reader = _Reader(text)
    documents = reader.documents()
    if not documents:
        return []
    ends = [document.offset for document in documents[1:]] + [len(text)]
    comments = deque(reader.comments())
    for document, end in zip(documents, ends, strict=True):
        placer = _Placer(reader, document.root)
        while comments and comments[0][0] < end:
            placer.place(*comments.popleft())
    return documents


class _Reader:
    """Builds the trees from the parser's events, and finds the comments between the scalars."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._scalars: list[tuple[int, int]] = []

    def line(self, offset: int) -> int:
        """Give the line, from 0, that an offset stands in."""
        low, high = 0, len(self._starts)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._starts[middle] <= offset else (low, middle)
        return low

    def column(self, offset: int) -> int:
        """Give the column, from 0, of an offset."""
        return offset - self._starts[self.line(offset)]

    def is_after_blank(self, offset: int) -> bool:
        """Whether the line before the one that an offset stands in has nothing in it."""
        line = self.line(offset)
        return line > 0 and not self.text[self._starts[line - 1] : self._starts[line]].strip()

    def comments(self) -> Iterator[tuple[int, str]]:
        """Give every comment with its offset."""
        position = 0
        for start, end in [*self._scalars, (len(self.text), len(self.text))]:
            gap = self.text[position:start]
            if _DIRECTIVE.search(gap):
                raise LayoutError(self.line(position) + 1, "a directive (`%`); leave it out")
            # The character before the gap decides whether its first `#` begins a comment.
            before = max(0, position - 1)
            for found in _COMMENT.finditer(self.text, before, start):
                if found.start() >= position:
                    yield found.start(), found.group().rstrip()
            position = max(position, end)

    def documents(self) -> list[WrittenDocument]:
        documents: list[WrittenDocument] = []
        stack: list[_Open] = []
        offset = 0
        for event in yaml.parse(self.text, Loader=yaml.CSafeLoader):
            start, end = self._offset(event.start_mark), self._offset(event.end_mark)
            if isinstance(event, yaml.DocumentStartEvent):
                offset = start if event.explicit else 0
            node = self._node(event, start, end, stack)
            if node is None:
                continue
            if stack:
                stack[-1].add(node)
            else:
                documents.append(WrittenDocument(offset=offset, root=node))
        return documents

    def _offset(self, mark: Any) -> int:
        if mark is None or mark.line >= len(self._starts):
            return len(self.text)
        offset: int = self._starts[mark.line] + mark.column
        return min(offset, len(self.text))

    def _node(self, event: yaml.Event, start: int, end: int, stack: list[_Open]) -> Written | None:
        """Take one event; gives a node when it is complete."""
        line = self.line(start) + 1
        if isinstance(event, yaml.AliasEvent):
            raise LayoutError(line, "an alias; write the value out")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and (event.anchor or event.tag):
            raise LayoutError(line, "an anchor or a tag; leave it out")
        match event:
            case yaml.ScalarEvent():
                self._scalars.append((start, end))
                return self._scalar(event, start, end)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                node = Written(
                    offset=start,
                    column=self.column(start),
                    is_mapping=isinstance(event, yaml.MappingStartEvent),
                    is_flow=bool(event.flow_style),
                )
                stack.append(_Open(node))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                closed = stack.pop().node
                # A block collection ends with its last entry, wherever the parser noticed it.
                last = closed.entries[-1].value.end if closed.entries else end
                closed.end = end if closed.is_flow else last
                return closed
            case _:
                pass
        return None

    def _scalar(self, event: yaml.ScalarEvent, start: int, end: int) -> Written:
        source = self.text[start:end]
        node = Written(offset=start, column=self.column(start), end=end, value=event.value)
        if event.style in {"|", ">"}:
            header, *lines = source.rstrip("\n").split("\n")
            if not _BLOCK_HEADER.fullmatch(header.rstrip()):
                raise LayoutError(
                    self.line(start) + 1, "a text in a block that is not headed `|`, `|-`, `>` or `>-`; do so"
                )
            indent = min((len(each) - len(each.lstrip(" ")) for each in lines if each.strip()), default=0)
            while lines and not lines[-1].strip():
                lines.pop()
            node.block = (header.rstrip(), *(each[indent:] if each.strip() else "" for each in lines))
            node.end = start + len(source.rstrip())
        else:
            node.text = self._line_of(source, event)
        return node

    def _line_of(self, source: str, event: yaml.ScalarEvent) -> str:
        """Give a scalar in one line: as it is written, in double quotes where that says the same."""
        value: str = event.value
        plain = value.isprintable() and '"' not in value and "\\" not in value
        if "\n" not in source:
            return f'"{value}"' if event.style == "'" and plain else source
        if not plain:
            mark = event.start_mark
            raise LayoutError(
                1 if mark is None else mark.line + 1,
                "a text in quotes over several lines; write it on one, or in a block (`>-`)",
            )
        return f'"{value}"'


class _Open:
    """A mapping or list whose end has not come yet."""

    __slots__ = ("_key", "node")

    def __init__(self, node: Written) -> None:
        self.node = node
        self._key: Written | None = None

    def add(self, node: Written) -> None:
        if self.node.is_mapping and self._key is None:
            self._key = node
            if node.text is None:
                raise LayoutError(1, "a key that is no text of one line; write it so")
            return
        self.node.entries.append(Entry(key=self._key, value=node))
        self._key = None


class _Placer:
    """Gives each comment of a document to what it is about."""

    def __init__(self, reader: _Reader, root: Written) -> None:
        self._reader = reader
        self._root = root
        #: what a comment can end the line of, by where it ends
        self._ends: list[tuple[int, Written]] = []
        #: every entry, by where it begins, with the collections around it from the root on
        self._entries: list[tuple[Entry, tuple[Written, ...]]] = []
        self._collect(root, ())

    def _collect(self, node: Written, around: tuple[Written, ...]) -> None:
        within = (*around, node)
        for entry in node.entries:
            entry.after_blank = self._reader.is_after_blank(entry.offset)
            self._entries.append((entry, within))
            if entry.key is not None:
                self._ends.append((entry.key.end, entry.key))
            if entry.value.entries:
                self._collect(entry.value, within)
            if not entry.value.entries or entry.value.is_flow:
                self._ends.append((entry.value.end, entry.value))

    def place(self, offset: int, text: str) -> None:
        """Give a comment to what it is about."""
        reader = self._reader
        line_start = offset - reader.column(offset)
        own_line = not reader.text[line_start:offset].strip()
        if not own_line:
            ended = max(
                (each for each in self._ends if each[0] <= offset and reader.line(each[0]) == reader.line(offset)),
                key=lambda each: each[0],
                default=None,
            )
            if ended is not None:
                self._mark_flows(offset)
                ended[1].trailing.append(text)
                return
        self._mark_flows(offset)
        self._place_own(offset, Comment(text=text, after_blank=own_line and reader.is_after_blank(offset)))

    def _mark_flows(self, offset: int) -> None:
        """Note that flow collections have a comment in them: they cannot be written in one line."""
        for _, around in self._entries:
            for node in around:
                if node.is_flow and node.offset < offset < node.end:
                    node.has_comments = True

    def _place_own(self, offset: int, comment: Comment) -> None:
        column = self._reader.column(offset)
        open_flow = [
            node
            for node in {id(each): each for _, around in self._entries for each in around}.values()
            if node.is_flow and node.offset < offset < node.end
        ]
        following = next((each for each in self._entries if each[0].offset > offset), None)
        if open_flow:
            inner = max(open_flow, key=lambda node: node.offset)
            if following is None or following[0].offset > inner.end:
                inner.foot.append(comment)
            else:
                following[0].head.append(comment)
            return
        # The last entry before the comment, and the block collections that it ends.
        before = [around for entry, around in self._entries if entry.offset < offset]
        level = -1 if following is None else following[1][-1].column
        if before:
            ended = [node for node in before[-1] if not node.is_flow and level < node.column <= column]
            if following is None and not ended:
                ended = [before[-1][0]]
            if ended:
                # Of those that are indented alike, the outer one.
                max(ended, key=lambda node: node.column).foot.append(comment)
                return
        if following is not None:
            following[0].head.append(comment)
        else:
            self._root.foot.append(comment)
