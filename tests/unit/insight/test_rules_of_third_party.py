"""Which rules end with a ThirdParty, and which go on for others, whatever selects it."""

from __future__ import annotations

import pytest

from authz.insight.rules_of_third_party import rules_of_third_party
from tests.support.policy_sets import OPEN
from tests.support.policy_texts import document, parsed, rule, service

SET = (
    service("a"),
    service("b"),
    *(
        document(
            "ThirdParty",
            name,
            f'{{identities: ["spiffe://acme.example/{name}"], hosts: [{name}.example], attributes: {{of: {name}}},'
            f" window: {OPEN}}}",
        )
        for name in ("acme", "psp")
    ),
)


@pytest.mark.parametrize(
    ("callers", "to", "only", "too"),
    [
        ("[{thirdParties: [acme]}]", "{services: [b]}", True, False),
        ("[{thirdParties: [acme, psp]}]", "{services: [b]}", False, True),
        ("[{services: [a]}]", "{thirdParties: [acme]}", True, False),
        ("[{services: [a]}]", "{thirdParties: [acme, psp]}", False, True),
        ("[{services: [a]}]", "{attributes: {of: [acme]}}", True, False),
        ("[{attributes: {of: [acme, psp]}}]", "{services: [b]}", False, True),
        ('[{thirdParties: [acme], identities: ["spiffe://acme.example/acme"]}]', "{services: [b]}", True, False),
        ('[{identities: ["spiffe://acme.example/**"]}]', "{services: [b]}", False, True),
        ("[{services: [a]}, {thirdParties: [acme]}]", "{services: [b]}", False, True),
        ("[{thirdParties: [psp]}]", "{services: [b]}", False, False),
        ("[{services: [a]}]", "{services: [b]}", False, False),
    ],
)
def test_a_rule_ends_goes_on_or_has_nothing_to_do_with_it(callers: str, to: str, only: bool, too: bool) -> None:  # noqa: FBT001
    policy_set = parsed(*SET, rule("r", callers=callers, to=to))
    rules = rules_of_third_party(policy_set, next(each for each in policy_set.third_parties if each.name == "acme"))
    assert (rules.only == ("r",), rules.too == ("r",)) == (only, too)
