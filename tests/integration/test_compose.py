"""docker-compose.yml and Dockerfile, read: who can reach whom, what each container may do, and that all of it exists.

Running it for real needs a container engine; everything that can be known without one is known here.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from cryptography import x509

from authz.cli import main as command_line
from authz.cli.arguments import CommandParser, Subcommands, parse
from authz.identity.x509_svid import x509_svid_from_pem
from authz.mesh import echo_app
from authz.policy_folder import load_policy_folder
from authz.sidecar.listening_socket import worker_sockets
from tests.support.configuration_files import ContainerFiles
from tests.support.envoy_process import validation

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.envoy

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
SHOP = [service.name for service in load_policy_folder(str(ROOT / "policies")).services]
APPS = [f"{name}-app" for name in SHOP]
ENVOYS = [f"{name}-envoy" for name in SHOP]
SIDECARS = [f"{name}-authz" for name in SHOP]
EVERY_CONTAINER = pytest.mark.parametrize("name", CONTAINERS)


def networks(container: str) -> set[str]:
    return set(CONTAINERS[container].get("networks", ()))


def members(network: str) -> set[str]:
    return {container for container in CONTAINERS if network in networks(container)}


def mounts(container: str) -> dict[str, tuple[str, bool]]:
    """Give what is mounted where, and whether it can be written to."""
    told = {}
    for volume in CONTAINERS[container].get("volumes", ()):
        source, target, *mode = volume.split(":")
        told[target] = (source, mode != ["ro"])
    return told


def users(volume: str) -> set[str]:
    return {name for name in CONTAINERS if any(source == volume for source, _ in mounts(name).values())}


class TestWhoCanReachWhom:
    def test_every_service_of_the_shop_has_an_app_an_envoy_and_a_sidecar(self) -> None:
        assert {*APPS, *ENVOYS, *SIDECARS, "svids", "acme-analytics", "edge"} == set(CONTAINERS)

    @EVERY_CONTAINER
    def test_nothing_joins_a_network_by_default(self, name: str) -> None:
        container = CONTAINERS[name]
        assert ("networks" in container) != (container.get("network_mode") == "none")
        assert networks(name) <= set(COMPOSE["networks"])

    def test_no_two_apps_share_a_network(self) -> None:
        shared = Counter(network for app in APPS for network in networks(app))
        assert set(shared.values()) == {1}

    @pytest.mark.parametrize("service", SHOP)
    def test_an_app_shares_its_one_network_with_its_own_envoy_only(self, service: str) -> None:
        (network,) = networks(f"{service}-app")
        assert members(network) == {f"{service}-app", f"{service}-envoy"}
        assert COMPOSE["networks"][network]["internal"] is True

    def test_only_envoys_join_the_mesh_and_only_they_and_the_partner_the_egress(self) -> None:
        assert members("mesh") == set(ENVOYS)
        assert members("egress") == {*ENVOYS, "acme-analytics"}
        assert networks("acme-analytics") == {"egress"}

    @pytest.mark.parametrize("name", [*SIDECARS, "svids"])
    def test_who_decides_and_who_issues_has_no_network(self, name: str) -> None:
        assert CONTAINERS[name]["network_mode"] == "none"

    def test_nothing_is_published_but_the_edge_on_this_machine_alone(self) -> None:
        published = {name: container["ports"] for name, container in CONTAINERS.items() if "ports" in container}
        assert set(published) == {"edge"}
        assert all(port.startswith("127.0.0.1:") for port in published["edge"])
        assert not any("expose" in container for container in CONTAINERS.values())

    def test_the_edge_is_on_no_network_but_its_own(self) -> None:
        assert networks("edge") == {"edge"}
        assert members("edge") == {"edge"}

    def test_only_the_edges_network_leads_out(self) -> None:
        assert [name for name, network in COMPOSE["networks"].items() if not network.get("internal")] == ["edge"]


class TestWhoCanReadWhat:
    @pytest.mark.parametrize("service", SHOP)
    def test_a_private_key_is_in_memory_and_for_the_issuer_and_one_envoy(self, service: str) -> None:
        volume = f"svid-{service}"
        assert users(volume) == {"svids", f"{service}-envoy"}
        assert mounts(f"{service}-envoy")["/run/svid"] == (volume, False)
        assert mounts("svids")[f"/svids/{service}"] == (volume, True)
        assert COMPOSE["volumes"][volume]["driver_opts"]["type"] == "tmpfs"

    @pytest.mark.parametrize("service", SHOP)
    def test_the_socket_to_ask_on_is_shared_by_an_envoy_and_its_sidecar(self, service: str) -> None:
        assert users(f"check-{service}") == {f"{service}-envoy", f"{service}-authz"}
        command = CONTAINERS[f"{service}-authz"]["command"]
        asked = worker_sockets(command[command.index("--socket") + 1], int(command[command.index("--workers") + 1]))
        clusters = json.loads(_configuration(f"{service}-envoy").read_text())["static_resources"]["clusters"]
        (authz,) = [one for one in clusters if one["name"] == "authz"]
        endpoints = authz["load_assignment"]["endpoints"][0]["lb_endpoints"]
        assert [one["endpoint"]["address"]["pipe"]["path"] for one in endpoints] == list(asked)

    @pytest.mark.parametrize("service", SHOP)
    def test_the_socket_that_speaks_as_a_service_is_for_its_app(self, service: str) -> None:
        edge = {"edge"} if service == "gateway" else set()
        assert users(f"outbound-{service}") == {f"{service}-envoy", f"{service}-app", *edge}
        assert mounts(f"{service}-app") == {"/run/outbound": (f"outbound-{service}", False)}

    def test_sockets_and_keys_are_their_users_alone(self) -> None:
        for name, volume in COMPOSE["volumes"].items():
            if name.startswith(("svid-", "check-", "outbound-")):
                options = volume["driver_opts"]["o"].split(",")
                assert {"mode=0700", "uid=10001", "gid=10001"} <= set(options)

    def test_an_authority_is_for_its_issuer_alone(self) -> None:
        assert users("authority") == {"svids"}
        assert users("acme") == {"acme-analytics"}

    def test_policies_are_read_by_who_needs_them_and_written_by_nobody(self) -> None:
        assert users("./policies") == {*SIDECARS, "svids"}
        for name in users("./policies"):
            assert mounts(name)["/policies"] == ("./policies", False)

    def test_a_partner_shows_its_certificates_and_reads_nothing_of_ours(self) -> None:
        assert users("partners") == {"acme-analytics", *ENVOYS}
        assert all(mounts(name)["/run/partners"] == ("partners", False) for name in ENVOYS)


class TestHardening:
    @EVERY_CONTAINER
    def test_every_container_is_a_user_without_privileges_on_a_read_only_system(self, name: str) -> None:
        container = CONTAINERS[name]
        assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", container["user"])
        assert container["read_only"] is True
        assert container["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in container["security_opt"]
        assert container["pids_limit"] > 0
        assert container["mem_limit"]
        forbidden = {
            "privileged",
            "cap_add",
            "devices",
            "pid",
            "ipc",
            "userns_mode",
            "volumes_from",
            "links",
            "secrets",
        }
        assert not forbidden & container.keys()

    @EVERY_CONTAINER
    def test_what_is_writable_in_memory_runs_nothing(self, name: str) -> None:
        for tmpfs in CONTAINERS[name].get("tmpfs", ()):
            assert {"noexec", "nosuid", "nodev"} <= set(tmpfs.partition(":")[2].split(","))

    @EVERY_CONTAINER
    def test_what_comes_from_the_repository_is_read_only(self, name: str) -> None:
        for source, writable in mounts(name).values():
            assert not (source.startswith(".") and writable)
            assert not source.startswith(("/", "~"))


class TestWhatIsReferenced:
    @EVERY_CONTAINER
    def test_exists(self, name: str) -> None:
        container = CONTAINERS[name]
        for source, _ in mounts(name).values():
            assert (ROOT / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"]
        for other in container.get("depends_on", ()):
            assert other in CONTAINERS
        assert container["build"]["target"] in stages()
        for word in (*container.get("command", ()), *container.get("entrypoint", ())):
            for target, (source, _) in mounts(name).items():
                if word.startswith(f"{target}/") and source.startswith("."):
                    assert (ROOT / source / word.removeprefix(f"{target}/")).is_file()

    def test_is_used(self) -> None:
        assert {source for name in CONTAINERS for source, _ in mounts(name).values() if source[0] != "."} == set(
            COMPOSE["volumes"]
        )
        assert {network for name in CONTAINERS for network in networks(name)} == set(COMPOSE["networks"])

    @pytest.mark.parametrize("name", [*SIDECARS, "svids"])
    def test_commands_are_ones_that_the_command_line_has(self, name: str) -> None:
        words = CONTAINERS[name]["command"]
        module = importlib.import_module(command_line._COMMANDS[words[0]][0])
        parser = CommandParser(prog="authz")
        module.add_commands(Subcommands(parser))
        given = parse(parser, words)
        assert callable(given.run)
        assert name == "svids" or given.service == name.removesuffix("-authz")

    @pytest.mark.parametrize("service", SHOP)
    def test_apps_are_echo_apps_where_their_envoy_looks_for_them(self, service: str) -> None:
        given = echo_app._parser().parse_args(CONTAINERS[f"{service}-app"]["command"])
        assert (given.service, given.listen) == (service, ["0.0.0.0:8080"])

    def test_the_partner_serves_its_host_with_keys_of_its_own(self, tmp_path: Path) -> None:
        (file,) = [word for word in CONTAINERS["acme-analytics"]["entrypoint"] if word.endswith(".py")]
        acme = _program(ROOT / file.removeprefix("/"))
        (tmp_path / "shown").mkdir()
        given = echo_app._parser().parse_args(acme.prepare(tmp_path / "own", tmp_path / "shown"))
        assert given.listen == ["0.0.0.0:443"]
        certificate = x509.load_pem_x509_certificate(Path(given.tls_certificate).read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == CONTAINERS["acme-analytics"]["networks"]["egress"]["aliases"]
        svid = x509_svid_from_pem((tmp_path / "own/svid/svid.pem").read_bytes())
        assert str(svid.spiffe_id) == "spiffe://acme.example/analytics"
        assert {file.name for file in (tmp_path / "shown").iterdir()} == {"acme.example.pem", "api.acme.example.pem"}
        assert not any(b"PRIVATE" in file.read_bytes() for file in (tmp_path / "shown").iterdir())


class TestEnvoys:
    @pytest.mark.parametrize("name", [*ENVOYS, "edge"])
    def test_take_their_configuration_with_what_is_mounted_and_nothing_else(self, name: str, tmp_path: Path) -> None:
        files = ContainerFiles(tmp_path)
        places = {target: files.mounts[target] for target in {*mounts(name), *tmpfs(name)}}
        files.moved(ROOT / "envoy/svid.json", places)
        moved = files.moved(_configuration(name), places)
        assert not [path for path in paths(json.loads(moved.read_text())) if not path.startswith(str(tmp_path))]
        said = validation(moved)
        assert said.returncode == 0, said.stderr

    @pytest.mark.parametrize("service", SHOP)
    def test_look_for_others_where_they_are(self, service: str) -> None:
        name = f"{service}-envoy"
        listeners, clusters = _of(_configuration(name))
        assert listeners["inbound"] == {"address": "0.0.0.0", "port_value": 15006}
        for cluster, address in clusters.items():
            if cluster == "app":
                assert address == {"address": f"{service}-app", "port_value": 8080}
            elif cluster.startswith("service_"):
                peer = f"{cluster.removeprefix('service_')}-envoy"
                assert address == {"address": peer, "port_value": 15006}
                assert "mesh" in networks(name) & networks(peer)
            elif cluster.startswith("third_party_"):
                assert address["address"] in CONTAINERS["acme-analytics"]["networks"]["egress"]["aliases"]
                assert "egress" in networks(name)
        assert {f"service_{one}" for one in SHOP} < set(clusters)

    @pytest.mark.parametrize("service", SHOP)
    def test_listen_in_the_network_for_callers_with_an_svid_only(self, service: str) -> None:
        listeners, _ = _of(_configuration(f"{service}-envoy"))
        assert [name for name, address in listeners.items() if "port_value" in address] == ["inbound"]
        assert listeners["outbound"]["mode"] == 0o600

    def test_of_the_edge_leads_to_the_gateway_alone(self) -> None:
        listeners, clusters = _of(ROOT / "envoy/edge.json")
        (port,) = CONTAINERS["edge"]["ports"]
        assert [address["port_value"] for address in listeners.values()] == [int(port.rpartition(":")[2])]
        outbound, _ = _of(_configuration("gateway-envoy"))
        assert [address["path"] for address in clusters.values()] == [outbound["outbound"]["path"]]
        assert mounts("edge")["/run/outbound"] == ("outbound-gateway", False)
        assert "admin" not in json.loads((ROOT / "envoy/edge.json").read_text())


class TestTheImages:
    def test_run_as_a_user(self) -> None:
        for name, lines in stages().items():
            if name != "wheels":
                of = lines[0].split()[1]
                assert "USER 10001:10001" in (stages().get(of, []) + lines)

    def test_are_built_of_what_is_here_and_is_sent_to_the_builder(self) -> None:
        ignored = (ROOT / ".dockerignore").read_text().splitlines()
        assert "*" in ignored
        for line in (line for lines in stages().values() for line in lines):
            if line.startswith("COPY ") and "--from=" not in line:
                for source in line.split()[1:-1]:
                    assert (ROOT / source).exists()
                    assert f"!{source.removeprefix('./')}" in ignored

    def test_hold_only_files_that_were_verified(self) -> None:
        installs = re.findall(r"pip (download|install|wheel)([^\n&]*)", (ROOT / "Dockerfile").read_text())
        assert installs
        for command, options in installs:
            assert ("--require-hashes" in options) if command == "download" else ("--no-index" in options)

    def test_start_what_the_compose_file_means(self) -> None:
        entry = {
            name: lines[-1].removeprefix("ENTRYPOINT ") for name, lines in stages().items() if "ENTRYPOINT" in lines[-1]
        }
        assert set(entry) == {"app", "authz", "envoy"}
        assert json.loads(entry["app"])[-1] == "authz.mesh.echo_app"
        assert json.loads(entry["authz"]) == ["authz"]
        assert json.loads(entry["envoy"])[0] == "envoy"


def stages() -> dict[str, list[str]]:
    """Give the Dockerfile's stages by name, each with its instructions."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    told: dict[str, list[str]] = {}
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("FROM "):
            told[line.split()[3]] = []
        if line and not line.startswith("#") and told:
            told[list(told)[-1]].append(line)
    return told


def tmpfs(container: str) -> list[str]:
    return [mount.partition(":")[0] for mount in CONTAINERS[container].get("tmpfs", ())]


def paths(value: Any) -> Iterator[str]:
    """Find every file, folder and socket that a configuration names."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key in {"filename", "path"} and isinstance(item, str) and item != "*":
                yield item
            yield from paths(item)
    elif isinstance(value, list):
        for item in value:
            yield from paths(item)


def _configuration(container: str) -> Path:
    (flag, file) = CONTAINERS[container]["command"]
    source, _ = mounts(container)["/etc/envoy"]
    assert flag == "-c"
    return ROOT / str(source) / str(file).removeprefix("/etc/envoy/")


def _of(configuration: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give the addresses of a configuration's listeners and clusters by name; of several endpoints, the first one's."""
    resources = json.loads(configuration.read_text())["static_resources"]
    listeners = {one["name"]: next(iter(one["address"].values())) for one in resources["listeners"]}
    clusters = {}
    for one in resources["clusters"]:
        endpoint, *_ = one["load_assignment"]["endpoints"][0]["lb_endpoints"]
        clusters[one["name"]] = next(iter(endpoint["endpoint"]["address"].values()))
    return listeners, clusters


def _program(file: Path) -> Any:
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
