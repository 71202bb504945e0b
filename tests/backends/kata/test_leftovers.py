"""What kata's shim leaves on the node is found and freed, also where kata or our own records say that nothing is left."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.backends.kata.leftovers import KataBinary, left_of
from crishim.errors import NotFound, Unavailable
from crishim.linux.cgroups import Cgroups
from crishim.linux.mounts import mount, mounts_below, unmount_below
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import needs
from tests.shimv2.conftest import machines, pins
from tests.shimv2.kata_shim import FOLDERS, MACHINES, OVERHEAD, SHARED
from tests.shimv2.world import ShimWorld, host_leftovers

__all__ = ["machines", "pins"]

MS_BIND = 4096
on_node = needs("busybox", "unshare", "catatonit")


def binary_in(root: Path) -> KataBinary:
    cgroups = Cgroups(v2=True, root=root / "cgroup")
    return KataBinary(program="kata", namespace="n", address="a", root=root, cgroups=cgroups)


@pytest.fixture
def hypervisor() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is called like the machine of sandbox s1."""
    process = subprocess.Popen(["qemu sandbox-s1", "600"], executable=shutil.which("sleep"), start_new_session=True)
    yield process
    process.kill()
    process.wait()


async def test_all_is_freed(tmp_path: Path, hypervisor: subprocess.Popen[bytes]) -> None:
    """Processes, folders and the cgroup of a sandbox are freed, and nothing of another's."""
    for folder in (*FOLDERS, OVERHEAD):
        for name in ("s1", "s2"):
            (tmp_path / folder / name).mkdir(parents=True)
    assert [] == await binary_in(tmp_path).remove_leftovers("s1")
    assert [] == left_of("s1", tmp_path)
    assert 3 == len(left_of("s2", tmp_path))
    assert [tmp_path / OVERHEAD / "s2"] == list((tmp_path / OVERHEAD).iterdir())
    await until(lambda: not Path(f"/proc/{hypervisor.pid}").exists())


@pytest.mark.node
@needs()
async def test_what_is_mounted_is_not_deleted(tmp_path: Path) -> None:
    """A root file system that is mounted in a folder of kata's is unmounted, and its files stay."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file").touch()
    place = tmp_path / SHARED / "s1" / "mounts" / "c1" / "rootfs"
    place.mkdir(parents=True)
    mount(str(tmp_path / "root"), place, flags=MS_BIND)
    try:
        assert [] == await binary_in(tmp_path).remove_leftovers("s1")
        assert [] == mounts_below(tmp_path)
        assert (tmp_path / "root" / "file").exists()
        assert [] == left_of("s1", tmp_path)
    finally:
        unmount_below(tmp_path)


@pytest.mark.node
@on_node
async def test_a_delete_that_frees_nothing(machines: ShimWorld) -> None:
    """Where kata's `delete` succeeds and leaves the machine running, the machine is ended and its folders go."""
    pod = await machines.sandbox()
    await machines.run_ready(pod, machines.programs.sleeps())
    (machines.folder / "host" / "forgets").touch()
    machine = int((machines.folder / "host" / MACHINES / pod.id / "pid").read_text())
    inside = [int(path.name) for path in (machines.folder / "host" / MACHINES / pod.id / "processes").iterdir()]
    (shim,) = machines.shims()
    os.kill(shim, signal.SIGKILL)
    await machines.backend.stop_sandbox(pod.id)
    assert [] == host_leftovers(machines.folder)
    await until(lambda: not Path(f"/proc/{machine}/cmdline").exists() or not Path(f"/proc/{machine}/cmdline").read_bytes())
    for pid in inside:  # the stand-in's guest outlives its machine
        os.killpg(pid, signal.SIGKILL)


@pytest.mark.node
@on_node
async def test_leftovers_without_a_record(machines: ShimWorld) -> None:
    """A sandbox of which only kata's leftovers are there is not said to be gone before they are."""
    folder = machines.folder / "host" / MACHINES / "s1"
    folder.mkdir(parents=True)
    stays = machines.folder / "host" / OVERHEAD / "s1"
    stays.mkdir(parents=True)
    (stays / "busy").touch()
    with pytest.raises(Unavailable, match="cgroup /kata_overhead/s1"):
        await machines.runtime.delete("s1")
    (stays / "busy").unlink()
    with pytest.raises(NotFound):
        await machines.runtime.delete("s1")
    assert ([], False) == (host_leftovers(machines.folder), stays.exists())


@pytest.mark.node
@on_node
async def test_a_machine_that_outlives_a_clean_end(machines: ShimWorld) -> None:
    """What is left after a shim has said that all is gone makes the stop fail, until it is gone."""
    pod = await machines.sandbox()
    stays = machines.folder / "host" / OVERHEAD / pod.id / "busy"
    (machines.folder / "host" / "keeps").touch()
    stays.touch()
    with pytest.raises(Unavailable, match="kata_overhead"):
        await machines.backend.stop_sandbox(pod.id)
    with pytest.raises(Unavailable, match="kata_overhead"):
        await machines.backend.remove_sandbox(pod.id)
    stays.unlink()
    await machines.backend.stop_sandbox(pod.id)
    assert not stays.parent.exists()
