"""`authz svid`: issue X.509-SVIDs from a local authority; `svid_show` and `svid_verify` have the other commands."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from authz.cli.arguments import YES, Subcommands
from authz.cli.duration import duration_or_none_at_all
from authz.cli.svid_show import add_show
from authz.cli.svid_verify import add_verify
from authz.errors import UsageError
from authz.identity.authority import Authority
from authz.identity.bundle import Bundle
from authz.mesh.errors import MeshError
from authz.mesh.workload_identity import identity_of
from authz.policy.errors import PolicyError
from authz.svid_files import SvidFilesError, bundle_document_file, kept_authority, write_svid

if TYPE_CHECKING:
    from authz.identity.spiffe_id import SpiffeId, TrustDomain
    from authz.policy.policy_set import PolicySet

_AUTHORITY_LIFETIME = timedelta(days=365)
#: X.509 counts in whole seconds, and a renewal takes place at half of this.
_SHORTEST_LIFETIME = timedelta(seconds=2)
#: How long `--renew` waits at most before it looks at the clock again, which may have been set meanwhile.
_LONGEST_WAIT = timedelta(seconds=30)
#: How long `--renew` waits before it tries again what has failed.
_RETRY = timedelta(seconds=5)
_X509_LIFETIME = timedelta(hours=1)
#: A token can be replayed until it ends.
_TOKEN_LIFETIME = timedelta(minutes=5)

_MINT_DESCRIPTION = """\
Issue an X.509-SVID for every Service of a policy folder, into OUT/<service>/svid.pem, key.pem and bundle.pem; and
bundle.json, the SPIFFE bundle document, which also has the key of JWT-SVIDs.

With --audience: issue one JWT-SVID for --service instead, and print it. Whoever has it is that Service until it ends,
so keep it short. It is signed with the authority that --authority keeps.

An SVID carries the Service's first exact identity. A Service that has only patterns gets its first pattern, with
every `*` and `**` replaced by the Service's name: `spiffe://shop.example/ns/*/sa/**` of `orders` becomes
`spiffe://shop.example/ns/orders/sa/orders` (or `.../orders-2` where that ID is another Service's).

Directories are made for their owner alone, and so are the files; each write replaces all files of a Service at once.
Where the Mesh has several trust domains, each has an authority of its own, and the bundles of the others stand
beside bundle.pem as bundle.<trust domain>.pem and .json.
"""


def add_commands(commands: Subcommands) -> None:
    """Add `svid mint`, `svid show` and `svid verify`."""
    subcommands = commands.add_group(
        "svid",
        summary="issue SVIDs of a local authority; show and verify SVIDs of any",
        example="authz svid mint --policies policies --out svids",
    )
    _add_mint(subcommands)
    add_show(subcommands)
    add_verify(subcommands)


def _add_mint(commands: Subcommands) -> None:
    parser = commands.add(
        "mint",
        _mint,
        summary="issue an X.509-SVID for every Service of a policy folder, or a JWT-SVID for one",
        example="authz svid mint --policies policies --out svids --lifetime 1h",
    )
    parser.description = _MINT_DESCRIPTION
    parser.add_flag("--policies", required=True, metavar="DIR", help="the policy folder")
    parser.add_flag("--out", metavar="DIR", help="where the directories of the Services are made")
    parser.add_flag("--service", action="append", metavar="NAME", help="only this Service; may be given several times")
    parser.add_flag(
        "--lifetime",
        type=_lifetime,
        metavar="DURATION",
        help="how long an SVID is valid: a number with s, m, h or d (default 1h; 5m with --audience)",
    )
    parser.add_flag(
        "--authority",
        metavar="DIR",
        help="keep the authorities' keys here; without it they are made for this run and never written, "
        "so that every SVID of an earlier run stops being trusted",
    )
    parser.add_flag(
        "--renew",
        action="store_true",
        help="stay, and issue anew at half of the lifetime for the Services the folder then has, until SIGTERM",
    )

    parser.add_flag(
        "--audience",
        action="append",
        metavar="NAME",
        help="issue a JWT-SVID for whom this names, and print it; may be given several times",
    )


def _lifetime(text: str) -> timedelta:
    lifetime = duration_or_none_at_all(text)
    if lifetime < _SHORTEST_LIFETIME:
        raise argparse.ArgumentTypeError(f"`{text}` is too short: an SVID lives for two seconds at least")
    return lifetime


def _mint(given: argparse.Namespace) -> int:
    mint = _Mint(
        policies=given.policies,
        out=Path(given.out or ""),
        only=tuple(dict.fromkeys(given.service or ())),
        lifetime=given.lifetime or (_TOKEN_LIFETIME if given.audience else _X509_LIFETIME),
        authority_directory=None if given.authority is None else Path(given.authority),
    )
    if given.audience:
        if given.authority is None or len(mint.only) != 1 or given.out is not None or given.renew:
            raise UsageError("--audience issues one token: it needs --authority and one --service, and no --out")
        print(mint.token(_policy_set(mint.policies), given.audience))
        return YES
    if given.out is None:
        raise UsageError("give --out, or --audience for a token (see `authz svid mint --help`)")
    if not given.renew:
        mint.issue(_policy_set(mint.policies))
        return YES
    stop = threading.Event()
    # From before the first file is written on, a signal only asks: the command ends between two writes.
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        _renew(mint, stop)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return YES


def _renew(mint: _Mint, stop: threading.Event) -> None:
    """Issue, and issue again at half-life, until `stop` is set."""
    policy_set = _policy_set(mint.policies)
    renew_at = mint.issue(policy_set)
    while not stop.wait(min(renew_at - datetime.now(UTC), _LONGEST_WAIT).total_seconds()):
        if datetime.now(UTC) < renew_at:
            continue
        try:
            policy_set, renew_at = _issue_again(mint, policy_set)
        except SvidFilesError as error:
            print(f"{error}\nauthz: trying again in {_RETRY.seconds} s", file=sys.stderr, flush=True)
            renew_at = datetime.now(UTC) + _RETRY


def _issue_again(mint: _Mint, last_good: PolicySet) -> tuple[PolicySet, datetime]:
    """Issue for the folder as it is now, or for the last good set: a broken file takes no identity away."""
    try:
        policy_set = _policy_set(mint.policies)
        return policy_set, mint.issue(policy_set)
    except (PolicyError, MeshError, UsageError) as error:
        print(f"{error}\nauthz: renewing for the policy set of before", file=sys.stderr, flush=True)
        return last_good, mint.issue(last_good)


@dataclass(slots=True, kw_only=True)
class _Mint:
    """What is issued for whom, and where it goes; `authorities` are those that this run has used so far."""

    policies: str
    out: Path
    only: tuple[str, ...]
    lifetime: timedelta
    authority_directory: Path | None
    authorities: dict[TrustDomain, Authority] = field(default_factory=dict)

    def issue(self, policy_set: PolicySet) -> datetime:
        """Write an SVID for every Service that is asked for; gives the half of their life, when to do it again."""
        identities = self._identities(policy_set)
        now = datetime.now(UTC)
        domains = policy_set.mesh.trust_domains
        bundles = {domain: self._authority(domain, now).certificate_pem for domain in domains}
        documents = {domain: _bundle_of(self._authority(domain, now)).to_json() for domain in domains}
        half_lives = [now + self.lifetime / 2]
        failed: list[SvidFilesError] = []
        for name, spiffe_id in identities.items():
            own = spiffe_id.trust_domain
            svid = self._authority(own, now).issue_x509_svid(spiffe_id, now, self.lifetime)
            others = {domain: pem for domain, pem in bundles.items() if domain != own}
            try:
                named = {bundle_document_file(None if each == own else each): documents[each] for each in domains}
                write_svid(self.out / name, svid, bundles[own], other_bundles=others, documents=named)
            except SvidFilesError as error:
                failed.append(error)  # which is no reason to let the other Services' SVIDs expire
                continue
            half_lives.append(now + (svid.not_after - now) / 2)
            print(f"{name}  {spiffe_id}  until {svid.not_after:%Y-%m-%dT%H:%M:%SZ}  {self.out / name}", flush=True)
        if failed:
            raise SvidFilesError("\n".join(map(str, failed)))
        # An authority near its end shortens what it issues; a renewal each second is often enough even then.
        return max(min(half_lives), now + timedelta(seconds=1))

    def token(self, policy_set: PolicySet, audience: list[str]) -> str:
        """Issue a JWT-SVID for the one Service that is asked for."""
        (spiffe_id,) = self._identities(policy_set).values()
        now = datetime.now(UTC)
        authority = self._authority(spiffe_id.trust_domain, now)
        return authority.issue_jwt_svid(spiffe_id, audience, now, self.lifetime).token

    def _identities(self, policy_set: PolicySet) -> dict[str, SpiffeId]:
        """Choose the SPIFFE ID of every Service that is asked for, before anything is written."""
        from authz.policy.index import compile_index  # noqa: PLC0415 `svid show` needs no policies

        services = {service.name: service for service in policy_set.services}
        owner = compile_index(policy_set).identity_owner
        identities = {}
        for name in self.only or services:
            if name not in services:
                raise UsageError(f"--service `{name}`: there is no such Service in `{self.policies}`")
            spiffe_id = identity_of(name, services[name].identities, owner=owner)
            if spiffe_id is None or spiffe_id.trust_domain not in policy_set.mesh.trust_domains:
                raise UsageError(
                    f"Service `{name}` has no identity in an own trust domain, and others are not ours to issue"
                )
            identities[name] = spiffe_id
        return identities

    def _authority(self, trust_domain: TrustDomain, now: datetime) -> Authority:
        def generate() -> Authority:
            return Authority.generate(trust_domain, now, _AUTHORITY_LIFETIME)

        if trust_domain not in self.authorities:
            self.authorities[trust_domain] = (
                generate()
                if self.authority_directory is None
                else kept_authority(self.authority_directory, trust_domain, generate)
            )
        return self.authorities[trust_domain]


def _bundle_of(authority: Authority) -> Bundle:
    """Give what an authority's SVIDs of both kinds are verified with."""
    keys = {} if authority.jwt is None else {authority.jwt.key_id: authority.jwt.public_key}
    return Bundle(trust_domain=authority.trust_domain, x509_authorities=(authority.root,), jwt_authorities=keys)


def _policy_set(directory: str) -> PolicySet:
    from authz.policy_folder import load_policy_folder  # noqa: PLC0415 `svid show` needs no policies

    return load_policy_folder(directory)
