"""Containers on a kernel that enforces SELinux, with Debian's policy: `python -m tests.guest.run selinux`."""

import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux.processes import recorded
from crishim.model.container import ContainerMetadata, LinuxContainerConfig, Mount
from crishim.model.image import ImageSpec
from crishim.model.security import LinuxContainerSecurityContext, LinuxSandboxSecurityContext, SELinuxOption
from crishim.play import CallError, CriClient
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import container_config
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, Node, real_plugins

ENFORCES: Final = Path("/sys/fs/selinux/enforce")
enforced = pytest.mark.skipif(
    not ENFORCES.exists() or ENFORCES.read_text() != "1",
    reason="needs a kernel that enforces SELinux: python -m tests.guest.run selinux",
)
pytestmark = [pytest.mark.node, needs(*TOOLS, "crun"), real_plugins(), enforced]


def set_label(path: Path, kind: str, level: str = "s0") -> None:
    """Give a file a type and a level."""
    os.setxattr(path, "security.selinux", f"system_u:object_r:{kind}:{level}\0".encode())


@contextlib.asynccontextmanager
async def serving(node: Node) -> AsyncIterator[CriClient]:
    """A client of the node with its image, which has no pod afterwards.

    The server runs as policy has engines run: its program and its folders have the types that docs/operating.md names.
    """
    starts = node.place / "starts"
    starts.write_text('#!/bin/sh\nexec "$@"\n')
    starts.chmod(0o755)
    for path in (node.place, *node.place.rglob("*")):
        set_label(path, "container_var_lib_t")
    node.run.mkdir()
    set_label(node.run, "container_runtime_t")
    set_label(starts, "crio_exec_t")
    node.start("env", "--chdir=/", str(starts))  # not where the tests are, which it may not read
    async with node.client() as client:
        await node.pull(client)
        yield client
        await node.empty(client)
    assert set() == node.traces()


@contextlib.contextmanager
def of_the_host(name: str) -> Any:
    """A folder of the host with a file, labelled as another pod's."""
    folder = Path("/srv") / name
    folder.mkdir()
    (folder / "file").write_text("of the host\n")
    for path in (folder, folder / "file"):
        set_label(path, "container_file_t", "s0:c1,c2")
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


async def run(client: CriClient, node: Node, pod: str, sandbox: str, name: str, *mounts: Mount, **security: Any) -> str:
    """A running container of a pod, which sleeps; its id."""
    linux = LinuxContainerConfig(security_context=LinuxContainerSecurityContext(**security))
    image = ImageSpec(image=node.image)
    config = container_config("", metadata=ContainerMetadata(name), image=image, command=(), mounts=mounts, linux=linux)
    container = await client.create_container(sandbox, config, node.sandbox(pod))
    await client.start_container(container)
    return container


def label(node: Node, container: str) -> str:
    """The label of a container's first process, as the kernel has it."""
    process = recorded(node.run / "backends/runc/containers" / container / FIRST_PROCESS)
    assert process is not None
    return Path(f"/proc/{process.pid}/attr/current").read_text().rstrip("\0\n")


async def settled(node: Node, container: str) -> str:
    """The label, once the process runs its own program: crun returns from a start before."""
    await until(lambda: "crio_t" not in label(node, container))
    return label(node, container)


async def said(client: CriClient, container: str, *command: str) -> tuple[int, str]:
    """How a command in a container ends, and what it prints."""
    done = await client.exec_sync(container, command)
    return done.exit_code, (done.stdout + done.stderr).decode()


async def test_a_pods_label(node: Node) -> None:
    """Containers of a pod, and their execs, run as container_t with one pair of categories, another pod's with another."""
    async with serving(node) as client:
        labels = {}
        for pod in ("one", "two"):
            sandbox = await client.run_sandbox(node.sandbox(pod))
            containers = [await run(client, node, pod, sandbox, name) for name in ("a", "b")]
            (labels[pod],) = {await settled(node, container) for container in containers}
            code, text = await said(client, containers[0], "cat", "/proc/self/attr/current")
            assert (0, labels[pod]) == (code, text.rstrip("\0\n"))
        assert {"system_u:system_r:container_t:s0"} == {text.rpartition(":")[0] for text in labels.values()}
        assert labels["one"] != labels["two"]


async def test_a_container_writes_its_own_files(node: Node) -> None:
    """A container writes its root, its /dev/shm and its /dev/null, and reads its /etc/hosts."""
    async with serving(node) as client:
        container = await run(client, node, "pod", await client.run_sandbox(node.sandbox("pod")), "c")
        script = "echo 1 > /file && echo 1 > /dev/shm/file && echo 1 > /dev/null && cat /etc/hosts > /dev/null"
        assert (0, "") == await said(client, container, "sh", "-c", script)


async def test_volumes(node: Node) -> None:
    """A container reads no file of another pod's by a mount, until the mount is relabelled; then only its pod's do."""
    async with serving(node) as client:
        with of_the_host("crishim-volume") as folder:
            plain = Mount(container_path="/data", host_path=str(folder))
            relabelled = Mount(container_path="/data", host_path=str(folder), selinux_relabel=True)
            one = await client.run_sandbox(node.sandbox("one"))
            before = await run(client, node, "one", one, "before", plain)
            code, text = await said(client, before, "cat", "/data/file")
            assert (1, True) == (code, "Permission denied" in text)
            after = await run(client, node, "one", one, "after", relabelled)
            assert (0, "of the host\n") == await said(client, after, "cat", "/data/file")
            assert (0, "") == await said(client, after, "sh", "-c", "echo more > /data/more")
            two = await client.run_sandbox(node.sandbox("two"))
            other = await run(client, node, "two", two, "other", plain)
            code, text = await said(client, other, "cat", "/data/file")
            assert (1, True) == (code, "Permission denied" in text)


async def test_the_privileged(node: Node) -> None:
    """A privileged container runs as spc_t, and reads a file of any pod's."""
    async with serving(node) as client:
        with of_the_host("crishim-privileged") as folder:
            mount = Mount(container_path="/data", host_path=str(folder))
            sandbox = await client.run_sandbox(node.sandbox("pod", LinuxSandboxSecurityContext(privileged=True)))
            container = await run(client, node, "pod", sandbox, "c", mount, privileged=True)
            assert (0, "of the host\n") == await said(client, container, "cat", "/data/file")
            assert "spc_t" == (await settled(node, container)).split(":")[2]


async def test_a_label_by_name(node: Node) -> None:
    """A container runs with the type and the level that it names; with a type that policy lacks it does not start."""
    async with serving(node) as client:
        sandbox = await client.run_sandbox(node.sandbox("pod"))
        option = SELinuxOption(type="spc_t", level="s0:c3,c4")
        container = await run(client, node, "pod", sandbox, "c", selinux_options=option)
        assert "system_u:system_r:spc_t:s0:c3,c4" == await settled(node, container)
        with pytest.raises(CallError):
            await run(client, node, "pod", sandbox, "wrong", selinux_options=SELinuxOption(type="nothing_t"))
