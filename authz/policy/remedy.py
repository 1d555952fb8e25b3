"""What to write instead: by the place of a fault, and by what was written there in the habits of other languages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from authz.policy.errors import nearest, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from authz.policy.document import Key, Value

#: A text that is longer is not shown a second time.
_MAX_REPEATED_CHARACTERS: Final = 63
#: How alike two words of a short list must be.
_ALIKE: Final = 0.5
#: Fewer characters begin too many words.
_MIN_BEGINNING: Final = 3
#: what others write for everything
_EVERY: Final = frozenset({"all", "any", "*", "**", "/*", "/**", "everything"})
_TIME: Final = "a time of RFC 3339, such as 2026-11-01T00:00:00Z"

#: fields that another place or another product has, and what says it here
_ELSEWHERE: Final = {
    "selector": "`from` and `to` say whom a rule is about",
    "podSelector": "`from` and `to` say whom a rule is about",
    "action": "a MicroPolicy always allows; a Guardrail forbids",
    "effect": "a MicroPolicy always allows; a Guardrail forbids",
    "allow": "a MicroPolicy always allows; a Guardrail forbids",
    "deny": "a MicroPolicy always allows; a Guardrail forbids",
    "require": "a Guardrail has it; a MicroPolicy allows",
    "rules": "`operations` in an entry of `to` says what is allowed",
    "during": "a ThirdParty is there from `opens` to `closes`; hours belong to the rules about it",
    "namespace": "names are unique in the whole set; there are no namespaces",
    "namespaces": "names are unique in the whole set; there are no namespaces",
    "description": "write a comment, or an entry of `annotations`",
    "duration": "a window has dates: write `closes`",
    "port": "a Service is addressed whatever the port; a ThirdParty's port stands in its `hosts`",
    "ports": "a Service is addressed whatever the port; a ThirdParty's port stands in its `hosts`",
    "ipBlocks": "an address is no identity; a caller is known by its SPIFFE ID",
    "claims": "end users' tokens are the app's own business",
}

#: what other languages call a field -> what it may be called here; the first that a place has is meant
_CALLED_HERE: Final = {
    **dict.fromkeys(("notBefore", "start", "starts", "begin", "validFrom", "from", "after"), ("opens", "from")),
    **dict.fromkeys(
        ("notAfter", "end", "ends", "expires", "expiry", "validUntil", "until", "before", "to"), ("closes", "until")
    ),
    **dict.fromkeys(("tz", "zone", "timeZone"), ("timezone",)),
    **dict.fromkeys(("weekdays", "daysOfWeek"), ("days",)),
    **dict.fromkeys(("hours", "schedule"), ("during",)),
    **dict.fromkeys(("principals", "principal", "spiffeIDs", "spiffe", "serviceAccounts"), ("identities",)),
    **dict.fromkeys(("source", "sources", "subject", "subjects", "caller", "callers"), ("from", "services")),
    **dict.fromkeys(("destination", "destinations", "target", "targets", "resource", "resources"), ("to", "services")),
    **dict.fromkeys(("workloads", "apps"), ("services",)),
    **dict.fromkeys(("hosts", "host"), ("thirdParties",)),
    **dict.fromkeys(("labels", "matchLabels", "tags"), ("attributes",)),
    **dict.fromkeys(("operation", "permissions", "actions"), ("operations",)),
    **dict.fromkeys(("method", "verbs", "verb"), ("methods",)),
    **dict.fromkeys(("path", "uri", "uris", "urls", "routes"), ("paths",)),
    **dict.fromkeys(("condition", "conditions", "if"), ("when",)),
    **dict.fromkeys(("tests", "test"), ("cases",)),
    **dict.fromkeys(("request", "input"), ("call",)),
    **dict.fromkeys(("expected", "want", "assert"), ("expect",)),
}  # fmt: skip


def nearest_word(text: str, words: Iterable[str]) -> str:
    """Give the hint `; did you mean `x`?` where a word of a list is near, whatever the case and the marks between."""
    by_form = {_form(word): word for word in words}
    form = _form(text)
    parts = re.split(r"[-,]", text)
    if len(parts) > 1 and all(_form(part) in by_form for part in parts):
        return "; write each as an entry of its own"
    if form and form not in by_form:
        is_one = form == text.lower()
        begun = [each for each in by_form if is_one and len(each) >= _MIN_BEGINNING and form.startswith(each)]
        begun += [each for each in by_form if len(form) > 1 and each.startswith(form)]
        # A version that is another one is not meant.
        alike = [each for each in by_form if _digits(each) == _digits(form)]
        form = (
            begun[0] if len(begun) == 1 else nearest(form, alike, similarity=_ALIKE).partition("`")[2].partition("`")[0]
        )
    return f"; did you mean `{by_form[form]}`?" if form in by_form else ""


def _form(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text[:_MAX_REPEATED_CHARACTERS].lower())


def _named(hint: str) -> str:
    """Give the word that a hint names, "" if there is none."""
    return hint.partition("`")[2].partition("`")[0]


def _digits(text: str) -> str:
    return re.sub(r"[^0-9]", "", text)


def instead_of_name(text: str) -> str:
    """Say what to write instead of what is no name."""
    if text in {"*", ""}:
        return "; name each, or select by `attributes`"
    if text.startswith("spiffe://"):
        return "; a SPIFFE ID stands under `identities`"
    label = name_like(text)
    return f"; such as `{label}`" if label else ""


def name_like(text: str) -> str:
    """Give the name that a text would be with the characters of names only, "" if there is none."""
    seen = "".join(each for each in text[: _MAX_REPEATED_CHARACTERS + 1].lower() if each.isprintable())
    label = re.sub(r"[^a-z0-9-]+", "-", seen).strip("-")
    return label if 0 < len(label) <= _MAX_REPEATED_CHARACTERS else ""


def instead_of_all(text: str) -> str:
    """Say what to write instead of a word that is not `all`."""
    if text.lower() in _EVERY:
        return "; did you mean `all`?"
    return f"; write `[{_in_flow(text)}]`" if 0 < len(text) <= _MAX_REPEATED_CHARACTERS else ""


def instead_of_operations(text: str) -> str:
    """Say what to write instead of a word that is not `all`, where operations are to be named."""
    if text.lower() in _EVERY:
        return "; did you mean `all`?"
    return f"; write `[{_operation(text)[1:-1]}]`" if 0 < len(text) <= _MAX_REPEATED_CHARACTERS else ""


def known_field(name: str, known: Collection[str]) -> str | None:
    """Give the field that an unknown one is most likely meant to be, None if nobody can say."""
    if name.strip() in known:  # what looks like an indentation may be a no-break space
        return name.strip()
    for meant in _CALLED_HERE.get(name, ()):
        if meant in known:
            return meant
    if name in _ELSEWHERE:
        return None
    return _named(nearest(name, known)) or None


def unknown_field(name: str, known: Collection[str], belongs: str | None = None) -> str:
    """Say that a field is unknown, and what there is instead; `belongs` is the field that has one of this name."""
    if name.strip() != name:
        space = next((each for each in name if each.isspace() and each != " "), " ")
        return f"unknown field {quoted(name)}; U+{ord(space):04X} only looks like a space: indent with spaces"
    meant = known_field(name, known)
    if meant is not None:
        return f"unknown field {quoted(name)}; did you mean `{meant}`?"
    if name in _ELSEWHERE:
        return f"unknown field {quoted(name)}; {_ELSEWHERE[name]}"
    if belongs is not None:
        return f"unknown field {quoted(name)}; it belongs to `{belongs}`: indent it below"
    here = "; known here: " + ", ".join(f"`{field}`" for field in sorted(known)) if known else ""
    return f"unknown field {quoted(name)}{here}"


def no_list(keys: tuple[Key, ...], value: Value) -> str:
    """Say how what stands where a list belongs is written as one."""
    field = keys[-1] if keys else ""
    match value:
        case dict():
            return "put `- ` before its first line, or write `[{...}]`"
        case str() if field in {"from", "to"}:
            return f"write `[{_entry(str(field), value)}]`"
        case str() if field == "days":
            return "write each day, such as `[mon, tue, wed, thu, fri]`"
        case str() if field == "grpc" and value == "all":
            return "write `operations: all`, or `[pkg.Service/*]`"
        case str() if len(value) <= _MAX_REPEATED_CHARACTERS:
            return f"write `[{_in_flow(value)}]`"
        case _:
            return "write `- ` or `[...]`"


def no_mapping(keys: tuple[Key, ...], value: Value) -> str:  # noqa: PLR0911 a table
    """Say how what stands where a mapping belongs is written as one; "" where that cannot be said."""
    inner = [key for key in keys if isinstance(key, str)]
    field = inner[-1] if inner else ""
    is_entry = bool(keys) and isinstance(keys[-1], int)
    match value:
        case str() if is_entry and field in {"from", "to"}:
            return f"write `{_entry(field, value)}`"
        case str() if is_entry and field == "operations":
            return f"write {_operation(value)}"
        case str() if is_entry and field == "federates":
            return f"write `{{trustDomain: {_in_flow(value)}, bundle: FILE}}`"
        case _ if not is_entry and field == "expect":
            return "write `allow` or `deny`"
        case _ if not is_entry and field == "window":
            return "write `{opens: TIME, closes: TIME}`"
        case tuple() if not is_entry and field == "paths":
            return "write `{allow: [...]}`"
        case tuple() if not is_entry and field in {"labels", "annotations", "attributes", "headers"}:
            return "write `key: value` without `- `"
        case _:
            return ""


def no_text(keys: tuple[Key, ...], value: Value, found: str) -> str | None:  # noqa: PLR0911 a table
    """Say what is expected where text of a certain form belongs, not `found`; None where any text would do."""
    inner = [key for key in keys if isinstance(key, str)]
    field = inner[-1] if inner else ""
    match value:
        case bool() | int() if field in {"opens", "closes", "now", "at"}:
            return f"must be {_TIME}, not {found}"
        case int() if field == "maxWindow" and not isinstance(value, bool):
            return f'must be a duration with its unit, such as "{value}d", not {found}'
        case int() if field in {"from", "until"} and "during" in inner and not isinstance(value, bool):
            return f'must be a time of day in quotes, such as "08:00", not {found}'
        case bool() | int() if field == "days":
            return f"must be one of `mon`, `tue`, `wed`, `thu`, `fri`, `sat`, `sun`, not {found}"
        case bool() | int() if field == "tls":
            return f"must be `TLSv1_2` or `TLSv1_3`, not {found}"
        case bool() | int() if field == "mode":
            return f"must be `enforce` or `observe`, not {found}"
        case dict() if field == "when":
            return f"must be text, not {found}; an expression with `: ` or `{{` in it is written in quotes"
        case dict() if field == "paths":
            return f'must be text, such as "/items/{{id}}" or "/items/{{**}}", not {found}'
        case tuple() if "attributes" in inner:
            return f"must be text, not {found}; an attribute has one value"
        case _:
            return None


def empty(keys: tuple[Key, ...], *, is_list: bool, is_required: bool, of_guardrail: bool) -> str:
    """Say what to write instead of an empty list or mapping."""
    what = f"an empty {'list' if is_list else 'mapping'} is not allowed"
    field = keys[-1] if keys else ""
    if field == "operations":
        return f"{what}; write `all`, or a list such as `[{{methods: [GET], paths: [/items]}}]`"
    if field in {"methods", "paths"} and "operations" in keys and is_list:
        return f"{what}; write `all` for every one, or name them"
    if field in {"from", "to"} and of_guardrail:
        return f"{what}; leave `{field}` out for {'everyone' if field == 'from' else 'everything'}, or give it a value"
    if isinstance(field, int):
        return f"{what}; leave the entry out, or say something in it"
    return f"{what}; {'give it a value' if is_required else 'leave the field out, or give it a value'}"


def _entry(side: str, text: str) -> str:
    field = "identities" if text.startswith("spiffe://") else "services"
    name = _in_flow(text) if text not in {"all", "any", "*", "everyone", ""} else "NAME"
    return f"{{{field}: [{name}]" + ("}" if side == "from" else ", operations: [...]}")


def _operation(text: str) -> str:
    if text in {"all", "any", "*"}:
        return "`operations: all`"
    method, _, path = text.partition(" ")
    if path.startswith("/") and re.fullmatch(r"[A-Z]+", method):
        return f"`{{methods: [{method}], paths: [{_in_flow(path)}]}}`"
    if text.startswith("/"):
        return f"`{{methods: [GET], paths: [{_in_flow(text)}]}}`"
    if re.fullmatch(r"[A-Z]+", text):
        return f"`{{methods: [{text}], paths: [...]}}`"
    return f"`{{{'grpc' if '/' in text else 'api'}: [{_in_flow(text)}]}}`"


def _in_flow(text: str) -> str:
    """Give a text as it is written in a list in brackets, on one line."""
    text = quoted(text)[1:-1]
    return text if re.fullmatch(r"[A-Za-z0-9/][A-Za-z0-9 /._:-]*", text) and ": " not in text else f'"{text}"'
