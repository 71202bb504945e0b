"""A runtime of one class over the keeper keeps the contract of runtimes."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from crishim.errors import AlreadyExists, InvalidArgument
from crishim.interfaces.backend import BackendInfo
from crishim.interfaces.oci_runtime import OciRuntime, OciStatus, Stdio
from crishim.linux import processes
from crishim.pods.program import ProgramRuntime
from crishim.testing.roots import APPLETS
from tests.backends.runc.world import needs
from tests.conformance.test_runtimes import WithBusybox


class ChrootRuntime(ProgramRuntime):
    """Programs in a root of their own, and nothing else."""

    async def probe(self) -> BackendInfo:
        return BackendInfo(name="chroot", version="1")

    def command(self, bundle: Path, config: Mapping[str, Any]) -> Sequence[str]:
        return (str(shutil.which("chroot")), str(bundle / config["root"]["path"]), *config["process"]["args"])

    def environment(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        return dict(variable.split("=", 1) for variable in config["process"]["env"])

    async def check(self, bundle: Path, config: Mapping[str, Any]) -> None:
        await super().check(bundle, config)
        if config["process"]["args"][0] not in APPLETS:
            raise InvalidArgument("config.command", "does not exist")


@pytest.mark.node
@needs("runc", "busybox", "chroot")
class TestProgram(WithBusybox):
    """It runs bundles, with their logs and named pipes, and deletes what an earlier object has left."""

    async def make_runtime(self, folder: Path) -> OciRuntime:
        return ChrootRuntime(folder)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that sleeps."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    TestProgram().write_bundle(folder, ("sleep", "60"))
    return folder


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_a_program_that_does_not_exist(tmp_path: Path, bundle: Path) -> None:
    """The start fails by the field's name, the container stays created, and can be deleted."""
    TestProgram().write_bundle(tmp_path / "other", ("nonsense",))
    runtime = ChrootRuntime(tmp_path)
    await runtime.create("one", tmp_path / "other", Stdio())
    with pytest.raises(InvalidArgument, match=r"config\.command"):
        await runtime.start("one")
    assert OciStatus.CREATED is (await runtime.state("one")).status
    await runtime.delete("one")


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_a_name_is_taken(tmp_path: Path, bundle: Path) -> None:
    """A second container of one name is refused, and the first one is not touched."""
    runtime = ChrootRuntime(tmp_path)
    await runtime.create("one", bundle, Stdio())
    with pytest.raises(AlreadyExists):
        await runtime.create("one", bundle, Stdio())
    await runtime.start("one")
    assert OciStatus.RUNNING is (await runtime.state("one")).status
    await runtime.delete("one")


@pytest.mark.node
@needs("runc", "busybox", "chroot")
async def test_its_keeper_is_killed(tmp_path: Path, bundle: Path) -> None:
    """The container goes on, its exit is unknown, and its deletion ends it."""
    runtime = ChrootRuntime(tmp_path)
    pid = await runtime.create("one", bundle, Stdio())
    await runtime.start("one")
    process = processes.read(pid)
    assert process is not None
    keeper = processes.read(process.parent)
    assert keeper is not None
    processes.send(keeper.identity, 9)
    assert 255 == (await runtime.wait("one")).code
    assert OciStatus.RUNNING is (await runtime.state("one")).status
    await runtime.delete("one")
    assert not processes.runs(process.identity)
