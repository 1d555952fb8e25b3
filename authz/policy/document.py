"""How bytes become documents: a strict subset of YAML, read without ever guessing, with the position of everything.

The one module that reads YAML. It consumes the parser's events and builds the tree itself, without recursion, so
that no nesting can exhaust a stack. Decides the form of a file only: what a field means is the schema's business.

What YAML allows and policies do not, each a fault at its position: anchors and aliases (bombs), tags, merge keys,
duplicate keys, `null`, keys that are no strings, and the characters that show a reviewer something else than what
is read. Plain scalars follow a rule of our own, because YAML 1.1 and 1.2 read them differently: `true` and `false`
are booleans, plain decimal numbers are integers, and what only some readers take for text (`NO`, `on`, `017`,
`1_000`, `1.50`, `12:30:00`) is refused where it stands: in quotes it is text for everyone. Dates stay text.

# INVARIANT (bounded): time and memory are linear in the size of the input, which is limited.

https://yaml.org/spec/1.2.2/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from sys import intern
from typing import TYPE_CHECKING, Final, TypeAlias

import yaml

from authz.policy.errors import MAX_FAULTS_AT_ONCE, Fault, FaultCode, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

#: One file: 10,000 policies of 400 bytes, twice over. A longer one is no file that a person reviews.
MAX_FILE_BYTES: Final = 8 * 1024 * 1024
#: A whole set: 100,000 policies of 600 bytes, twice over.
MAX_SET_BYTES: Final = 128 * 1024 * 1024
#: The deepest policy nests 9 levels; 100,000 open brackets have crashed C parsers.
MAX_DEPTH: Final = 64
#: Keys, values, beginnings and ends of one file: a policy of 400 bytes has 60 of them.
MAX_PARTS: Final = 2_000_000
#: One key or value; the longest legal ones are an identity (2048 bytes) and a path (8192 bytes).
MAX_SCALAR_CHARACTERS: Final = 64 * 1024

Value: TypeAlias = "str | int | bool | tuple[Value, ...] | dict[str, Value]"
Key: TypeAlias = "str | int"

# YAML 1.2.2 5.1, less what breaks lines only for some readers (U+0085, U+2028, U+2029), what reorders text on the
# screen (CVE-2021-42574) and the byte order mark inside a file.
_FORBIDDEN_CHARACTER: Final = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
# What a YAML 1.1 or 1.2 reader takes for a boolean or a number although another one takes it for text or for
# another number (https://yaml.org/type/, YAML 1.2.2 10.3). Dates and times of day with a date are not in it.
_AMBIGUOUS: Final = re.compile(
    r"(?:yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF|True|TRUE|False|FALSE"
    r"|[-+]?0[0-9_]+|[-+]?0[xX][0-9a-fA-F_]+|[-+]?0[oO][0-7_]+|[-+]?0[bB][01_]+"
    r"|\+[0-9]+|[-+]?[0-9][0-9_]*|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?"
    r"|[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))"
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a policy set: its path as the user would type it, and its bytes."""

    path: str
    content: bytes


#: what most nodes have, once for all of them
_NO_CHILDREN: Final[dict[Key, Node]] = {}


class Node:
    """A value of a document, where it stands, and the same for what is in it."""

    __slots__ = ("children", "column", "key_column", "key_line", "line", "value")

    def __init__(self, line: int, column: int, value: Value) -> None:
        self.line = line
        self.column = column
        self.value = value
        #: by key of a mapping, or by index of a sequence
        self.children: dict[Key, Node] = {} if isinstance(value, dict | tuple) else _NO_CHILDREN
        #: where its key stands, in a mapping
        self.key_line = line
        self.key_column = column


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One YAML document of a file; `root` is a mapping."""

    path: str
    root: Node
    #: the lists and mappings that have nothing in them
    empty: tuple[Node, ...] = ()

    def node(self, *keys: Key) -> Node:
        """Give the node that the keys lead to, or the last one on the way that exists.

        A key that leads nowhere is passed over: validators put words of their own between those of the document.
        """
        node = self.root
        for key in keys:
            node = node.children.get(key, node)
        return node

    def find(self, *keys: Key) -> Node | None:
        """Give the node that the keys lead to, None if there is none."""
        node: Node | None = self.root
        for key in keys:
            if node is None:
                return None
            node = node.children.get(key)
        return node

    def places(self, *keys: Key) -> list[tuple[Key, ...]]:
        """Give the places of the entries of the list that the keys lead to; none if there is no list."""
        node = self.find(*keys)
        return [] if node is None or not isinstance(node.value, tuple) else [(*keys, key) for key in node.children]

    def text(self, *keys: Key) -> str | None:
        """Give the text that the keys lead to, None if there is none."""
        node = self.find(*keys)
        return node.value if node is not None and isinstance(node.value, str) else None

    def texts(self, *keys: Key) -> list[tuple[tuple[Key, ...], str]]:
        """Give the texts of the list that the keys lead to, each with its place."""
        return [(place, text) for place in self.places(*keys) if (text := self.text(*place)) is not None]

    def fault(self, keys: tuple[Key, ...], message: str, code: FaultCode = FaultCode.SCHEMA) -> Fault:
        """Make a fault at the value that the keys lead to."""
        node = self.node(*keys)
        return Fault(self.path, node.line, node.column, message, code)

    def fault_at_key(self, keys: tuple[Key, ...], message: str, code: FaultCode = FaultCode.SCHEMA) -> Fault:
        """Make a fault at the last key itself."""
        node = self.node(*keys)
        return Fault(self.path, node.key_line, node.key_column, message, code)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFile:
    """What could be read of a file: its documents, and the faults of its form.

    `complete` is false where the file broke off: what it defines further on is not known.
    """

    documents: tuple[Document, ...]
    faults: tuple[Fault, ...]
    complete: bool


def read_documents(file: SourceFile) -> ReadFile:
    """Read the documents of one file; never raises, whatever the bytes are. Cost: linear in the file's size."""
    reader = _Reader(file.path)
    try:
        documents = tuple(reader.documents(reader.text(file.content)))
    except _Broken as broken:
        return ReadFile(documents=tuple(reader.finished), faults=(*reader.faults, broken.fault), complete=False)
    return ReadFile(documents=documents, faults=tuple(reader.faults), complete=True)


class _Broken(Exception):  # noqa: N818 no error: the way out of a file that cannot be read further
    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault


class _Reader:
    """Builds the documents of one file from the parser's events."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.faults: list[Fault] = []
        self.finished: list[Document] = []
        self._empty: list[Node] = []
        self._parts_left = MAX_PARTS
        self._line = 0

    def text(self, content: bytes) -> str:
        """Decode a file; raises _Broken for what no YAML reader should be given."""
        if len(content) > MAX_FILE_BYTES:
            raise self._broken(1, 1, f"the file has {len(content)} bytes; {MAX_FILE_BYTES} are allowed")
        content = content.removeprefix(b"\xef\xbb\xbf")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            before = content[: error.start].decode("utf-8")
            raise self._broken(*_position(before), "the file is not UTF-8 from here on") from error
        found = _FORBIDDEN_CHARACTER.search(text)
        if found:
            where = _position(text[: found.start()])
            raise self._broken(*where, f"the character U+{ord(found.group()):04X} is not allowed; write it escaped")
        return text

    def documents(self, text: str) -> Iterator[Document]:
        """Give the documents of a text; raises _Broken where the text is no YAML any more."""
        stack: list[_Open] = []
        try:
            for event in _events(text):
                root = self._take(event, stack)
                if root is None or root.value is _NOTHING:
                    continue
                if isinstance(root.value, dict):
                    document = Document(path=self.path, root=root, empty=tuple(self._empty))
                    self._empty.clear()
                    self.finished.append(document)
                    yield document
                else:
                    self._fault(root.line, root.column, "a document is a mapping with `apiVersion`, `kind`, ...")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            raise self._broken(line, column, f"not YAML: {_problem(error)}") from error
        except yaml.YAMLError as error:  # the reader's own, without a position
            raise self._broken(1, 1, "not YAML: it cannot be read") from error

    def _take(self, event: yaml.Event, stack: list[_Open]) -> Node | None:
        """Take one event; gives the root node when a document's content is complete."""
        line, column = self._place(event)
        if isinstance(event, yaml.ScalarEvent):
            self._refuse_properties(event, line, column)
            if stack and stack[-1].wants_key:  # no node is made for a key
                self._name_value(stack[-1], self._scalar(event, line, column, is_key=True), line, column)
                return None
            return _added(stack, Node(line, column, self._scalar(event, line, column, is_key=False)))
        if isinstance(event, yaml.CollectionEndEvent):
            node = stack.pop().close()
            if not node.children:
                self._empty.append(node)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._refuse_properties(event, line, column)
            if len(stack) >= MAX_DEPTH:
                raise self._broken(line, column, f"nested deeper than {MAX_DEPTH} levels")
            stack.append(_Open(Node(line, column, {} if isinstance(event, yaml.MappingStartEvent) else ())))
            return None
        elif isinstance(event, yaml.AliasEvent):
            self._fault(line, column, "aliases are not allowed; write the value out")
            node = Node(line, column, _NOTHING)
        else:
            return None
        if stack and stack[-1].wants_key:
            self._name_value(stack[-1], node.value, node.line, node.column)
            return None
        return _added(stack, node)

    def _place(self, event: yaml.Event) -> tuple[int, int]:
        """Give line and column of an event, one of so many that a file may have."""
        mark = event.start_mark
        if mark is None:  # the typing allows it, the C parser never does it
            return 1, 1
        line, column = mark.line + 1, mark.column + 1
        if line == self._line:
            line = self._line  # most nodes share their line with another one: one number for all of them
        else:
            self._line = line
        self._parts_left -= 1
        if self._parts_left < 0:
            raise self._broken(line, column, f"the file has more than {MAX_PARTS} parts; split it")
        return line, column

    def _name_value(self, parent: _Open, key: Value, line: int, column: int) -> None:
        """Take the key of the mapping's next value, or say what is wrong with it."""
        if not isinstance(key, str):
            if key is not _NOTHING:
                self._fault(line, column, "a key must be a string; put it in quotes")
            parent.skip_value()
        elif key in parent.node.children:
            first = parent.node.children[key]
            self._fault(line, column, f"duplicate key {quoted(key)}; the first is in line {first.key_line}")
            parent.skip_value()
        else:
            # The same few keys stand in every policy.
            parent.name_value(intern(key), line, column)

    def _scalar(self, event: yaml.ScalarEvent, line: int, column: int, *, is_key: bool) -> Value:
        """Read a scalar by our own rule (see the module's docstring)."""
        text: str = event.value
        if len(text) > MAX_SCALAR_CHARACTERS:
            self._fault(line, column, f"longer than {MAX_SCALAR_CHARACTERS} characters")
            return _NOTHING
        if not event.implicit[0]:  # quoted, or a block: text
            return text
        return self._plain(text, line, column, is_key=is_key)

    def _plain(self, text: str, line: int, column: int, *, is_key: bool) -> Value:
        if text in {"true", "false"}:
            return text == "true"
        if _INTEGER.fullmatch(text):
            return int(text)
        if text in _NULL:
            what = "there is no value here" if text == "" else f"`{text}` is not allowed"
            self._fault(line, column, f"{what}; leave the field out, or give it a value", FaultCode.SCHEMA)
        elif is_key and text == "<<":
            self._fault(line, column, "merge keys are not allowed; write the fields out")
        elif text[0] in _AMBIGUOUS_STARTS and _AMBIGUOUS.fullmatch(text):
            message = f'{quoted(text)} is text for some YAML readers only; write "{text}" in quotes'
            self._fault(line, column, message + (", or `true` / `false`" if text.isalpha() else ""), FaultCode.SCHEMA)
        else:
            return text
        return _NOTHING

    def _refuse_properties(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, line: int, column: int) -> None:
        if event.anchor is not None:
            self._fault(line, column, "anchors are not allowed; there are no aliases to use them")
        if event.tag is not None:
            self._fault(line, column, f"the tag {quoted(event.tag)} is not allowed")

    def _fault(self, line: int, column: int, message: str, code: FaultCode = FaultCode.SYNTAX) -> None:
        if len(self.faults) >= MAX_FAULTS_AT_ONCE:
            raise self._broken(line, column, f"more than {MAX_FAULTS_AT_ONCE} faults; the file is not read further")
        self.faults.append(Fault(self.path, line, column, message, code))

    def _broken(self, line: int, column: int, message: str) -> _Broken:
        return _Broken(Fault(self.path, line, column, message, FaultCode.SYNTAX))


def _added(stack: list[_Open], node: Node) -> Node | None:
    """Add a complete node to the mapping or sequence that it stands in; gives it back where it stands in none."""
    if not stack:
        return node
    stack[-1].add(node)
    return None


def _events(text: str) -> Iterator[yaml.Event]:
    """Give the parser's events; raises yaml.YAMLError."""
    loader = yaml.CSafeLoader(text)
    try:
        event = loader.get_event()
        while event is not None:  # behind the end of the stream there is none
            yield event
            event = loader.get_event()
    finally:
        loader.dispose()


#: Stands where a fault has been told already; validators do not look at it again.
_NOTHING: Final[dict[str, Value]] = {}
_AMBIGUOUS_STARTS: Final = frozenset("yYnNoOtTfF0123456789+-.")


class _Open:
    """A mapping or sequence whose end has not come yet."""

    __slots__ = ("_key", "_key_column", "_key_line", "_skipping", "is_mapping", "node", "wants_key")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.is_mapping = isinstance(node.value, dict)
        self.wants_key = self.is_mapping
        self._key: Key = 0
        self._key_line = 0
        self._key_column = 0
        self._skipping = False

    def name_value(self, key: str, line: int, column: int) -> None:
        """Take a key: the next node is its value."""
        self._key = key
        self._key_line, self._key_column = line, column
        self.wants_key = False

    def skip_value(self) -> None:
        """Leave out the value of a key that is at fault."""
        self._skipping = True
        self.wants_key = False

    def add(self, node: Node) -> None:
        """Take a value of the mapping, or the next entry of the sequence."""
        if not self._skipping:
            self.node.children[self._key] = node
        self._skipping = False
        if self.is_mapping:
            node.key_line, node.key_column = self._key_line, self._key_column
            self.wants_key = True
        else:
            self._key = len(self.node.children)

    def close(self) -> Node:
        """Give the node with its value complete."""
        if self.is_mapping:
            self.node.value = {key: child.value for key, child in self.node.children.items()}  # type: ignore[misc]
        else:
            self.node.value = tuple([child.value for child in self.node.children.values()])
        return self.node


def _position(before: str) -> tuple[int, int]:
    """Give line and column, from 1, of what follows this text."""
    lines = re.split(r"\r\n|\r|\n", before)
    return len(lines), len(lines[-1]) + 1


def _problem(error: yaml.MarkedYAMLError) -> str:
    words = " ".join(str(part) for part in (error.problem, error.context) if part)
    return quoted(words)[1:-1].lower() or "it cannot be read"
