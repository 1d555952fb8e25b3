"""The laws of the policy language, each a class whose docstring is the sentence that is tested."""

# ruff: noqa: S311 sets are made by chance from the seed that hypothesis chooses

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings, strategies as st

from authz.decision import Decision, Reason, Verdict
from authz.identity.spiffe_id import SpiffeId
from authz.policy.asked_call import AskedCall, AskedCallError
from authz.policy.asked_call_json import asked_call_from_json
from authz.policy.document import SourceFile
from authz.policy.errors import PolicySetFaults
from authz.policy.evaluation import evaluate, steady_until_ns
from authz.policy.finding import LintCode
from authz.policy.index import compile_index
from authz.policy.lint import lint
from authz.policy.policy_set import PolicySet, parse_policy_set
from authz.policy.policy_test import directory_of
from authz.policy.schema import Kind
from authz.policy.window import HORIZON_NS
from authz.request import Call, Direction, TlsVersion
from tests.conformance.reference import Answer, reference_answer, window_edges_ns
from tests.support.generated_sets import FEDERATED, OTHER_OWN, OWN, GeneratedSet, as_yaml

if TYPE_CHECKING:
    from authz.policy.index import PolicyIndex

SEEDS = st.integers(min_value=0, max_value=2**48)
CALLS_PER_SET = 15
MS = 1_000_000


def generated(seed: int) -> tuple[GeneratedSet, PolicySet, PolicyIndex]:
    made = GeneratedSet(Random(seed))
    policy_set = parse_policy_set(made.files())
    return made, policy_set, compile_index(policy_set)


def as_answer(got: Decision) -> Answer:
    shadow = None if got.shadow is None else (got.shadow.decision.value, got.shadow.reason.value, got.shadow.policy)
    return Answer(got.verdict.value, got.reason.value, got.policy, got.valid_until_ns, shadow)


def questions(made: GeneratedSet) -> list[tuple[Call, int]]:
    return [(made.call(), made.now_ns()) for _ in range(CALLS_PER_SET)]


def shuffled(value: Any, random: Random) -> Any:
    """Give the same documents with their lists and fields in another order."""
    if isinstance(value, list):
        entries = [shuffled(entry, random) for entry in value]
        random.shuffle(entries)
        return entries
    if isinstance(value, dict):
        items = [(key, value[key] if key == "trustDomains" else shuffled(value[key], random)) for key in value]
        random.shuffle(items)
        return dict(items)
    return value


class TestReference:
    """The engine answers every call as the reference does, which walks every rule."""

    @settings(max_examples=300)
    @given(seed=SEEDS)
    def test_the_engine_equals_the_reference(self, seed: int) -> None:
        made, policy_set, index = generated(seed)
        for call, now_ns in questions(made):
            got = evaluate(index, call, now_ns)
            assert as_answer(got) == reference_answer(policy_set, call, now_ns), (call, now_ns)


class TestOrder:
    """The order of files, documents and entries never changes an answer, nor the revision."""

    @settings(max_examples=60)
    @given(seed=SEEDS)
    def test_order_says_nothing(self, seed: int) -> None:
        made, policy_set, index = generated(seed)
        random = Random(seed)
        documents = shuffled(made.documents, random)
        files = [
            SourceFile(f"{random.randrange(1000)}-{number}.yaml", as_yaml([each]))
            for number, each in enumerate(documents)
        ]
        other_set = parse_policy_set(files)
        other = compile_index(other_set)
        assert other_set.revision == policy_set.revision
        for call, now_ns in questions(made):
            assert evaluate(other, call, now_ns) == evaluate(index, call, now_ns)

    @settings(max_examples=20)
    @given(seed=SEEDS)
    def test_loading_twice_gives_the_same_revision(self, seed: int) -> None:
        made, policy_set, _ = generated(seed)
        assert parse_policy_set(made.files()).revision == policy_set.revision


class TestRemoval:
    """Removing a MicroPolicy never allows more; what observe mode lets through is not allowed."""

    @settings(max_examples=60)
    @given(seed=SEEDS)
    def test_fewer_rules_allow_less(self, seed: int) -> None:
        made, _, index = generated(seed)
        rules = [each for each in made.documents if each["kind"] == "MicroPolicy"]
        if not rules:
            return
        gone = Random(seed).choice(rules)
        fewer = compile_index(parse_policy_set(made.files([each for each in made.documents if each is not gone])))
        for call, now_ns in questions(made):
            if evaluate(fewer, call, now_ns).reason is Reason.ALLOWED:
                assert evaluate(index, call, now_ns).reason is Reason.ALLOWED


class TestGuardrails:
    """A Guardrail beats every allow, and adding one never allows more."""

    @settings(max_examples=100)
    @given(seed=SEEDS)
    def test_one_more_allows_less(self, seed: int) -> None:
        made, _, index = generated(seed)
        one = made.guardrail("one-more")
        more = compile_index(parse_policy_set(made.files([*made.documents, one])))
        for call, now_ns in questions(made):
            if evaluate(more, call, now_ns).verdict is Verdict.ALLOW:
                assert evaluate(index, call, now_ns).verdict is Verdict.ALLOW

    @settings(max_examples=100)
    @given(seed=SEEDS)
    def test_what_it_matches_is_denied(self, seed: int) -> None:
        made, _, index = generated(seed)
        one = made.guardrail("a-first-name")
        one["spec"].pop("require", None)
        one["spec"].pop("window", None)
        one["spec"].pop("when", None)
        one["spec"]["mode"] = "enforce"
        more = compile_index(parse_policy_set(made.files([*made.documents, one])))
        # What it matches is what a rule of the same words would allow if there was nothing else.
        everyone = {"identities": [f"spiffe://{each}/**" for each in (OWN, OTHER_OWN, FEDERATED)]}
        parties = [
            {kind: names, "operations": "all"}
            for kind, names in (("services", made.services), ("thirdParties", made.third_parties))
            if names
        ]
        rule = {"from": one["spec"].get("from", [everyone]), "to": one["spec"].get("to", parties)}
        rules = {"apiVersion": "authz/v1", "kind": "MicroPolicy", "metadata": {"name": "same"}, "spec": rule}
        rest = [each for each in made.documents if each["kind"] not in {"MicroPolicy", "Guardrail"}]
        alone = compile_index(parse_policy_set(made.files([*rest, rules])))
        for call, now_ns in questions(made):
            if evaluate(alone, call, now_ns).reason is Reason.ALLOWED:
                got = evaluate(more, call, now_ns)
                assert (got.verdict, got.reason) == (Verdict.DENY, Reason.GUARDRAIL)
                assert got.valid_until_ns is None
                assert evaluate(index, call, now_ns).reason is Reason.GUARDRAIL or got.policy == "a-first-name"


class TestObserve:
    """Observe mode changes only steps 7 and 8, and `shadow` is what enforce would say."""

    @settings(max_examples=150)
    @given(seed=SEEDS)
    def test_the_shadow_is_the_answer_of_the_enforced_set(self, seed: int) -> None:
        made, _, index = generated(seed)
        enforced = compile_index(parse_policy_set(made.files(with_modes_of(made.documents, set()))))
        for call, now_ns in questions(made):
            got, other = as_answer(evaluate(index, call, now_ns)), as_answer(evaluate(enforced, call, now_ns))
            assert other.shadow is None
            same = (other.decision, other.reason, other.policy)
            assert (got.shadow or (got.decision, got.reason, got.policy)) == same
            assert got.shadow != (got.decision, got.reason, got.policy)

    @settings(max_examples=150)
    @given(seed=SEEDS)
    def test_a_call_in_observe_mode_differs_in_steps_7_and_8_only(self, seed: int) -> None:
        made, _, index = generated(seed)
        enforced = compile_index(
            parse_policy_set(made.files(with_modes_of(made.documents, {"MicroPolicy", "Guardrail"})))
        )
        for call, now_ns in questions(made):
            got, other = evaluate(index, call, now_ns), evaluate(enforced, call, now_ns)
            if got.reason is Reason.OBSERVED:
                assert other.reason in {
                    Reason.NOT_YET_OPEN,
                    Reason.OUTSIDE_HOURS,
                    Reason.CLOSED,
                    Reason.NO_POLICY,
                }
                assert got.policy is None
            else:
                assert (got.reason, got.policy) == (other.reason, other.policy)


def with_modes_of(documents: list[dict[str, Any]], kinds: set[str]) -> list[dict[str, Any]]:
    """Give the documents without the modes of those of other kinds."""
    copies = deepcopy(documents)
    for each in copies:
        if each["kind"] not in kinds:
            each["spec"].pop("mode", None)
            each["spec"].pop("defaults", None)
            if each["kind"] == "Guardrail":
                each["spec"]["mode"] = "enforce"
    return copies


class TestWindow:
    """Outside its window nothing is allowed by a rule, and nothing at all where a ThirdParty takes part."""

    @settings(max_examples=100)
    @given(seed=SEEDS)
    def test_what_allows_is_open(self, seed: int) -> None:
        made, policy_set, index = generated(seed)
        rules = {rule.name: rule.window for rule in policy_set.micro_policies}
        parties = {party.name: party.window for party in policy_set.third_parties}
        for call, now_ns in questions(made):
            got = evaluate(index, call, now_ns)
            if got.verdict is Verdict.ALLOW:
                assert (got.policy is None) == (got.reason is Reason.OBSERVED)
                windows = [] if got.policy is None else [rules[got.policy]]
                windows += [parties[name] for name in (got.caller_third_party, got.destination_third_party) if name]
                for window in windows:
                    assert window.opens_ns is None or window.opens_ns <= now_ns
                    assert window.closes_ns is None or now_ns < window.closes_ns
                    assert window.hours is None or window.hours.is_open(now_ns)


class TestValidUntil:
    """`valid_until` is the first later instant, within 366 days, at which the same call gets the other verdict."""

    @settings(max_examples=100)
    @given(seed=SEEDS)
    def test_it_is_tight(self, seed: int) -> None:
        made, policy_set, index = generated(seed)
        for call, now_ns in questions(made):
            got = evaluate(index, call, now_ns)
            until_ns = got.valid_until_ns
            if until_ns is not None:
                assert now_ns < until_ns <= now_ns + HORIZON_NS
                assert evaluate(index, call, until_ns).verdict is not got.verdict
                for before_ns in (until_ns - 1, until_ns - MS):
                    if before_ns >= now_ns:
                        assert evaluate(index, call, before_ns).verdict is got.verdict
            for edge_ns in window_edges_ns(policy_set, now_ns):
                if until_ns is None or edge_ns < until_ns:
                    assert evaluate(index, call, edge_ns).verdict is got.verdict


class TestSteady:
    """Until `steady_until_ns` the same call gets the same decision, in all that it says, from wherever it comes."""

    @settings(max_examples=200)
    @given(seed=SEEDS, expanded=st.booleans(), shares=st.lists(st.floats(0, 1), max_size=5))
    def test_nothing_of_it_changes(self, seed: int, shares: list[float], *, expanded: bool) -> None:
        made, policy_set, index = generated(seed)
        for call, now_ns in questions(made):
            if expanded:
                index = compile_index(policy_set, now_ns)
            got = evaluate(index, call, now_ns)
            until_ns = steady_until_ns(index, call, now_ns)
            kind = tuple(each for each in call.headers if each[0] == "content-type")
            elsewhere = replace(call, address="198.51.100.7:1", headers=(*kind, ("x-request-id", b"another")))
            instants = {now_ns, now_ns + 1, until_ns - MS, until_ns - 1, *window_edges_ns(policy_set, now_ns)}
            instants |= {now_ns + int(share * (until_ns - now_ns)) for share in shares}
            for at_ns in instants:
                if now_ns <= at_ns < until_ns:
                    assert got.verdict is Verdict.ALLOW
                    assert evaluate(index, elsewhere, at_ns) == got


class TestDirections:
    """Between two Services both directions give the same answer."""

    @settings(max_examples=100)
    @given(seed=SEEDS)
    def test_both_sidecars_agree(self, seed: int) -> None:
        made, _, index = generated(seed)
        for call, now_ns in questions(made):
            if call.service not in made.services:
                continue
            # Outbound, the sidecar of a Service uses nothing else.
            inbound = replace(call, direction=Direction.INBOUND, host=call.service, tls=TlsVersion.TLS_1_3)
            outbound = replace(call, direction=Direction.OUTBOUND, host=call.service, service="")
            answer = evaluate(index, inbound, now_ns)
            if call.method != "CONNECT" and answer.caller_third_party is None:
                assert evaluate(index, outbound, now_ns) == answer


class TestEvidence:
    """Whoever presents another's token, and whatever proves a caller, never makes more allowed."""

    @settings(max_examples=100)
    @given(seed=SEEDS)
    def test_a_presenter_never_allows_more_than_the_subject_itself(self, seed: int) -> None:
        made = GeneratedSet(Random(seed), evidence=1)
        index = compile_index(parse_policy_set(made.files()))
        for call, now_ns in questions(made) * 2:
            if call.presenter is not None and evaluate(index, call, now_ns).verdict is Verdict.ALLOW:
                itself = replace(call, presenter=call.caller, serial=None)
                assert evaluate(index, itself, now_ns).verdict is Verdict.ALLOW

    @settings(max_examples=100)
    @given(seed=SEEDS)
    def test_what_is_not_accepted_identifies_nobody(self, seed: int) -> None:
        made = GeneratedSet(Random(seed), evidence=1)
        index = compile_index(parse_policy_set(made.files()))
        without = deepcopy(made.documents)
        for each in without:
            each["spec"].pop("accepts", None)
            each["spec"].pop("egress", None)
        less = compile_index(parse_policy_set(made.files(without)))
        for call, now_ns in questions(made) * 2:
            got = evaluate(less, call, now_ns)
            if call.presenter is not None:
                assert got.reason in {Reason.UNIDENTIFIED, Reason.MALFORMED}
            elif call.method == "CONNECT":
                assert got.verdict is Verdict.DENY
            elif evaluate(index, call, now_ns).verdict is Verdict.ALLOW:
                assert got.verdict is Verdict.ALLOW


#: what lint calls superfluous, whatever the time
SUPERFLUOUS = {LintCode.SHADOWED, LintCode.NEVER_OPEN, LintCode.SELECTS_NOTHING}


class TestSuperfluous:
    """A rule that lint calls shadowed, never open or about nobody can be removed: no call gets another verdict."""

    @settings(max_examples=150)
    @given(seed=SEEDS)
    def test_what_is_superfluous_can_go(self, seed: int) -> None:
        made, policy_set, index = generated(seed)
        # Each document stands in a line of its own.
        lines = {each.line for each in lint(policy_set, now_ns=made.now_ns()) if each.code in SUPERFLUOUS}
        for rule in policy_set.micro_policies:
            if policy_set.documents[Kind.MICRO_POLICY, rule.name].root.line in lines:
                rest = [each for each in made.documents if each["metadata"]["name"] != rule.name]
                without = compile_index(parse_policy_set(made.files(rest)))
                for call, now_ns in questions(made) * 2:
                    assert evaluate(without, call, now_ns).verdict is evaluate(index, call, now_ns).verdict


class TestForbidden:
    """A rule that lint calls forbidden allows no call."""

    @settings(max_examples=150)
    @given(seed=SEEDS)
    def test_what_is_forbidden_allows_nothing(self, seed: int) -> None:
        made, policy_set, index = generated(seed)
        found = lint(policy_set, now_ns=made.now_ns())
        lines = {each.line for each in found if each.code == LintCode.FORBIDDEN}
        names = {
            rule.name
            for rule in policy_set.micro_policies
            if policy_set.documents[Kind.MICRO_POLICY, rule.name].root.line in lines
        }
        if names:
            for call, now_ns in questions(made) * 4:
                got = evaluate(index, call, now_ns)
                assert got.reason is not Reason.ALLOWED or got.policy not in names


# --- nothing raises ------------------------------------------------------------------------------------------------

YAML_PIECES = st.sampled_from(
    ["a", ": ", "\n", "  ", "- ", "[", "]", "{", "}", ",", "'", '"', "|", ">", "&x", "*x", "!!str ", "#", "?", "---\n",
     "...\n", "%YAML 1.1\n", "\t", "null", "~", "true", "NO", "017", "kind: Mesh\n", "apiVersion: authz/v1\n", "spec:",
     "metadata: {name: a}\n", "<<: ", "\ufeff", "\x00", "\u2028", "é", "\U0001f600", "spiffe://a/b", "2026-01-01"]
)  # fmt: skip


def set_or_faults(content: bytes) -> PolicySet | None:
    try:
        return parse_policy_set([SourceFile("any.yaml", content)])
    except PolicySetFaults as raised:
        faults = raised.faults
    assert faults
    assert list(faults) == sorted(faults)
    for fault in faults:
        assert fault.line >= 1
        assert fault.column >= 1
        assert "\n" not in str(fault)
    return None


class TestLoader:
    """Any bytes give a policy set or its faults, each with a position; nothing else is raised."""

    @settings(max_examples=150)
    @given(content=st.binary(max_size=400))
    def test_bytes(self, content: bytes) -> None:
        set_or_faults(content)

    @settings(max_examples=200)
    @given(pieces=st.lists(YAML_PIECES, max_size=60))
    def test_pieces_of_yaml(self, pieces: list[str]) -> None:
        set_or_faults("".join(pieces).encode())

    @settings(max_examples=200)
    @given(seed=SEEDS, cuts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), YAML_PIECES), max_size=4))
    def test_sets_that_were_damaged(self, seed: int, cuts: list[tuple[float, int, str]]) -> None:
        text = GeneratedSet(Random(seed)).files()[0].content.decode()
        for where, length, piece in cuts:
            start = int(where * len(text))
            text = text[:start] + piece + text[start + length :]
        set_or_faults(text.encode("utf-8", "replace"))

    @settings(max_examples=200)
    @given(seed=SEEDS, value=st.recursive(
        st.one_of(st.booleans(), st.integers(), st.text(max_size=8), st.none(), st.floats()),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    ))  # fmt: skip
    def test_sets_with_one_value_replaced(self, seed: int, value: Any) -> None:
        random = Random(seed)
        documents = deepcopy(GeneratedSet(random).documents)
        target: Any = random.choice(documents)
        while True:
            keys = list(target) if isinstance(target, dict) else list(range(len(target)))
            key = random.choice(keys)
            if isinstance(target[key], dict | list) and target[key] and random.random() < 0.8:
                target = target[key]
                continue
            target[key] = value
            break
        set_or_faults(as_yaml(documents).decode("utf-8", "surrogatepass").encode("utf-8", "replace"))


#: the reference reads calendars with the standard library: from the year 5 to the year 9995
CALENDAR_NS = (-62_000_000_000 * 10**9, 253_200_000_000 * 10**9)
ANY_TEXT = st.text(max_size=60) | st.text(alphabet="/.;%2Fea?#\\:@[]*{}-_A\x00\ud800", max_size=40)
ANY_ID = st.none() | st.sampled_from(
    [SpiffeId.parse(f"spiffe://{each}") for each in ("o.example/a", "f.example/a/b", "x.example/a", "o.example")]
)


class TestTotal:
    """Every Call gets a Decision at every instant, whatever its texts are."""

    @settings(max_examples=400)
    @given(
        seed=st.integers(0, 20),
        direction=st.sampled_from(Direction),
        caller=ANY_ID,
        texts=st.tuples(ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT),
        usual=st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()),
        headers=st.lists(st.tuples(ANY_TEXT | st.just("content-type"), st.binary(max_size=20)), max_size=3),
        serial=st.none() | ANY_TEXT,
        now_ns=st.integers(-(10**22), 10**22),
    )
    def test_every_call_is_answered(
        self,
        seed: int,
        direction: Direction,
        caller: SpiffeId | None,
        texts: tuple[str, str, str, str],
        usual: tuple[bool, bool, bool, bool],
        headers: list[tuple[str, bytes]],
        serial: str | None,
        now_ns: int,
    ) -> None:
        _, policy_set, index = generated(seed)
        fields = zip(texts, ("s1", "POST", "/a/b", "s1"), usual, strict=True)
        service, method, path, host = (standard if is_usual else text for text, standard, is_usual in fields)
        call = Call(
            direction=direction,
            service=service,
            caller=caller,
            method=method,
            path=path,
            host=host,
            headers=tuple(headers),
            serial=serial,
        )
        got = evaluate(index, call, now_ns)
        assert isinstance(got, Decision)
        assert got.reason not in {Reason.INTERNAL_ERROR, Reason.OVERLOADED}
        if CALENDAR_NS[0] < now_ns < CALENDAR_NS[1]:
            assert as_answer(got) == reference_answer(policy_set, call, now_ns)


class TestAskedCalls:
    """Any line gives a call or says what is wrong with it; nothing else is raised."""

    @settings(max_examples=200)
    @given(line=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
    def test_bytes(self, line: bytes) -> None:
        try:
            asked, at_ns = asked_call_from_json(line)
        except AskedCallError as error:
            message = str(error)
        else:
            assert isinstance(asked, AskedCall)
            assert at_ns is None or isinstance(at_ns, int)
            return
        assert message
        assert "\n" not in message

    @settings(max_examples=300)
    @given(
        caller=st.none() | ANY_TEXT | st.sampled_from(["s1", "p1", "spiffe://o.example/a"]),
        destination=st.none() | ANY_TEXT | st.sampled_from(["s1", "p1", "t.example", "s9"]),
        method=st.none() | ANY_TEXT,
        path=st.none() | ANY_TEXT,
        grpc=st.none() | ANY_TEXT | st.just("pkg.S/M"),
        headers=st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=2),
        direction=st.none() | st.sampled_from(Direction),
        host=st.none() | ANY_TEXT,
    )
    def test_words(self, headers: list[tuple[str, str]], **words: Any) -> None:
        _, policy_set, index = generated(7)
        try:
            call = directory_of(policy_set).call(AskedCall(headers=tuple(headers), **words))
        except AskedCallError as error:
            message = str(error)
        else:
            assert isinstance(evaluate(index, call, 0), Decision)
            return
        assert message
        assert "\n" not in message
