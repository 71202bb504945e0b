"""A node of root file systems of Debian's static busybox, for tests that need no image."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from crishim.backends.runc.command import version_of
from crishim.backends.runc.pods import build
from crishim.interfaces.backend import BackendContext
from crishim.interfaces.seats import PodNetwork
from crishim.keeper.client import KeeperClient
from crishim.linux.mounts import is_mount_root
from crishim.model.runtime import CgroupDriver
from crishim.model.values import FrozenDict
from crishim.pods.host import cgroup_driver, host
from crishim.pods.namespaces import PinnedNamespaces
from crishim.store.memory import MemoryStore
from crishim.system import SystemClock
from crishim.testing import Harness
from crishim.testing.roots import BusyboxRoots

TOOLS = {
    "runc": "runc",
    "conmon": "conmon",
    "busybox": "busybox-static",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "catatonit": "catatonit",
    "apparmor_parser": "apparmor",
    "ip": "iproute2",
    "iptables": "iptables",
    "skopeo": "skopeo",
    "docker-registry": "docker-registry",
    "containerd-shim-runc-v2": "containerd",
}


def needs(*tools: str) -> pytest.MarkDecorator:
    """A test that runs as root where these programs are; elsewhere it says which are missing and how to get them."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    packages = " ".join(TOOLS.get(tool, tool) for tool in missing)
    if os.geteuid() != 0:
        return pytest.mark.skip(reason="needs root: run the tests as root")
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}: apt-get install {packages}")


def needs_criu() -> pytest.MarkDecorator:
    """A test that runs where there is a CRIU that knows the kernel: from 6.16 on, with other sockets, that is 4.2."""
    program = shutil.which("criu")
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout if program else ""
    fits = version_of(output.partition("Version:")[2].strip()) >= ((4, 2) if host().kernel >= (6, 16) else (4, 1))
    return pytest.mark.skipif(not fits, reason="needs criu 4.2: make criu, and .venv/criu on PATH")


def needs_systemd() -> pytest.MarkDecorator:
    """A test that runs where systemd is process 1 and owns cgroup v2, as in the guest."""
    here = cgroup_driver() is CgroupDriver.SYSTEMD
    return pytest.mark.skipif(not here, reason="needs systemd as process 1 and cgroup v2: make guest")


def without_hybrid() -> None:
    """Crun before 1.9 refuses a host whose hugetlb controller is left on cgroup v2; mount it on v1, as the rest is."""
    folder = Path("/sys/fs/cgroup/hugetlb")
    if Path("/sys/fs/cgroup/unified").exists() and not is_mount_root(folder):
        folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "cgroup", "-o", "hugetlb", "cgroup", str(folder)], check=True)


@contextlib.asynccontextmanager
async def node(folder: Path, *, network: PodNetwork | None = None, **options: Any) -> AsyncIterator[Harness]:
    """Services over the runc backend with these options; its pods are gone afterwards. Without `network` a fake one."""
    pins = PinnedNamespaces(folder / "pins")
    (folder / "run").mkdir(mode=0o711)
    context = BackendContext(
        state=folder / "state",
        runtime_state=folder / "run",
        options=FrozenDict(options),
        clock=SystemClock(),
        rootfs=BusyboxRoots(folder / "roots"),
        namespaces=pins,
        keeper=KeeperClient(folder / "run" / "keeper"),
    )
    with contextlib.closing(pins):
        parts: dict[str, Any] = {"namespaces": pins, "clock": SystemClock(), "store": MemoryStore()}
        async with Harness(build(context), **parts, **({"network": network} if network else {})) as harness:
            try:
                yield harness
            finally:
                for sandbox in list(harness.services._core.table.sandboxes):
                    await harness.services.sandboxes.remove(sandbox)
