"""Failures between the backend and an engine, objects of other programs, and pods on the engine's own network."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.backends.docker import build, check, images
from crishim.backends.docker.images import DockerImages
from crishim.backends.docker.observed import OWNER
from crishim.errors import AlreadyExists, CrishimError, FailedPrecondition, InvalidArgument, NotFound, Unavailable, Unknown
from crishim.interfaces.backend import NetnsSource
from crishim.model.container import LinuxContainerConfig, Mount
from crishim.model.image import ImageSpec
from crishim.model.resources import Resources
from crishim.model.sandbox import DNSConfig, PodSandboxConfig, PodSandboxMetadata, PodSandboxState, SandboxSpec
from crishim.model.security import LinuxContainerSecurityContext, SupplementalGroupsPolicy
from crishim.model.values import EMPTY, ContainerId, SandboxId
from tests.backends.docker.faulty import Fault, faulty
from tests.backends.docker.node import OPTIONS, SLEEPS, Node
from tests.backends.docker.world import Dockerd, backend_at, context, dockerd, needs, small_disk

pytestmark = [pytest.mark.node, needs("dockerd", "busybox", "catatonit")]


async def test_a_name_that_is_taken(engine: Dockerd, tmp_path: Path) -> None:
    """A name that a stranger holds is AlreadyExists, and the stranger keeps it."""
    async with backend_at(tmp_path, engine.socket) as backend:
        name = "a" * 64
        await backend._engine.post("/containers/create", body={"Image": "exam", "Cmd": ["true"]}, name=name)
        metadata = PodSandboxMetadata("pod", "ns", "uid")
        with pytest.raises(AlreadyExists):
            await backend.start_sandbox(SandboxSpec(id=SandboxId(name), config=PodSandboxConfig(metadata=metadata)))
        assert () == (await backend.inventory()).sandboxes
        assert "exam" == (await backend._engine.inspect(name))["Config"]["Image"]
        await backend._engine.delete(f"/containers/{name}")


async def test_a_namespace_that_the_engine_pins_out_of_our_sight(engine: Dockerd, tmp_path: Path) -> None:
    """It is pinned by us as the pause's own, until the sandbox is removed; another process's namespace is refused."""
    async with backend_at(tmp_path, engine.socket) as backend:
        sandbox = SandboxId("b" * 64)
        metadata = PodSandboxMetadata("pod", "ns", "uid")
        await backend.start_sandbox(SandboxSpec(id=sandbox, config=PodSandboxConfig(metadata=metadata, hostname="pod")))
        inspected = await backend._engine.inspect(sandbox)
        hidden = {**inspected, "NetworkSettings": {}}
        with pytest.raises(FailedPrecondition):
            await backend._netns({**hidden, "State": {**inspected["State"], "Pid": os.getpid()}})
        path = await backend._netns(hidden)
        assert is_the_same(path, f"/proc/{inspected['State']['Pid']}/ns/net")
        assert path == await backend._netns(hidden)
        await backend.stop_sandbox(sandbox)
        await backend.remove_sandbox(sandbox)
        assert not is_the_same(path, path)


def is_the_same(one: str, other: str) -> bool:
    """Whether both paths are there and lead to the same file."""
    return Path(one).exists() and Path(one).samefile(other)


FAULTS = [
    Fault("POST", "/containers/create", 500),
    Fault("POST", "/start", 500),
    Fault("GET", "/archive", 500),
    Fault("POST", "/containers/create", None),
    Fault("POST", "/start", None),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.method}{fault.path}-{fault.status}".replace("/", "-"))
async def test_an_engine_that_fails_once(engine: Dockerd, tmp_path: Path, fault: Fault) -> None:
    """One failed call, or a broken connection after the engine has acted, fails one verb; another succeeds, nothing is left."""
    async with faulty(engine.socket, tmp_path / "s") as proxy:
        node = Node(tmp_path, str(tmp_path / "s"))
        async with node.running():
            sandbox = await node.sandbox()
            proxy.faults.append(fault)
            with pytest.raises((Unknown, Unavailable)):
                await node.container(sandbox, "first", SLEEPS)
            assert [] == proxy.faults
            await node.until_back()
            container = await node.container(sandbox, "second", SLEEPS)
            assert 0 == (await node.seen(container))[1]
            await node.clear()


async def test_an_image_without_a_command(engine: Dockerd, tmp_path: Path) -> None:
    """An image without a command needs one in the request: otherwise it is refused, and nothing is created."""
    async with Node(tmp_path, engine.socket).running() as node:
        sandbox = await node.sandbox()
        with pytest.raises(InvalidArgument) as refused:
            await node.container(sandbox, "main", ())
        assert "config.command" == refused.value.field
        await node.clear()


async def test_a_missing_program(engine: Dockerd, tmp_path: Path) -> None:
    """A missing program fails the start with the engine's message; the container is EXITED with StartError."""
    async with Node(tmp_path, engine.socket).running() as node:
        sandbox = await node.sandbox()
        container = await node.services.containers.create(sandbox, node.config("main", ("/no/such",)), None)
        with pytest.raises(CrishimError, match="/no/such"):
            await node.services.containers.start(container)
        assert (128, "StartError") == (await node.seen(container))[1:]
        await node.clear()


@pytest.fixture
def small() -> Iterator[Dockerd]:
    """An engine on a disk that is soon full."""
    with small_disk() as place, dockerd(place=place) as running:
        yield running


async def test_a_full_disk(small: Dockerd, tmp_path: Path) -> None:
    """With the engine's disk full no pod can be created; existing ones run on, are reported and can be removed."""
    filler = small.place / "filler"
    async with Node(tmp_path, small.socket).running() as node:
        container = await node.container(await node.sandbox(), "main", SLEEPS)
        fill(filler)
        with pytest.raises(CrishimError):
            await node.sandbox("another")
        await node.services.containers.stop(container, 0)
        assert 137 == (await node.seen(container))[1]
        filler.unlink()
        await node.clear()


def fill(file: Path) -> None:
    """Fill the file's disk to the last byte."""
    for size in (1 << 20, 1 << 12, 1):
        with contextlib.suppress(OSError), file.open("ab", buffering=0) as open_file:
            while open_file.write(bytes(size)) == size:
                pass


USERS = [
    (LinuxContainerSecurityContext(namespace_options=OPTIONS), "uid=0 gid=0"),
    (LinuxContainerSecurityContext(namespace_options=OPTIONS, run_as_username="www"), "uid=33 gid=44 groups=44,50000"),
    (LinuxContainerSecurityContext(namespace_options=OPTIONS, run_as_user=33), "uid=33 gid=44 groups=44,50000"),
    (
        LinuxContainerSecurityContext(
            namespace_options=OPTIONS,
            run_as_user=33,
            supplemental_groups=(7,),
            supplemental_groups_policy=SupplementalGroupsPolicy.STRICT,
        ),
        "uid=33 gid=44 groups=7,44",
    ),
    (LinuxContainerSecurityContext(namespace_options=OPTIONS, run_as_user=99, run_as_group=98), "uid=99 gid=98"),
]


@pytest.mark.parametrize(("security", "expected"), USERS)
async def test_users(engine: Dockerd, tmp_path: Path, security: LinuxContainerSecurityContext, expected: str) -> None:
    """Both of CRI's policies for groups, names and numbers: the process has the ids of ContainerStatus."""
    async with Node(tmp_path, engine.socket).running() as node:
        script = ("sh", "-c", "echo uid=$(id -u) gid=$(id -g) groups=$(id -G)")
        linux = LinuxContainerConfig(security_context=security)
        container = await node.container(await node.sandbox(), "main", script, linux=linux)
        await node.until_exited(container)
        user = (await node.services.containers.status(container, verbose=False)).status.user
        assert user is not None
        ids = f"uid={user.uid} gid={user.gid} groups={','.join(map(str, sorted(user.supplemental_groups)))}"
        head, _, groups = node.log("main")[0].partition(" groups=")
        seen = f"{head} groups={','.join(sorted(groups.split(), key=int))}"
        assert ids == seen
        assert seen.startswith(expected)
        await node.clear()


async def test_image_volumes(engine: Dockerd, tmp_path: Path) -> None:
    """An image's files can be seen in a volume, below its sub path and read-only; the copy goes with the container."""
    async with Node(tmp_path, engine.socket).running() as node:
        sandbox = await node.sandbox()
        mounts = (
            Mount(container_path="/all", image=ImageSpec(image="exam")),
            Mount(container_path="/part", image=ImageSpec(image="exam"), image_sub_path="etc"),
        )
        script = ("sh", "-c", "head -c 4 /all/etc/passwd && head -c 4 /part/group && ! touch /all/x 2>/dev/null")
        container = await node.container(sandbox, "main", script, mounts=mounts)
        assert 0 == (await node.until_exited(container))[1]
        assert ["rootroot"] == node.log("main")[:1]
        missing = (attrs.evolve(mounts[1], image_sub_path="no/such"),)
        with pytest.raises(CrishimError, match="ImageVolumeMountFailed"):
            await node.container(sandbox, "other", script, mounts=missing)
        await node.services.containers.remove(container)
        assert [] == list((tmp_path / "state" / "image-volumes").iterdir())
        assert 0o700 == (tmp_path / "state" / "image-volumes").stat().st_mode & 0o777
        await node.clear()


async def test_the_engines_own_network(engine: Dockerd, tmp_path: Path) -> None:
    """With a network of the engine a pod has the engine's address, and no CNI plug-in is called."""
    async with Node(tmp_path, engine.socket, network="crishim-test").running() as node:
        body = {"Name": "crishim-test", "Driver": "bridge", "IPAM": {"Config": [{"Subnet": "10.86.9.0/24"}]}}
        network = await node.engine.post("/networks/create", body=body)
        try:
            assert NetnsSource.NONE is (await node.backend.probe()).netns
            sandbox = await node.sandbox()
            assert ("10.86.9.2",) == (await node.services.sandboxes.status(sandbox, verbose=False)).status.ips
            await node.clear()
        finally:
            await node.engine.delete(f"/networks/{network['Id']}")


async def test_forwarding_reaches_the_pod(engine: Dockerd, tmp_path: Path) -> None:
    """A port of the pod's loopback answers; those of a stopped pod are refused."""
    async with Node(tmp_path, engine.socket).running() as node:
        sandbox = await node.sandbox()
        with pytest.raises(Unavailable):
            await node.backend.dial(sandbox, 7)
        await node.services.sandboxes.stop(sandbox)
        with pytest.raises(FailedPrecondition):
            await node.backend.dial(sandbox, 7)
        with pytest.raises(NotFound):
            await node.backend.dial(SandboxId("f" * 64), 7)
        await node.clear()


async def test_dns_of_a_pod(engine: Dockerd, tmp_path: Path) -> None:
    """A pod's resolv.conf has the requested values, and none of the node's."""
    async with Node(tmp_path, engine.socket).running() as node:
        dns = DNSConfig(servers=("192.0.2.1",), searches=("a.example",), options=("ndots:5",))
        config = PodSandboxConfig(
            metadata=PodSandboxMetadata("pod", "ns", "uid"),
            hostname="host-of-pod",
            dns_config=dns,
            log_directory=str(tmp_path / "logs"),
        )
        sandbox = await node.services.sandboxes.run(config, "")
        container = await node.container(sandbox, "main", ("sh", "-c", "cat /etc/resolv.conf; hostname"))
        await node.until_exited(container)
        lines = [line for line in node.log("main") if not line.startswith("#") and line]
        assert ["search a.example", "nameserver 192.0.2.1", "options ndots:5", "host-of-pod"] == lines
        await node.clear()


async def test_limits_are_changed(engine: Dockerd, tmp_path: Path) -> None:
    """UpdateContainerResources changes the engine's limits; one that it refuses changes nothing."""
    async with Node(tmp_path, engine.socket).running() as node:
        linux = LinuxContainerConfig(
            resources=Resources(memory_limit_in_bytes=64 << 20),
            security_context=LinuxContainerSecurityContext(namespace_options=OPTIONS),
        )
        container = await node.container(await node.sandbox(), "main", SLEEPS, linux=linux)

        async def limits() -> tuple[int, int]:
            host: dict[str, Any] = (await node.engine.inspect(container))["HostConfig"]
            return host["Memory"], host["CpuShares"]

        change = Resources(memory_limit_in_bytes=128 << 20, cpu_shares=99)
        await node.services.containers.update_resources(container, change, EMPTY)
        assert (128 << 20, 99) == await limits()
        with pytest.raises(CrishimError):
            await node.backend.update_container(container, Resources(memory_limit_in_bytes=1))
        assert (128 << 20, 99) == await limits()
        await node.clear()


async def test_a_stopped_pod(engine: Dockerd, tmp_path: Path) -> None:
    """StopPodSandbox ends every container of the pod, and may be repeated; nothing of the pod runs in the engine."""
    async with Node(tmp_path, engine.socket).running() as node:
        sandbox = await node.sandbox()
        containers = [await node.container(sandbox, f"c{number}", SLEEPS) for number in range(3)]
        for _ in range(2):
            await node.services.sandboxes.stop(sandbox)
        assert PodSandboxState.NOTREADY is await node.ready(sandbox)
        assert [137] * 3 == [(await node.seen(container))[1] for container in containers]
        filters = f'{{"label":["{OWNER}={node.backend._owner}"]}}'
        assert [] == await node.engine.get("/containers/json", filters=filters)
        await node.clear()


async def test_a_runtime_that_is_not_there(engine: Dockerd, tmp_path: Path) -> None:
    """A runtime that the engine does not know makes the backend unusable, by name."""
    async with backend_at(tmp_path, engine.socket, runtime="no-such") as backend:
        with pytest.raises(FailedPrecondition, match="no-such"):
            await backend.probe()


async def test_plug_in(engine: Dockerd, tmp_path: Path) -> None:
    """The plug-in's functions: a backend, its images, and what the machine offers; wrong options are refused at once."""
    backend_context = context(tmp_path, engine.socket)
    service = images(backend_context)
    assert isinstance(service, DockerImages)
    assert "docker.io/library/exam:latest" in {tag for image in await service.list() for tag in image.repo_tags}
    service.close()
    assert {"docker engine", "catatonit"} == {finding.what for finding in check({})}
    with pytest.raises(InvalidArgument):
        build(context(tmp_path, engine.socket, unknown=1))


async def test_unknown_containers(engine: Dockerd, tmp_path: Path) -> None:
    """Every call for an unknown container is NotFound."""
    unknown = ContainerId("f" * 64)
    async with backend_at(tmp_path, engine.socket) as backend:
        for work in (
            backend.reopen_log(unknown),
            backend.pause_container(unknown),
            backend.resume_container(unknown),
            backend.container_usage(unknown),
            backend.sandbox_usage(SandboxId(unknown)),
            backend.update_container(unknown, Resources(cpu_shares=5)),
            backend.wait_sandbox(SandboxId(unknown)),
        ):
            with pytest.raises(NotFound):
                await asyncio.wait_for(work, 10)
