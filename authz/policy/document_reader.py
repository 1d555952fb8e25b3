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
from typing import TYPE_CHECKING, Final

import yaml

from authz.policy.document import MAX_FILE_BYTES, Document, Node
from authz.policy.errors import MAX_FAULTS_AT_ONCE, Fault, FaultCode, quoted
from authz.policy.yaml_problem import conflict_marker, yaml_problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from authz.policy.document import Key, SourceFile, Value

#: The deepest policy nests 9 levels; 100,000 open brackets have crashed C parsers.
MAX_DEPTH: Final = 64
#: Keys, values, beginnings and ends of one file: a policy of 400 bytes has 60 of them.
MAX_PARTS: Final = 2_000_000
#: One key or value; the longest legal ones are an identity (2048 bytes) and a path (8192 bytes).
MAX_SCALAR_CHARACTERS: Final = 64 * 1024

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFile:
    """What could be read of a file: its documents, and the faults of its form.

    `complete` is false where the file broke off: what it defines further on is not known. `doubtful` are the faults of
    values that only some readers take for text: where they are no good as text either, the schema says more.
    """

    documents: tuple[Document, ...]
    faults: tuple[Fault, ...]
    complete: bool
    doubtful: frozenset[Fault] = frozenset()


def read_documents(file: SourceFile) -> ReadFile:
    """Read the documents of one file; never raises, whatever the bytes are. Cost: linear in the file's size."""
    reader = _Reader(file.path)
    try:
        documents = tuple(reader.documents(reader.text(file.content)))
    except _Broken as broken:
        return _read_file(reader, tuple(reader.finished), broken.fault)
    return _read_file(reader, documents)


def _read_file(reader: _Reader, documents: tuple[Document, ...], *last: Fault) -> ReadFile:
    return ReadFile(
        documents=documents,
        faults=(*reader.faults, *last),
        complete=not last and not reader.runs_together,
        doubtful=frozenset(reader.doubtful),
    )


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
        self._begins = (1, 1)
        self.doubtful: list[Fault] = []
        #: whether a document begins where the one before it has not ended
        self.runs_together = False

    def text(self, content: bytes) -> str:
        """Decode a file; raises _Broken for what no YAML reader should be given."""
        if len(content) > MAX_FILE_BYTES:
            raise self._broken(1, 1, f"the file has {len(content)} bytes; {MAX_FILE_BYTES} are allowed")
        content = content.removeprefix(b"\xef\xbb\xbf")
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError as error:
            before = content[: error.start].decode("utf-8")
            is_utf_16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
            hint = "; it looks like UTF-16: save it as UTF-8" if is_utf_16 else ""
            raise self._broken(*_position(before), f"the file is not UTF-8 from here on{hint}") from error
        found = _FORBIDDEN_CHARACTER.search(text)
        if found:
            where = _position(text[: found.start()])
            raise self._broken(*where, f"the character U+{ord(found.group()):04X} is not allowed; write it escaped")
        marker = conflict_marker(text)
        if marker is not None:
            raise self._broken(*_position(text[:marker]), "a conflict marker of git; finish the merge")
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
                    found = "; leave the `- ` out" if isinstance(root.value, tuple) else ""
                    message = f"a document is a mapping with `apiVersion`, `kind`, `metadata` and `spec`{found}"
                    self._fault(root.line, root.column, message)
        except _UnreadableTagError as error:
            raise self._broken(*_position(text[: error.index]), _UNREADABLE_TAG) from error
        except yaml.MarkedYAMLError as error:
            raise self._broken(*yaml_problem(error, text)) from error
        except yaml.YAMLError as error:  # the reader's own, without a position
            raise self._broken(1, 1, "not YAML: it cannot be read") from error

    def _take(self, event: yaml.Event, stack: list[_Open]) -> Node | None:
        """Take one event; gives the root node when a document's content is complete."""
        line, column = self._place(event)
        if isinstance(event, yaml.ScalarEvent):
            self._refuse_properties(event, line, column)
            if stack and stack[-1].wants_key:  # no node is made for a key
                key = self._scalar(event, line, column, stack, is_key=True)
                self._name_value(stack[-1], key, line, column, is_root=len(stack) == 1)
                return None
            return _added(stack, Node(line, column, self._scalar(event, line, column, stack, is_key=False)))
        if isinstance(event, yaml.CollectionEndEvent):
            closed = stack.pop()
            node = closed.close()
            if not node.children and not closed.has_lost:
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
            if isinstance(event, yaml.DocumentStartEvent):
                self._begins = line, column
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

    def _name_value(self, parent: _Open, key: Value, line: int, column: int, *, is_root: bool = False) -> None:
        """Take the key of the mapping's next value, or say what is wrong with it."""
        if isinstance(key, dict | tuple) and key is not _NOTHING:
            # What is in it is none of it said: of `{{ .Values.name }}` the braces are at fault, not what they hold.
            while self.faults and (self.faults[-1].line, self.faults[-1].column) >= (line, column):
                self.faults.pop()
            if isinstance(key, dict) and (parent.node.line, parent.node.column) == (line, column - 1):
                self._fault(line, column - 1, "a template, `{{ ... }}`, is to be rendered first")
            else:
                self._fault(line, column, "a key must be a string; put it in quotes")
            parent.skip_value()
        elif not isinstance(key, str):
            if key is not _NOTHING:
                self._fault(line, column, "a key must be a string; put it in quotes")
            parent.skip_value()
        elif key in parent.node.children:
            if not (is_root and self.runs_together):
                first = parent.node.children[key]
                self.runs_together = self.runs_together or (is_root and key in _FIRST_FIELDS)
                hint = "; a new document begins with a line `---`" if is_root and key in _FIRST_FIELDS else ""
                self._fault(line, column, f"duplicate key {quoted(key)}; the first is in line {first.key_line}{hint}")
            parent.skip_value()
        else:
            # The same few keys stand in every policy.
            parent.name_value(intern(key), line, column)

    def _scalar(self, event: yaml.ScalarEvent, line: int, column: int, stack: list[_Open], *, is_key: bool) -> Value:
        """Read a scalar by our own rule (see the module's docstring)."""
        text: str = event.value
        if len(text) > MAX_SCALAR_CHARACTERS:
            self._fault(line, column, f"longer than {MAX_SCALAR_CHARACTERS} characters")
            return _NOTHING
        if not event.implicit[0]:  # quoted, or a block: text
            return text
        if text in _NULL and not is_key:
            self._no_value(text, line, column, stack)
            return _NOTHING
        return self._plain(text, line, column, is_key=is_key)

    def _no_value(self, text: str, line: int, column: int, stack: list[_Open]) -> None:
        if not stack and text == "":
            message = "no document follows this `---`; leave it out"
            self._fault(*self._begins, message, FaultCode.SCHEMA)
        elif stack and stack[-1].is_skipping:
            pass  # its key is at fault, and that has been said
        elif stack and stack[-1].is_mapping and text == "":
            message = f"{quoted(str(stack[-1].key))} has no value; indent what belongs to it, or leave the field out"
            self._fault(line, column, message, FaultCode.SCHEMA)
        else:
            what = "there is no value here" if text == "" else f"`{text}` is not allowed"
            self._fault(line, column, f"{what}; leave the field out, or give it a value", FaultCode.SCHEMA)

    def _plain(self, text: str, line: int, column: int, *, is_key: bool) -> Value:
        if text in {"true", "false"}:
            return text == "true"
        if _INTEGER.fullmatch(text):
            return int(text)
        if text in _NULL:
            self._fault(line, column, "a key must be a string; put it in quotes", FaultCode.SCHEMA)
        elif is_key and text == "<<":
            self._fault(line, column, "merge keys are not allowed; write the fields out")
        elif text[0] in _AMBIGUOUS_STARTS and _AMBIGUOUS.fullmatch(text):
            message = f'{quoted(text)} is text for some YAML readers only; write "{text}" in quotes'
            self._fault(line, column, message + (", or `true` / `false`" if text.isalpha() else ""), FaultCode.SCHEMA)
            if not is_key:
                self.doubtful.append(self.faults[-1])
                return text
        else:
            return text
        return _NOTHING

    def _refuse_properties(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, line: int, column: int) -> None:
        if event.anchor is not None:
            self._fault(line, column, "anchors are not allowed; there are no aliases to use them")
        if event.tag is not None:
            is_own = event.tag.startswith("!") and not event.tag.startswith("!!")
            hint = "a text that begins with `!` is written in quotes" if is_own else "leave it out"
            self._fault(line, column, f"the tag {quoted(event.tag)} is not allowed; {hint}")

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


class _UnreadableTagError(Exception):
    """A tag whose percent-encoded bytes are no UTF-8: the parser decodes them, and has no error of its own for it."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


def _events(text: str) -> Iterator[yaml.Event]:
    """Give the parser's events; raises yaml.YAMLError, and _UnreadableTagError."""
    loader = yaml.CSafeLoader(text)
    event = None
    try:
        event = loader.get_event()
        while event is not None:  # behind the end of the stream there is none
            yield event
            event = loader.get_event()
    except UnicodeDecodeError as error:
        mark = None if event is None else event.end_mark  # of the last one that could be read
        end = 0 if mark is None else mark.index
        found = _ENCODED_TAG.search(text, end)
        raise _UnreadableTagError(end if found is None else found.start()) from error
    finally:
        loader.dispose()


_ENCODED_TAG: Final = re.compile(r"![^\s,\[\]{}]*%")
_UNREADABLE_TAG: Final = "this tag is not allowed; a text that begins with `!` is written in quotes"


#: Stands where a fault has been told already; validators do not look at it again.
_NOTHING: Final[dict[str, Value]] = {}
#: what the top of a document has: a second one of them is a second document
_FIRST_FIELDS: Final = frozenset({"apiVersion", "kind"})
_AMBIGUOUS_STARTS: Final = frozenset("yYnNoOtTfF0123456789+-.")


class _Open:
    """A mapping or sequence whose end has not come yet."""

    __slots__ = ("_key_column", "_key_line", "has_lost", "is_mapping", "is_skipping", "key", "node", "wants_key")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.is_mapping = isinstance(node.value, dict)
        self.wants_key = self.is_mapping
        self.key: Key = 0
        self._key_line = 0
        self._key_column = 0
        self.is_skipping = False
        #: whether a key at fault was left out, and its value with it
        self.has_lost = False

    def name_value(self, key: str, line: int, column: int) -> None:
        """Take a key: the next node is its value."""
        self.key = key
        self._key_line, self._key_column = line, column
        self.wants_key = False

    def skip_value(self) -> None:
        """Leave out the value of a key that is at fault."""
        self.is_skipping = self.has_lost = True
        self.wants_key = False

    def add(self, node: Node) -> None:
        """Take a value of the mapping, or the next entry of the sequence."""
        if not self.is_skipping:
            self.node.children[self.key] = node
        self.is_skipping = False
        if self.is_mapping:
            node.key_line, node.key_column = self._key_line, self._key_column
            self.wants_key = True
        else:
            self.key = len(self.node.children)

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
