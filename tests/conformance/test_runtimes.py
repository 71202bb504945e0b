"""The exam for OCI runtimes, taken by runc, by crun, and by the runtime of the example."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from crishim.backends.runc.command import RuntimeCommand
from crishim.backends.runc.runtime import RuncRuntime
from crishim.interfaces.oci_runtime import OciRuntime
from crishim.linux.children import become_subreaper
from crishim.pods.host import host
from crishim.testing.conformance.runtimes import OciRuntimeConformance
from crishim.testing.roots import APPLETS
from tests.backends.runc.world import needs, needs_systemd, without_hybrid
from tests.examples import load_example
from tests.shimv2.containerd import PROGRAMS, containerd

SLICE = "crishim_exam.slice"
SHIM = Path(__file__).parents[2] / "examples" / "plain_shim.py"


def busybox(root: Path) -> None:
    """A root file system of Debian's static busybox."""
    (root / "bin").mkdir(parents=True)
    for folder in ("proc", "dev", "sys"):
        (root / folder).mkdir()
    shutil.copy2(str(shutil.which("busybox")), root / "bin" / "busybox")
    for applet in APPLETS:
        (root / "bin" / applet).hardlink_to(root / "bin" / "busybox")


class WithBusybox(OciRuntimeConformance):
    """Bundles of a busybox, with cgroups that the runtime makes itself or systemd for it."""

    systemd = False

    def write_bundle(self, bundle: Path, argv: tuple[str, ...]) -> None:
        busybox(bundle / "rootfs")
        subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True)
        config: dict[str, Any] = json.loads((bundle / "config.json").read_text())
        config["process"] |= {"args": list(argv), "terminal": False, "env": ["PATH=/bin"]}
        config["root"] = {"path": "rootfs"}
        config["ociVersion"] = "1.0.2"  # which every runtime here knows, unlike a newer one that runc may have written
        systemd, plain = f"{SLICE}:crishim:{bundle.name}", f"/crishim-exam/{bundle.name}"
        config["linux"]["cgroupsPath"] = systemd if self.systemd else plain
        (bundle / "config.json").write_text(json.dumps(config))


@pytest.mark.node
@needs("runc", "conmon", "busybox")
class TestRunc(WithBusybox):
    """runc keeps the contract."""

    runtime = "runc"

    async def make_runtime(self, folder: Path) -> OciRuntime:
        become_subreaper()
        command = RuntimeCommand(self.runtime, folder / "runtime", systemd_cgroup=self.systemd)
        return RuncRuntime(command, folder / "s", host(systemd_cgroup=self.systemd))


@pytest.mark.node
@needs("crun", "runc", "conmon", "busybox")
class TestCrun(TestRunc):
    """crun keeps the contract."""

    runtime = "crun"

    @pytest.fixture(autouse=True)
    def no_hybrid(self) -> None:
        """The machine is as crun wants it."""
        without_hybrid()


@pytest.fixture(scope="class")
def its_slice() -> Iterator[None]:
    """The slice of the bundles, which systemd starts for the first of them, is stopped: systemd stops none by itself."""
    yield
    subprocess.run(["systemctl", "stop", SLICE], check=True)


@needs_systemd()
@pytest.mark.usefixtures("its_slice")
class TestRuncUnderSystemd(TestRunc):
    """The same where systemd makes the cgroups."""

    systemd = True


@needs_systemd()
@pytest.mark.usefixtures("its_slice")
class TestCrunUnderSystemd(TestCrun):
    """The same where systemd makes the cgroups."""

    systemd = True


@pytest.mark.node
@needs("runc", "busybox", "chroot")
class TestPlain(WithBusybox):
    """The runtime of the example keeps the contract, but for logs, which a shim has nothing to do with."""

    leaves_out = frozenset({"log"})

    async def make_runtime(self, folder: Path) -> OciRuntime:
        runtime: OciRuntime = load_example("plain_shim").PlainRuntime(folder)
        return runtime


@pytest.mark.node
@needs(*PROGRAMS)
def test_the_example_under_containerd(tmp_path: Path) -> None:
    """A whole shim of about a hundred lines: `ctr run` sees its output and its exit code."""
    assert len(SHIM.read_text().splitlines()) < 110
    program = tmp_path / "containerd-shim-plain-v1"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {SHIM} "$@"\n')
    program.chmod(0o755)
    with containerd() as node:
        done = node.ctr(
            *("run", "--rm", "--rootfs", "--runtime", str(program), "--env", "PATH=/bin"),
            *(str(node.root), "t1", "sh", "-c", "echo hello; exit 6"),
        )
        assert (6, b"hello\n") == (done.returncode, done.stdout)
        assert {} == node.tasks()
