"""The exam for pods, and the same class behind containerd; needs root and LXC."""

import ctypes.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from lxc_backend import LxcRuntime, plugin

from crishim import Backend, BackendContext
from crishim.testing.conformance import BackendConformance
from crishim.testing.conformance.runtimes import OciRuntimeConformance
from crishim.testing.roots import APPLETS

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the tests as root"),
    pytest.mark.skipif(ctypes.util.find_library("lxc") is None, reason="needs LXC: apt-get install lxc"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="needs busybox: apt-get install busybox-static"),
]


def busybox(root: Path) -> None:
    """A root file system of Debian's static busybox."""
    for folder in ("bin", "proc", "dev", "sys", "tmp"):
        (root / folder).mkdir(parents=True)
    shutil.copy2(str(shutil.which("busybox")), root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).hardlink_to(root / "bin" / "busybox")


class TestPods(BackendConformance):
    """Pods keep the contract, over restarts, too."""

    needs_node = True
    ignores = plugin.ignores

    async def make_backend(self, context: BackendContext) -> Backend:
        return plugin.build(context)


class TestBundles(OciRuntimeConformance):
    """Bundles keep the contract, as under containerd."""

    async def make_runtime(self, folder: Path) -> LxcRuntime:
        return LxcRuntime(folder)

    def write_bundle(self, bundle: Path, argv: tuple[str, ...]) -> None:
        busybox(bundle / "rootfs")
        process = {"args": list(argv), "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}, "cwd": "/"}
        spaces = [{"type": kind} for kind in ("mount", "pid", "network", "ipc", "uts")]
        mounts: list[dict[str, Any]] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
        linux = {"namespaces": spaces, "cgroupsPath": f"/crishim-exam/{bundle.name}"}
        config = {"process": process, "root": {"path": "rootfs"}, "mounts": mounts, "linux": linux}
        (bundle / "config.json").write_text(json.dumps(config))
