"""What kernels and engines say of containers: forms that were seen, forms that are forged, and any bytes at all."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, strategies as st

from authz.issuer.attestor.container_evidence import (
    MAX_CGROUP_BYTES,
    MAX_DOCUMENT_BYTES,
    ContainerFacts,
    asks_for_digest,
    container_facts,
    container_ids,
    container_membership,
    full_reference,
    is_as_selected,
    repository_digests,
)
from authz.issuer.errors import AttestationError
from authz.policy.evidence_fields import Container

ID, OTHER = "7e9c64781e648fb97edfc3e872a2bd4256cac691f7e2b98c22bc7d5e519f80da", "ab" * 32
IMAGE_ID = "sha256:" + "5f" * 32
DIGEST = "sha256:" + "3d" * 32
#: as podman 4.3.1 answered for a container of the image localhost/pause:1, shortened
INSPECTED: dict[str, Any] = {
    "Id": ID,
    "Created": "2026-11-23T13:17:29.033764114Z",
    "State": {"Status": "running", "Running": True, "Pid": 6243, "StartedAt": "2026-11-23T13:17:29.193223346Z"},
    "Image": IMAGE_ID,
    "Config": {"Image": "localhost/shop/orders:1", "Labels": {"com.docker.compose.service": "orders", "app": "o"}},
}
FACTS = container_facts(json.dumps(INSPECTED).encode())


class TestACgroupPathTellsTheContainer:
    @pytest.mark.parametrize(
        "text",
        [
            f"0::/docker/{ID}\n",
            f"0::/system.slice/docker-{ID}.scope\n",
            f"0::/system.slice/docker-{ID}.scope/init.scope\n",
            f"0::/machine.slice/libpod-{ID}.scope/container\n",
            f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope\n",
            f"9:name=systemd:/libpod_parent/libpod-{ID}\n8:pids:/libpod_parent/libpod-{ID}\n0::/\n",
            f"12:cpu,cpuacct:/docker/{ID}\n1:name=systemd:/docker/{ID}\n",
            f"0::/kubepods.slice/kubepods-pod12_3.slice/cri-containerd-{ID}.scope\n",
            f"0::/kubepods/besteffort/pod12-3/{ID}\n",
            f"0::/kubepods.slice/crio-{ID}.scope\n",
            f"0::/../docker-{ID}.scope\n",
        ],
    )
    def test_in_every_form_that_engines_give_it(self, text: str) -> None:
        membership = container_membership(text.encode())
        assert membership is not None
        assert membership.container_id == ID

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "0::/\n",
            "0::/user.slice/user-1000.slice/session-3.scope\n",
            f"0::/machine.slice/libpod-conmon-{ID}.scope\n",
            f"0::/docker/{ID[:-1]}\n",
            f"0::/docker/{ID.upper()}\n",
            f"0::/docker/x{ID}\n",
            f"{ID}\n",
        ],
    )
    def test_and_what_has_no_container_in_it_tells_none(self, text: str) -> None:
        assert container_membership(text.encode()) is None

    def test_by_the_outermost_one(self) -> None:
        # Whoever may make cgroups within his container names them as he likes.
        membership = container_membership(f"0::/docker/{ID}/docker/{OTHER}\n".encode())
        assert membership == container_membership(f"0::/docker/{ID}\n".encode())

    def test_and_several_are_an_error(self) -> None:
        with pytest.raises(AttestationError, match="several"):
            container_membership(f"2:pids:/docker/{ID}\n1:cpu:/docker/{OTHER}\n".encode())

    def test_and_a_name_in_another_place_is_another_membership(self) -> None:
        # A user's own part of the tree, delegated to him, may hold any name.
        forged = container_membership(f"0::/user.slice/user-1000.slice/docker-{ID}.scope\n".encode())
        assert forged is not None
        assert forged != container_membership(f"0::/system.slice/docker-{ID}.scope\n".encode())

    def test_within_a_limit(self) -> None:
        with pytest.raises(AttestationError, match="bytes"):
            container_membership(b"x" * (MAX_CGROUP_BYTES + 1))

    @given(data=st.binary(max_size=400) | st.text(alphabet=f"0:/\n{ID[:4]}dockerlib-.", max_size=400).map(str.encode))
    def test_or_any_bytes_tell_none_or_are_refused(self, data: bytes) -> None:
        try:
            membership = container_membership(data)
        except AttestationError:
            return
        assert membership is None or membership.container_id.encode() in data


class TestAnEnginesAnswer:
    def test_is_read(self) -> None:
        assert (
            ContainerFacts(
                container_id=ID,
                image="localhost/shop/orders:1",
                image_id=IMAGE_ID,
                labels={"com.docker.compose.service": "orders", "app": "o"},
                is_running=True,
                first_pid=6243,
                started="2026-11-23T13:17:29.193223346Z",
            )
            == FACTS
        )
        assert container_ids(json.dumps([{"Id": ID}, {"Id": OTHER, "Names": []}]).encode()) == (ID, OTHER)
        assert repository_digests(json.dumps({"RepoDigests": [f"shop/orders@{DIGEST}"]}).encode()) == {
            f"docker.io/shop/orders@{DIGEST}"
        }
        assert repository_digests(b'{"RepoDigests": null}') == frozenset()

    @pytest.mark.parametrize(
        "change",
        [
            {"Id": "7e9c"},
            {"Id": ID.upper()},
            {"Id": None},
            {"State": None},
            {"State": {**INSPECTED["State"], "Pid": "6243"}},
            {"State": {**INSPECTED["State"], "Pid": -1}},
            {"State": {**INSPECTED["State"], "Pid": True}},
            {"State": {**INSPECTED["State"], "StartedAt": None}},
            {"Config": []},
            {"Config": {**INSPECTED["Config"], "Labels": ["app=o"]}},
            {"Config": {**INSPECTED["Config"], "Labels": {"app": 1}}},
            {"Config": {"Labels": None}},
        ],
    )
    def test_of_another_form_is_refused(self, change: dict[str, Any]) -> None:
        with pytest.raises(AttestationError):
            container_facts(json.dumps({**INSPECTED, **change}).encode())

    def test_that_says_running_in_another_way_is_one_of_a_container_that_does_not_run(self) -> None:
        state = {**INSPECTED["State"], "Running": "true"}
        assert not container_facts(json.dumps({**INSPECTED, "State": state}).encode()).is_running

    @pytest.mark.parametrize("data", [b"x" * (MAX_DOCUMENT_BYTES + 1), b"[" * 100_000, b"\xff", b"NaN", b""])
    def test_that_is_none_is_refused(self, data: bytes) -> None:
        for read in (container_facts, container_ids, repository_digests):
            with pytest.raises(AttestationError):
                read(data)

    @given(
        value=st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(ID),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["Id", "State", "Config", "Image", "Labels", "Pid", "Running", "StartedAt"]), inner
                )
            ),
        )
    )
    def test_of_any_form_is_read_or_refused(self, value: Any) -> None:
        document = json.dumps(value).encode()
        for read in (container_facts, container_ids, repository_digests):
            try:
                read(document)
            except AttestationError:
                continue

    @given(data=st.binary(max_size=200))
    def test_of_any_bytes_is_read_or_refused(self, data: bytes) -> None:
        for read in (container_facts, container_ids, repository_digests):
            try:
                read(data)
            except AttestationError:
                continue


class TestAnEntryHolds:
    @pytest.mark.parametrize(
        ("entry", "holds"),
        [
            ({"image": "localhost/shop/orders:1"}, True),
            ({"image": "shop/orders:1"}, False),
            ({"image": "localhost/shop/orders"}, False),
            ({"image": "localhost/shop/orders:2"}, False),
            ({"image": IMAGE_ID}, True),
            ({"image": "sha256:" + "00" * 32}, False),
            ({"image": f"localhost/shop/orders@{DIGEST}"}, True),
            ({"image": f"localhost/shop/orders:9@{DIGEST}"}, True),
            ({"image": f"localhost/shop/payments@{DIGEST}"}, False),
            ({"image": f"localhost/shop/orders@{IMAGE_ID}"}, False),
            ({"labels": {"app": "o"}}, True),
            ({"labels": {"app": "o", "com.docker.compose.service": "orders"}}, True),
            ({"labels": {"app": "o", "env": "prod"}}, False),
            ({"labels": {"app": "O"}}, False),
            ({"labels": {"APP": "o"}}, False),
            ({"image": "localhost/shop/orders:1", "labels": {"app": "o"}}, True),
            ({"image": "localhost/shop/orders:1", "labels": {"app": "x"}}, False),
            ({"image": "localhost/shop/orders:2", "labels": {"app": "o"}}, False),
            ({}, False),
            ({"labels": {}}, False),
        ],
    )
    def test_if_every_field_that_it_gives_does(self, entry: dict[str, Any], holds: bool) -> None:  # noqa: FBT001
        selector = Container.model_construct(**entry)
        digests = {full_reference(f"localhost/shop/orders@{DIGEST}")}
        assert is_as_selected(selector, FACTS, digests) is holds

    @given(
        labels=st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy"), min_size=1),
        has=st.dictionaries(st.sampled_from("abc"), st.sampled_from("xy")),
    )
    def test_by_labels_exactly_where_the_container_has_them_all(
        self, labels: dict[str, str], has: dict[str, str]
    ) -> None:
        facts = replace(FACTS, labels=has)
        assert is_as_selected(Container(labels=labels), facts, ()) == (labels.items() <= has.items())

    def test_and_only_one_with_a_digest_asks_for_digests(self) -> None:
        assert asks_for_digest(Container(image=f"a@{DIGEST}"))
        assert not asks_for_digest(Container(image=IMAGE_ID))
        assert not asks_for_digest(Container(labels={"a": "b"}))


@pytest.mark.parametrize(
    ("image", "full"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.13", "docker.io/library/python:3.13"),
        ("shop/orders", "docker.io/shop/orders:latest"),
        ("docker.io/shop/orders", "docker.io/shop/orders:latest"),
        ("localhost/orders:1", "localhost/orders:1"),
        ("localhost:5000/orders", "localhost:5000/orders:latest"),
        ("registry.example:443/a/b:c", "registry.example:443/a/b:c"),
        (f"shop/orders:1@{DIGEST}", f"docker.io/shop/orders@{DIGEST}"),
    ],
)
def test_a_name_means_what_docker_takes_it_for(image: str, full: str) -> None:
    assert full_reference(image) == full


@given(image=st.text(alphabet="ab./:@-", max_size=20))
def test_a_full_name_stays_what_it_is(image: str) -> None:
    full = full_reference(image)
    if "@" not in image and "//" not in image and image.strip("./:@-") == image and image:
        assert full_reference(full) == full
