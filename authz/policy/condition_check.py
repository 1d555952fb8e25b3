"""What a condition may be: which names it has, what it may cost, and what of CEL is left out.

Parsing and type checking are the library's. The names of the contract are declared and no others, so that an unknown
name and a wrong type are faults at load. A walk over the checked tree refuses what has no bound (loops in loops, lists
that are made, patterns that are no literals), what hides types (`dyn`, mixed lists) and what the language leaves out
(time), and gives each map entry that is read by a literal name a variable of its own.

# INVARIANT (no surprise): a condition that passes has the type bool, and evaluates in a bounded number of steps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from cel.expr import checked_pb2, syntax_pb2
from cel_expr_python import cel
from google.protobuf import any_pb2

from authz.policy.condition_pattern import pattern_parts
from authz.policy.condition_words import HEADERS, MAPS, TEXTS, TIME, in_our_words
from authz.policy.errors import PolicyError, printable, quoted

#: A condition longer than this is read by nobody; the library's own limit is 100,000.
MAX_CHARACTERS: Final = 4096
#: Nodes of the tree that one evaluation may visit: 0.2 ms on one core.
MAX_STEPS: Final = 20_000
#: What one map counts for: Envoy takes at most 100 headers by default (max_headers_count).
MAP_STEPS: Final = 100
#: `all`, `exists` and `exists_one` of one condition.
MAX_LOOPS: Final = 4
#: `+` on texts and lists, each of which copies.
MAX_ADDITIONS: Final = 16
#: RE2 is linear in the text times the pattern: both are limited, and how often.
MAX_MATCHES: Final = 4
MAX_PATTERN_CHARACTERS: Final = 128
#: Parts of a pattern, its counted repetitions written out.
MAX_PATTERN_PARTS: Final = 256
#: Faults of one condition that are told.
MAX_FAULTS: Final = 8

_MAX_SHOWN: Final = 200
_TEXT_MAP: Final = cel.Type.Map(cel.Type.STRING, cel.Type.STRING)
_ENVIRONMENT: Final = cel.NewEnv(variables={**dict.fromkeys(TEXTS, cel.Type.STRING), **dict.fromkeys(MAPS, _TEXT_MAP)})
_PATTERN_PROBE: Final = cel.NewEnv(variables={"p": cel.Type.STRING}).compile("''.matches(p)")

_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ISSUE: Final = re.compile(r"^(?:[A-Z_]+: )?ERROR: <input>:(-?\d+):(-?\d+): (.*)$", re.MULTILINE)
# RFC 9110 5.1: a field name is a token; those of a call are in lower case.
#: `request.headers.x-tenant` subtracts
_HYPHEN: Final = re.compile(r"\brequest\.headers\.([a-z0-9_]+(?:-[a-z0-9_]+)+)")
_HEADER_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_MISSING: Final = re.compile(r'UNKNOWN: No value with name "(.*)" found in Activation')

_LEFT_OUT: Final = {
    **dict.fromkeys(TIME, "time is said in windows only"),
    "dyn": "it would hide wrong types until a call is decided",
    "type": "every type is known when the set is loaded",
}


class ConditionFault(PolicyError):  # noqa: N818 a fault of the text, not an error while evaluating
    """A text is no condition; it says why, each reason with line and column within the text."""


@dataclass(frozen=True, slots=True, order=True)
class _Fault:
    line: int
    column: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledCondition:
    """A program and what it reads: entries and presences each as (variable, map, key)."""

    program: cel.Expression
    texts: tuple[str, ...]
    entries: tuple[tuple[str, str, str], ...]
    presences: tuple[tuple[str, str, str], ...]
    wholes: tuple[str, ...]


def compile_condition(text: str) -> CompiledCondition:
    """Compile an expression; raises ConditionFault. The same text always gives the same answer."""
    _check_text(text)
    try:
        checked = _ENVIRONMENT.compile(text)
    except Exception as error:
        raise _refused(_with_hyphen(text) or _issues(str(error))) from error
    if checked.return_type() != cel.Type.BOOL:
        found = checked.return_type().name().lower()
        raise _refused([_Fault(1, 1, f"a condition is true or false, and this is of the type `{found}`")])
    packed = any_pb2.Any.FromString(checked.serialize())
    tree = checked_pb2.CheckedExpr()
    packed.Unpack(tree)
    walk = _Walk(text, tree)
    walk.run()
    tree.source_info.Clear()
    packed.Pack(tree)
    try:
        program = _ENVIRONMENT.deserialize(packed.SerializeToString())
        program.eval(data={})  # plans the program now, not with the first call
    except Exception as error:
        raise _refused([_Fault(1, 1, _one_line(str(error)))]) from error
    return walk.compiled(program)


def why_no_bool(report: str) -> str:
    """Give, on one line, why an evaluation gave no bool."""
    found = _MISSING.match(report)
    if found is None:
        return _one_line(report)
    reason = "is absent, came twice or is not UTF-8" if found[1].startswith(HEADERS) else "is absent"
    return f"{quoted(found[1])} {reason}"


def _refused(faults: list[_Fault]) -> ConditionFault:
    told = sorted(set(faults))[:MAX_FAULTS]
    return ConditionFault("; ".join(f"at {fault.line}:{fault.column}: {fault.message}" for fault in told))


def _check_text(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        message = f"a condition has at most {MAX_CHARACTERS} characters, not {len(text)}"
        raise _refused([_Fault(1, 1, message)])
    bad = _FORBIDDEN.search(text)
    if bad is not None:
        line, column = _position(text, bad.start())
        message = f"U+{ord(bad.group()):04X} is not allowed; in a text write `\\u{ord(bad.group()):04x}`"
        raise _refused([_Fault(line, column, message)])


def _position(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1


def _with_hyphen(text: str) -> list[_Fault]:
    """Find names of headers that are read as a subtraction."""
    return [
        _Fault(
            *_position(text, found.start()), f"write `request.headers['{found[1]}']`: a name with `-` stands in quotes"
        )
        for found in _HYPHEN.finditer(text)
    ]


def _one_line(message: str) -> str:
    line = printable(message.split("\n", 1)[0])
    return line if len(line) <= _MAX_SHOWN else f"{line[:_MAX_SHOWN]}..."


def _issues(report: str) -> list[_Fault]:
    if "recursion limit" in report or "max recursion depth" in report:
        return [_Fault(1, 1, "nested too deep: at most 32 levels, and as many terms in one chain of `+` or `.`")]
    faults = [
        _Fault(max(1, int(found[1])), max(1, int(found[2])), in_our_words(_one_line(found[3])))
        for found in _ISSUE.finditer(report)
    ]
    if "Syntax error" in report:  # those after the first come of it
        faults = sorted(faults)[:1]
    else:  # what is made of something at fault is not at fault itself
        faults = [fault for fault in faults if "*error*" not in fault.message] or faults
    return faults or [_Fault(1, 1, _one_line(report))]


@dataclass(slots=True)
class _Walk:
    """One pass over a checked tree: finds faults, notes what is read, and rewrites what is read of maps."""

    text: str
    tree: checked_pb2.CheckedExpr
    faults: list[_Fault] = field(default_factory=list)
    loops: int = 0
    additions: int = 0
    matches: int = 0
    in_loop: bool = False
    texts: set[str] = field(default_factory=set)
    entries: set[tuple[str, str, str]] = field(default_factory=set)
    presences: set[tuple[str, str, str]] = field(default_factory=set)
    wholes: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Walk the tree; raises ConditionFault."""
        steps = self._steps(self.tree.expr)
        root = self.tree.expr.id
        for number, limit, what in (
            (steps, MAX_STEPS, "steps"),
            (self.loops, MAX_LOOPS, "of `all`, `exists` and `exists_one`"),
            (self.additions, MAX_ADDITIONS, "times `+` on texts or lists"),
            (self.matches, MAX_MATCHES, "times `matches`"),
        ):
            if number > limit:
                self._fault(root, f"{number} {what}; at most {limit} are allowed")
        if self.faults:
            raise _refused(self.faults)

    def compiled(self, program: cel.Expression) -> CompiledCondition:
        """Give the program together with what it reads."""
        return CompiledCondition(
            program=program,
            texts=tuple(sorted(self.texts)),
            entries=tuple(sorted(self.entries)),
            presences=tuple(sorted(self.presences)),
            wholes=tuple(sorted(self.wholes)),
        )

    def _fault(self, node_id: int, message: str) -> None:
        line, column = _position(self.text, self.tree.source_info.positions.get(node_id, 0))
        self.faults.append(_Fault(line, column, message))

    def _steps(self, node: syntax_pb2.Expr) -> int:
        """Visit a node and what is in it; gives the steps that evaluating it takes at most."""
        if node.id in self.tree.type_map and _is_mixed(self.tree.type_map[node.id]):
            self._fault(node.id, "values of different types in one list or map")
        steps = 1
        match node.WhichOneof("expr_kind"):
            case "const_expr":
                pass
            case "ident_expr":
                steps = self._ident(node)
            case "select_expr":
                steps = self._select(node)
            case "call_expr":
                steps = self._call(node)
            case "list_expr":
                steps += sum(self._steps(element) for element in node.list_expr.elements)
            case "struct_expr":
                steps = self._struct(node)
            case "comprehension_expr":
                steps = self._loop(node)
            case other:
                self._fault(node.id, f"`{other}` is no part of conditions")
        return steps

    def _ident(self, node: syntax_pb2.Expr) -> int:
        name = node.ident_expr.name
        if name in TEXTS:
            self.texts.add(name)
        elif name in MAPS:
            self.wholes.add(name)
            return MAP_STEPS
        elif "." in name or node.id not in self.tree.type_map:
            self._fault(node.id, f"there is no {quoted(name)}")
        return 1

    def _select(self, node: syntax_pb2.Expr) -> int:
        select = node.select_expr
        of = _map_name(select.operand)
        if of is None:
            return 1 + self._steps(select.operand)
        self._read(node, of, select.field, presence=select.test_only)
        return 1

    def _call(self, node: syntax_pb2.Expr) -> int:
        call = node.call_expr
        name, arguments = call.function, call.args
        if name in {"_[_]", "@in"}:
            container, key = (arguments[0], arguments[1]) if name == "_[_]" else (arguments[1], arguments[0])
            of, literal = _map_name(container), _literal(key)
            if of is not None and literal is not None:
                self._read(node, of, literal, presence=name == "@in")
                return 1
        if name in _LEFT_OUT:
            self._fault(node.id, f"`{name}` is no part of conditions: {_LEFT_OUT[name]}")
        overloads = self.tree.reference_map[node.id].overload_id
        if name == "_+_" and any(each.startswith(("add_string", "add_bytes", "add_list")) for each in overloads):
            self.additions += 1
            if self.in_loop:
                self._fault(node.id, "`+` on texts or lists is not allowed in `all`, `exists` and `exists_one`")
        if name == "matches":
            self._matches(node)
        own = 1 + (self._steps(call.target) if call.HasField("target") else 0)
        return own + sum(self._steps(argument) for argument in arguments)

    def _matches(self, node: syntax_pb2.Expr) -> None:
        self.matches += 1
        if self.in_loop:
            self._fault(node.id, "`matches` is not allowed in `all`, `exists` and `exists_one`")
        argument = node.call_expr.args[-1]
        pattern = _literal(argument)
        if pattern is None:
            self._fault(argument.id, "the pattern of `matches` is a text that is written out")
        elif len(pattern) > MAX_PATTERN_CHARACTERS or pattern_parts(pattern) > MAX_PATTERN_PARTS:
            limits = f"{MAX_PATTERN_CHARACTERS} characters, and {MAX_PATTERN_PARTS} parts with its `{{n}}` written out"
            self._fault(argument.id, f"a pattern has at most {limits}")
        elif "\0" in pattern:
            self._fault(argument.id, "a pattern has no NUL")
        else:
            probed = _PATTERN_PROBE.eval(data={"p": pattern}).value()
            if not isinstance(probed, bool):
                self._fault(argument.id, _one_line(str(probed)).removeprefix("INVALID_ARGUMENT: "))

    def _struct(self, node: syntax_pb2.Expr) -> int:
        struct = node.struct_expr
        if struct.message_name:
            self._fault(node.id, "messages are no part of conditions")
            return 1
        keys = [entry.map_key.const_expr.SerializeToString() for entry in struct.entries]
        if any(not entry.map_key.HasField("const_expr") for entry in struct.entries):
            self._fault(node.id, "the keys of a map are written out")
        elif len(set(keys)) < len(keys):
            self._fault(node.id, "a key stands twice in one map")
        return 1 + sum(1 + self._steps(entry.value) for entry in struct.entries)

    def _loop(self, node: syntax_pb2.Expr) -> int:
        loop = node.comprehension_expr
        self.loops += 1
        # Only `all`, `exists` and `exists_one` begin with a constant; `map` and `filter` make a list.
        if loop.accu_init.WhichOneof("expr_kind") != "const_expr":
            self._fault(node.id, "`map` and `filter` are no part of conditions; `all`, `exists` and `exists_one` are")
            return 1
        if self.in_loop:
            self._fault(node.id, "`all`, `exists` and `exists_one` do not nest")
            return 1
        over = loop.iter_range
        if over.HasField("list_expr"):
            rounds = len(over.list_expr.elements)
        elif _map_name(over) is not None:
            rounds = MAP_STEPS
        else:
            self._fault(over.id, "`all`, `exists` and `exists_one` go over a list that is written out, or over a map")
            return 1
        once = self._steps(over) + self._steps(loop.result)
        self.in_loop = True
        each = self._steps(loop.loop_condition) + self._steps(loop.loop_step)
        self.in_loop = False
        return once + rounds * each

    def _read(self, node: syntax_pb2.Expr, of: str, key: str, *, presence: bool) -> None:
        """Note that a map is read by a literal name, and make a variable of it."""
        if of == HEADERS and not _HEADER_NAME.fullmatch(key):
            hint = f"; did you mean {quoted(key.lower())}?" if _HEADER_NAME.fullmatch(key.lower()) else ""
            self._fault(node.id, f"{quoted(key)} is no name of a header in lower case{hint}")
        # No expression can write such names.
        variable = f"{key} in {of}" if presence else f"{of}[{key}]"
        (self.presences if presence else self.entries).add((variable, of, key))
        node.ident_expr.name = variable
        reference = self.tree.reference_map[node.id]
        reference.Clear()
        reference.name = variable


def _map_name(node: syntax_pb2.Expr) -> str | None:
    name = node.ident_expr.name.removeprefix(".") if node.HasField("ident_expr") else ""
    return name if name in MAPS else None


def _literal(node: syntax_pb2.Expr) -> str | None:
    constant = node.const_expr
    return constant.string_value if constant.WhichOneof("constant_kind") == "string_value" else None


def _is_mixed(kind: checked_pb2.Type) -> bool:
    match kind.WhichOneof("type_kind"):
        case "list_type":
            return _is_mixed(kind.list_type.elem_type)
        case "map_type":
            return _is_mixed(kind.map_type.key_type) or _is_mixed(kind.map_type.value_type)
        case which:
            return bool(which == "dyn")
