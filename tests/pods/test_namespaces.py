# ruff: noqa: ASYNC240 - nothing else runs on these loops, so a short blocking read delays nothing
"""Namespaces of pods: their sysctls, and where they are pinned."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.errors import InvalidArgument, NotFound
from crishim.linux.mounts import MS_BIND, MS_PRIVATE, mount, mounts_below
from crishim.linux.namespaces import inside
from crishim.model.sandbox import LinuxPodSandboxConfig, SandboxSpec
from crishim.model.values import SandboxId
from crishim.pods.namespaces import PinnedNamespaces, check_sysctls, of_interface, sysctl_parts
from crishim.testing.harness import sandbox_config
from tests.backends.runc.world import needs, node

OWN = ("net", "uts", "ipc")


@pytest.mark.parametrize(
    "name", ["net.core.somaxconn", "net/ipv4/ip_forward", "kernel.shmmax", "fs.mqueue.msg_max", "kernel.domainname"]
)
def test_sysctls_of_the_pod_s_own_namespaces_are_taken(name: str) -> None:
    """What a namespace of the pod's own holds may be set; with the node's namespace it is refused (mapping.md 11)."""
    check_sysctls([name], OWN)
    with pytest.raises(InvalidArgument, match="does not belong"):
        check_sysctls([name], ())


@pytest.mark.parametrize("name", ["kernel.panic", "vm.swappiness", "kernel.hostname", "fs.file-max"])
def test_sysctls_of_the_node_are_refused(name: str) -> None:
    """What no namespace holds is the node's, and no pod may set it (mapping.md 11)."""
    with pytest.raises(InvalidArgument, match="does not belong"):
        check_sysctls([name], OWN)


@pytest.mark.parametrize("name", ["net.core.a;b", "net..x", "../net.x", "net.$(x)"])
def test_names_that_are_none_are_refused(name: str) -> None:
    """A name of a sysctl is words between dots; nothing else comes near a shell or a path."""
    with pytest.raises(InvalidArgument, match="not a name"):
        check_sysctls([name], OWN)


@pytest.mark.node
@needs("runc")
@pytest.mark.parametrize("value", ["", "x", "99999999999999999999"])
async def test_values_that_the_kernel_does_not_take_are_refused(tmp_path: Path, value: str) -> None:
    """The pod does not start with another value than the requested one, and the error names the field."""
    linux = LinuxPodSandboxConfig(sysctls={"net.ipv4.ip_unprivileged_port_start": value})
    async with node(tmp_path) as world:
        with pytest.raises(InvalidArgument, match="ip_unprivileged_port_start"):
            await world.run_sandbox(linux=linux)


@pytest.mark.parametrize(
    ("name", "parts", "late"),
    [
        ("net.ipv4.conf.eth0.rp_filter", ["net", "ipv4", "conf", "eth0", "rp_filter"], True),
        ("net/ipv4/conf/eth0.1/rp_filter", ["net", "ipv4", "conf", "eth0.1", "rp_filter"], True),
        ("net.ipv6.neigh.eth0/1.retrans_time_ms", ["net", "ipv6", "neigh", "eth0.1", "retrans_time_ms"], True),
        ("net.ipv6.conf.all.forwarding", ["net", "ipv6", "conf", "all", "forwarding"], False),
        ("net.ipv6.conf.default.accept_ra", ["net", "ipv6", "conf", "default", "accept_ra"], False),
        ("net.ipv4.conf.lo.route_localnet", ["net", "ipv4", "conf", "lo", "route_localnet"], False),
        ("net.core.somaxconn", ["net", "core", "somaxconn"], False),
    ],
)
def test_names_lead_to_files(name: str, parts: list[str], late: bool) -> None:
    """Names are read as by sysctl.d(5), and those of interfaces wait for the network's plugins."""
    assert (parts, late) == (sysctl_parts(name), of_interface(name))


@pytest.mark.node
@needs("runc", "ip")
async def test_sysctls_of_an_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are set once plugins have created the interface; one of an interface that is never created is refused by its
    field.
    """

    async def set_up(spec: SandboxSpec) -> tuple[str, ...]:
        link = ["ip", "link", "add", "eth0", "type", "bridge"]
        inside(spec.netns, lambda: subprocess.run(link, check=True))
        return ("192.0.2.1",)

    linux = LinuxPodSandboxConfig(sysctls={"net.ipv4.conf.eth0.arp_ignore": "2", "net.ipv4.ip_unprivileged_port_start": "7"})
    async with node(tmp_path) as world:
        monkeypatch.setattr(world.network, "set_up", set_up)
        sandbox = await world.run_sandbox(linux=linux)
        netns = PinnedNamespaces(tmp_path / "pins").path(sandbox, "net")
        files = ["net/ipv4/conf/eth0/arp_ignore", "net/ipv4/ip_unprivileged_port_start"]
        assert ["2", "7"] == inside(netns, lambda: [Path("/proc/sys", file).read_text().strip() for file in files])
        none = LinuxPodSandboxConfig(sysctls={"net.ipv4.conf.eth7.arp_ignore": "2"})
        with pytest.raises(InvalidArgument, match="eth7"):
            await world.run_sandbox("other", linux=none)


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


@pytest.mark.node
@needs()
@pytest.mark.parametrize("times", [1, 3])
async def test_binds_over_the_pins_are_undone(folder: Path, times: int) -> None:
    """If the folder was bound over itself, once or more, the next start shows the pins below, and the pins above stay."""
    above = PinnedNamespaces(folder)
    older = await pinned(above, "a")
    pods = {"a": (older, entered(older))}
    for name in "bcd"[:times]:
        mount(str(folder), folder, flags=MS_BIND)
        mount("", folder, flags=MS_PRIVATE)
        with pytest.raises(NotFound):
            entered(older)
        newer = await pinned(above, name)
        pods[name] = (newer, entered(newer))
    pins = PinnedNamespaces(folder)
    assert {name: before for name, (_, before) in pods.items()} == {name: entered(paths) for name, (paths, _) in pods.items()}
    assert 1 == [found.path for found in mounts_below(folder)].count(str(folder))
    for name in pods:
        await pins.remove(SandboxId(name * 64))
    assert ([], [str(folder)]) == (list(folder.iterdir()), [found.path for found in mounts_below(folder)])


@pytest.mark.node
@needs()
async def test_pins_without_a_sandbox(folder: Path) -> None:
    """Namespaces of unknown sandboxes are removed; those of known ones stay."""
    pins = PinnedNamespaces(folder)
    known = await pinned(pins, "a")
    await pinned(pins, "b")
    await pins.collect({SandboxId("a" * 64)})
    assert ["a" * 64] == [path.name for path in folder.iterdir()]
    assert set(known) | {str(folder)} == {found.path for found in mounts_below(folder)}
    entered(known)


@pytest.mark.node
@needs()
async def test_pins_do_not_travel(folder: Path) -> None:
    """The folder of the pins becomes private, also where it was mounted before, so that no other namespace gets them."""
    folder.mkdir()
    mount("tmpfs", folder, "tmpfs")
    mount("", folder, flags=1 << 20)  # MS_SHARED
    await pinned(PinnedNamespaces(folder), "a")
    assert {False} == {found.shared for found in mounts_below(folder)}
