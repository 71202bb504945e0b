"""A node as the guest is one: pods in the slices that a kubelet's systemd driver makes for them."""

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.linux.cgroups import slice_folder
from crishim.model.container import ContainerMetadata, LinuxContainerConfig, Mount
from crishim.model.image import ImageSpec
from crishim.model.resources import Resources
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxConfig
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.play import CriClient
from crishim.testing.harness import container_config, sandbox_config
from tests.guest.build import MARK
from tests.node.world import CGROUPS, Node

MIB = 1 << 20
EXAMPLE = Path(__file__).parents[2] / "examples" / "crishim.service"
UNIT = Path("/etc/systemd/system/crishim.service")
CONFIG = Path("/etc/crishim/crishim.toml")


def in_guest() -> pytest.MarkDecorator:
    """A test that changes systemd's units, or reads the kernel's log: not for somebody's machine."""
    return pytest.mark.skipif(not Path("/", MARK).exists(), reason="runs in the guest alone: make guest")


def systemctl(*words: str) -> str:
    """What systemctl prints. Raises `CalledProcessError` where it fails."""
    return subprocess.run(["systemctl", *words], check=True, capture_output=True, text=True).stdout.strip()


@attrs.frozen
class Pod:
    """A pod and its slice, as a kubelet names both."""

    config: PodSandboxConfig
    unit: str

    @property
    def folder(self) -> Path:
        """The pod's cgroup."""
        return CGROUPS / slice_folder(self.unit).lstrip("/")

    def scopes(self) -> set[str]:
        """The names of the cgroups of containers and monitors in it."""
        return {path.name for path in self.folder.glob("*.scope")}

    def scope(self, container: str) -> Path:
        """A container's cgroup."""
        return self.folder / f"crishim-{container}.scope"


@contextlib.contextmanager
def kubelets_pod(node: Node, name: str, *, memory: int = 0) -> Iterator[Pod]:
    """A pod's slice, made as the kubelet's systemd driver makes it, with a memory limit if there is one; gone afterwards."""
    unit = f"kubepods-burstable-pod{name}.slice"
    systemctl("start", unit)
    if memory:
        systemctl("set-property", "--runtime", unit, f"MemoryMax={memory}")
    parent = f"/kubepods.slice/kubepods-burstable.slice/{unit}"
    security = LinuxSandboxSecurityContext(namespace_options=NamespaceOption(pid=NamespaceMode.CONTAINER))
    linux = LinuxPodSandboxConfig(cgroup_parent=parent, security_context=security)
    try:
        yield Pod(sandbox_config(name, log_directory=str(node.place / "logs" / name), linux=linux), unit)
    finally:
        for words in (["kill", "--signal=KILL", unit], ["stop", unit], ["stop", "kubepods.slice"]):
            subprocess.run(["systemctl", *words], check=False, capture_output=True)
        if memory:
            systemctl("revert", unit)


async def run_container(
    client: CriClient,
    node: Node,
    sandbox: str,
    pod: Pod,
    name: str,
    *argv: str,
    limits: Resources | None = None,
    data: str = "",
) -> str:
    """A container that was started; its id. `data` is a folder of the node that it has as /data."""
    more: dict[str, Any] = {} if limits is None else {"linux": LinuxContainerConfig(resources=limits)}
    more |= {"mounts": (Mount(container_path="/data", host_path=data),)} if data else {}
    config = container_config(
        "", metadata=ContainerMetadata(name), image=ImageSpec(image=node.image), command=argv, log_path=f"{name}.log", **more
    )
    container = await client.create_container(sandbox, config, pod.config)
    await client.start_container(container)
    return container


class UnitNode(Node):
    """A node whose server is the unit of examples/, under its own name. What it keeps over a reboot is in `place`."""

    def __init__(self, place: Path, image: str, runtime: str = "runc") -> None:
        super().__init__(place, image, 78, runtime=runtime)
        self.run = Path("/run/crishim-unit")
        self.configure(runtime)

    def install(self) -> None:
        """Put unit and configuration where an operator does."""
        CONFIG.parent.mkdir(exist_ok=True)
        shutil.copy2(self.place / "crishim.toml", CONFIG)
        shutil.copy2(EXAMPLE, UNIT)
        systemctl("daemon-reload")

    def start(self, *_before: str) -> None:
        """Start it, and return when it has notified systemd that it serves."""
        systemctl("enable", "--now", "--quiet", UNIT.name)

    def main(self) -> int:
        """The server's process."""
        return int(systemctl("show", "--property=MainPID", "--value", UNIT.name))

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Stop the unit, and take it away."""
        subprocess.run(["systemctl", "disable", "--now", "--quiet", UNIT.name], check=False, capture_output=True)
        if UNIT.exists():
            UNIT.unlink()
            shutil.rmtree(UNIT.with_name(f"{UNIT.name}.d"), ignore_errors=True)
            systemctl("daemon-reload")
            subprocess.run(["systemctl", "reset-failed", UNIT.name], check=False, capture_output=True)
        CONFIG.unlink(missing_ok=True)
