"""`authz check`: one call, or a stream of calls, answered from a policy folder as a sidecar would answer them."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from authz.cli.arguments import NO, USAGE, YES
from authz.cli.json_lines import lines_of
from authz.decision import Verdict
from authz.errors import UsageError
from authz.instant import rfc3339_from_ns
from authz.policy.asked_call import AskedCall, AskedCallError
from authz.policy.asked_call_json import asked_call_from_json
from authz.policy.errors import printable, quoted
from authz.policy.evaluation import evaluate
from authz.policy.explanation_json import answer
from authz.policy.index import compile_index
from authz.policy.policy_test import directory_of
from authz.policy.remedy import nearest_word
from authz.policy.window import InstantError, parse_instant_ns
from authz.policy_folder import load_policy_folder
from authz.request import Direction, TlsVersion

if TYPE_CHECKING:
    import argparse

    from authz.cli.arguments import CommandParser
    from authz.decision import Decision
    from authz.policy.asked_call import Directory
    from authz.policy.index import PolicyIndex
    from authz.request import Call

#: the flags that say what one call is
_CALL_FLAGS: Final = ("from", "to", "method", "path", "grpc", "header", "tls", "direction", "host", "at")
_ENCODER: Final = json.JSONEncoder(separators=(", ", ": "), ensure_ascii=False, check_circular=False)


def add_call_flags(parser: CommandParser) -> None:
    """Add the flags that say what a call is."""
    parser.add_flag("--from", dest="caller", metavar="F", help="a Service or ThirdParty, or a SPIFFE ID; none: nobody")
    parser.add_flag("--to", dest="destination", metavar="T", help="a Service or ThirdParty, or a host")
    parser.add_flag("--method", metavar="M", help="the HTTP method")
    parser.add_flag("--path", metavar="P", help="the path as it is sent, with its query")
    parser.add_flag("--grpc", metavar="pkg.Service/Method", help="a gRPC call, instead of --method and --path")
    parser.add_flag("--header", action="append", metavar="K=V", help="a request header; may be given several times")
    parser.add_flag("--host", metavar="H", help="what the Host header says; default: the destination's name")
    parser.add_flag("--tls", metavar="VERSION", help="TLSv1_2 or TLSv1_3 (the default), for inbound calls")
    parser.add_flag("--direction", metavar="D", help="inbound or outbound; default: inbound where --to is a Service")
    parser.add_flag("--at", metavar="TIME", help="when, as RFC 3339 with an offset; default: now")


def check(given: argparse.Namespace, *, as_json: bool) -> int:
    """Run `authz check`."""
    policy_set = load_policy_folder(given.policies)
    index, directory = compile_index(policy_set), directory_of(policy_set)
    if given.calls is not None:
        return _check_stream(given, index, directory)
    call, at_ns = call_of(given, directory)
    decision = evaluate(index, call, at_ns)
    print(json.dumps(answer(decision)) if as_json else "\n".join(pretty_lines(given, decision, at_ns)))
    return YES if decision.verdict is Verdict.ALLOW else NO


def call_of(given: argparse.Namespace, directory: Directory) -> tuple[Call, int]:
    """Give the one call that the flags say, and when it is; raises UsageError that names the flag at fault."""
    at_ns = time.time_ns() if given.at is None else _instant(given.at)
    try:
        return directory.call(_asked(given)), at_ns
    except AskedCallError as error:
        flag = "--header" if error.field == "headers" else f"--{error.field}"
        raise UsageError(f"{flag}: {error}" if error.field else str(error)) from error


def pretty_lines(given: argparse.Namespace, decision: Decision, at_ns: int) -> list[str]:
    """Show an answer to a person, with the call that it answers."""
    what = f"grpc {given.grpc}" if given.grpc else f"{given.method} {given.path}"
    lines = [
        f"{decision.verdict}: {decision.reason}" + ("" if decision.policy is None else f", by `{decision.policy}`"),
        printable(f"  call         {given.caller or '(nobody)'} -> {given.destination}: {what}"),
        f"  at           {rfc3339_from_ns(at_ns)}",
    ]
    if decision.valid_until_ns is not None:
        then = Verdict.DENY if decision.verdict is Verdict.ALLOW else Verdict.ALLOW
        lines.append(f"  valid until  {rfc3339_from_ns(decision.valid_until_ns)} ({then} from then on)")
    if decision.shadow is not None:
        by = "" if decision.shadow.policy is None else f", by `{decision.shadow.policy}`"
        lines.append(f"  if enforced  {decision.shadow.decision}: {decision.shadow.reason}{by}")
    if decision.route is not None:
        lines.append(f"  route        {decision.route}")
    lines.append(f"  revision     {decision.revision}")
    return lines


def _asked(given: argparse.Namespace) -> AskedCall:
    return AskedCall(
        caller=given.caller,
        destination=given.destination,
        method=given.method,
        path=given.path,
        grpc=given.grpc,
        headers=tuple(_header(text) for text in given.header or ()),
        tls=None if given.tls is None else _word("--tls", given.tls, {str(each): each for each in TlsVersion}),
        direction=None
        if given.direction is None
        else _word("--direction", given.direction, {str(each): each for each in Direction}),
        host=given.host,
    )


def _header(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        colon, _, rest = text.partition(":")
        hint = f"; write {quoted(f'{colon.strip()}={rest.strip()}')}" if rest else ""
        raise UsageError(f"--header: {quoted(text)} is not K=V{hint}")
    return name, value


def _word(flag: str, text: str, words: dict[str, Any]) -> Any:
    if text not in words:
        allowed = " nor ".join(f"`{word}`" for word in words)
        raise UsageError(f"{flag}: {quoted(text)} is neither {allowed}{nearest_word(text, words)}")
    return words[text]


def _instant(text: str) -> int:
    try:
        return parse_instant_ns(text)
    except InstantError as error:
        raise UsageError(f"--at: {error}") from error


# --- streams -------------------------------------------------------------------------------------------------------


def _check_stream(given: argparse.Namespace, index: PolicyIndex, directory: Directory) -> int:
    """Answer one call a line, in order; exit status 2 if a line was no call."""
    names = {"from": "caller", "to": "destination"}
    for flag in _CALL_FLAGS:
        if getattr(given, names.get(flag, flag)):
            raise UsageError(f"--calls says what each call is; leave --{flag} out")
    output = sys.stdout.buffer
    if given.calls == "-":
        # Whoever writes line by line gets each answer before the next question.
        return _answer_lines(sys.stdin.buffer, output, index, directory, flush=True)
    try:
        calls = open(given.calls, "rb")  # noqa: PTH123, SIM115 the path may be a pipe of the shell's, /dev/fd/63
    except OSError as error:
        raise UsageError(f"--calls: {given.calls}: {(error.strerror or 'it cannot be read').lower()}") from error
    with calls:
        return _answer_lines(calls, output, index, directory, flush=False)


def _answer_lines(calls: BinaryIO, output: BinaryIO, index: PolicyIndex, directory: Directory, *, flush: bool) -> int:
    status = YES
    for line in lines_of(calls):
        try:
            asked, at_ns = asked_call_from_json(line)
            decision = evaluate(index, directory.call(asked), time.time_ns() if at_ns is None else at_ns)
            text = _ENCODER.encode(answer(decision))
        except AskedCallError as error:
            status = USAGE
            text = _ENCODER.encode({"error": str(error)})
        output.write(text.encode("utf-8", errors="replace") + b"\n")
        if flush:
            output.flush()
    output.flush()
    return status
