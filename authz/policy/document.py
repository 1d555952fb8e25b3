"""What is read of a policy file: its documents as trees of values, with the position of everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from authz.policy.errors import Fault, FaultCode

#: One file: 10,000 policies of 400 bytes, twice over. A longer one is no file that a person reviews.
MAX_FILE_BYTES: Final = 8 * 1024 * 1024
#: A whole set: 100,000 policies of 600 bytes, twice over.
MAX_SET_BYTES: Final = 128 * 1024 * 1024
#: A set of one policy a file has as many files as policies.
MAX_FILES: Final = 100_000

Value: TypeAlias = "str | int | bool | tuple[Value, ...] | dict[str, Value]"
Key: TypeAlias = "str | int"


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
