"""Namespaces of pods: their sysctls, and where they are pinned."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.entering import inside
from crishim.errors import InvalidArgument
from crishim.model.ids import SandboxId
from crishim.model.sandbox import LinuxPodSandboxConfig, SandboxSpec
from crishim.oci.namespaces import PinnedNamespaces, check_sysctls
from crishim.testing.harness import sandbox_config
from tests.backends.runc.world import needs, node

OWN = ("net", "uts", "ipc")


@pytest.mark.parametrize(
    "name", ["net.core.somaxconn", "net/ipv4/ip_forward", "kernel.shmmax", "fs.mqueue.msg_max", "kernel.domainname"]
)
def test_sysctls_of_the_pod_s_own_namespaces_are_taken(name: str) -> None:
    """What a namespace of the pod's own holds may be set; with the node's namespace it is refused (mapping.md 11)."""
    check_sysctls([name], OWN)
    with pytest.raises(InvalidArgument, match="own"):
        check_sysctls([name], ())


@pytest.mark.parametrize("name", ["kernel.panic", "vm.swappiness", "kernel.hostname", "fs.file-max"])
def test_sysctls_of_the_node_are_refused(name: str) -> None:
    """What no namespace holds is the node's, and no pod may set it (mapping.md 11)."""
    with pytest.raises(InvalidArgument, match="own"):
        check_sysctls([name], OWN)


@pytest.mark.parametrize("name", ["net.core.a;b", "net..x", "../net.x", "net.$(x)"])
def test_names_that_are_none_are_refused(name: str) -> None:
    """A name of a sysctl is words between dots; nothing else comes near a shell or a path."""
    with pytest.raises(InvalidArgument, match="not the name"):
        check_sysctls([name], OWN)


@pytest.mark.node
@needs("runc")
@pytest.mark.parametrize("value", ["", "x", "99999999999999999999"])
async def test_values_that_the_kernel_does_not_take_are_refused(tmp_path: Path, value: str) -> None:
    """The pod does not come up with another value than the one that was asked for, and the error names the field."""
    linux = LinuxPodSandboxConfig(sysctls={"net.ipv4.ip_unprivileged_port_start": value})
    async with node(tmp_path) as world:
        with pytest.raises(InvalidArgument, match="ip_unprivileged_port_start"):
            await world.run_sandbox(linux=linux)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for pins, whose mounts are gone afterwards."""
    yield tmp_path / "pins"
    PinnedNamespaces(tmp_path / "pins").close()


async def pinned(pins: PinnedNamespaces, name: str) -> list[str]:
    """The files of a new pod's namespaces."""
    sandbox = SandboxId(name * 64)
    await pins.create(SandboxSpec(id=sandbox, config=sandbox_config(name)))
    return [pins.path(sandbox, kind) for kind in ("net", "ipc", "uts")]


def entered(paths: list[str]) -> list[str]:
    """Which namespaces a thread is in that enters these."""
    return inside(paths, lambda: [str(Path(f"/proc/thread-self/ns/{kind}").readlink()) for kind in ("net", "ipc", "uts")])


@pytest.mark.node
@needs()
async def test_older_pods_after_a_restart(folder: Path) -> None:
    """The first pod after a restart hides no namespace of the pods before it."""
    older = await pinned(PinnedNamespaces(folder), "a")
    before = entered(older)
    newer = await pinned(PinnedNamespaces(folder), "b")
    assert before == entered(older)
    assert not set(before) & set(entered(newer))
