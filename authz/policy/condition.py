"""Conditions on a call, in CEL: compiled once when a set is loaded, evaluated on the facts of a call.

The seam to cel-expr-python (Google's cel-cpp): nothing else imports it but `condition_check`, which says what a
condition may be. Only texts, and maps of texts where one is used as a whole, cross into C++; no function of ours does.

What is read of `request.headers` and of attributes by a literal name becomes a variable of its own. A variable that is
not given is an error exactly where it is read, and `||` and `&&` absorb it as CEL says: so is a header that is absent,
came twice or is not UTF-8.

# INVARIANT (bool or error): evaluation gives True or False, or raises ConditionError; it never raises anything else.
# INVARIANT (bounded): what one evaluation costs is bounded by the text, and by the limit on headers.

https://github.com/google/cel-spec/blob/master/doc/langdef.md
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from authz.policy.condition_check import CompiledCondition, compile_condition, why_no_bool
from authz.policy.condition_words import HEADERS
from authz.policy.errors import PolicyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from authz.request import Headers

#: Different texts of conditions that are kept compiled: a reload, and rules with the same condition, find them here.
_KEPT: Final = 4096


class ConditionError(PolicyError):
    """A condition gave no bool for a call: a MicroPolicy does not match then, a Guardrail does."""


class CallFacts:
    """What conditions may ask about one call; made once for all of its conditions."""

    __slots__ = ("_header_values", "_headers", "_maps", "texts")

    def __init__(
        self,
        *,
        texts: Mapping[str, str],
        headers: Headers,
        caller_attributes: Mapping[str, str],
        destination_attributes: Mapping[str, str],
    ) -> None:
        #: by every name of `condition_check.TEXTS`
        self.texts = texts
        self._headers = headers
        self._maps = {"caller.attributes": caller_attributes, "destination.attributes": destination_attributes}
        self._header_values: dict[str, bytes | None] | None = None

    def entry(self, of: str, key: str) -> str | None:
        """Give what a map has under a key; None if reading it is an error."""
        return self._header(key) if of == HEADERS else self._maps[of].get(key)

    def has(self, of: str, key: str) -> bool:
        """Whether a map has a key; a header that came twice is there, though it cannot be read."""
        return key in (self._by_name() if of == HEADERS else self._maps[of])

    def whole(self, of: str) -> dict[str, str] | None:
        """Give a map; None if reading one of its entries is an error."""
        if of != HEADERS:
            return dict(self._maps[of])
        found = {name: self._header(name) for name in self._by_name()}
        whole = {name: value for name, value in found.items() if value is not None}
        return whole if len(whole) == len(found) else None

    def _by_name(self) -> dict[str, bytes | None]:
        """Give each header's value; None for one that came twice."""
        if self._header_values is None:
            values: dict[str, bytes | None] = {}
            for name, value in self._headers:
                values[name] = None if name in values else value
            self._header_values = values
        return self._header_values

    def _header(self, name: str) -> str | None:
        value = self._by_name().get(name)
        # The binding ends a text at a NUL: what follows it would not be judged.
        if value is None or b"\0" in value:
            return None
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return None


class Condition:
    """One expression of `when`; two of the same text are equal."""

    __slots__ = ("_compiled", "text")

    def __init__(self, text: str, compiled: CompiledCondition) -> None:
        self.text = text
        self._compiled = compiled

    @staticmethod
    def compile(text: str) -> Condition:
        """Compile an expression; raises ConditionFault that says what is wrong with it, and where."""
        return _compiled(text)

    @property
    def reads(self) -> frozenset[str]:
        """What it asks about, by the names of the language: `request.method`, `caller.attributes`, ..."""
        compiled = self._compiled
        maps = (name for _, name, _ in (*compiled.entries, *compiled.presences))
        return frozenset({*compiled.texts, *maps, *compiled.wholes})

    def holds(self, facts: CallFacts) -> bool:
        """Whether the condition holds; raises ConditionError."""
        compiled = self._compiled
        values: dict[str, object] = {name: facts.texts[name] for name in compiled.texts}
        for variable, of, key in compiled.entries:
            value = facts.entry(of, key)
            if value is not None:
                values[variable] = value
        for variable, of, key in compiled.presences:
            values[variable] = facts.has(of, key)
        for name in compiled.wholes:
            whole = facts.whole(name)
            if whole is not None:
                values[name] = whole
        try:
            result = compiled.program.eval(data=values).value()
        except Exception as error:
            raise ConditionError(why_no_bool(str(error))) from error
        # An error is a value, too, and one that Python would take for true.
        if result is True or result is False:
            return result
        raise ConditionError(why_no_bool(str(result)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=_KEPT)
def _compiled(text: str) -> Condition:
    return Condition(text, compile_condition(text))
