"""A runtime whose program is beside the container keeps the contract of runtimes."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from crishim.errors import AlreadyExists, CreateRefused, FailedPrecondition, InvalidArgument, NotFound
from crishim.interfaces.backend import BackendInfo
from crishim.interfaces.oci_runtime import OciRuntime, OciStatus, Stdio
from crishim.linux import processes
from crishim.linux.cgroups import read_text
from crishim.pods.supervised import FILES, SupervisedRuntime
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import needs
from tests.conformance.test_runtimes import WithBusybox

SUPERVISOR = r"""
files=$1; root=$2; shift 2
test "$1" != unmakeable || { echo "the engine is out of order" >"$files/failed"; exit 1; }
test "$1" != gone || { sh -c : & wait $!; echo $! >"$files/new"; mv "$files/new" "$files/pid"; exec sleep 60; }
exec 9<>"$files/gate"
sh -c 'read -r go <&9; exec 9<&-
test -x "$1/bin/$2" || { echo "no program $2" >"$0/failed"; exit 1; }
exec chroot "$@"' "$files" "$root" "$@" <&0 &
echo $! >"$files/new"; mv "$files/new" "$files/pid"
exec 9<&- 0<&-
wait $!
"""


class ShellRuntime(SupervisedRuntime):
    """A shell beside each program in a root of its own."""

    async def probe(self) -> BackendInfo:
        return BackendInfo(name="shell", version="1")

    def write_files(self, container_id: str, bundle: Path, config: Mapping[str, Any], stdio: Stdio) -> None:
        if "unwritable" in config["process"]["args"]:
            raise InvalidArgument("config.command", "cannot be written")

    def command(self, bundle: Path, config: Mapping[str, Any]) -> Sequence[str]:
        root = str(bundle / config["root"]["path"])
        return ("sh", "-c", SUPERVISOR, "supervisor", str(bundle / FILES), root, *config["process"]["args"])


pytestmark = pytest.mark.node


@needs("runc", "busybox", "chroot")
class TestSupervised(WithBusybox):
    """It runs bundles, with their logs, and deletes what an earlier object has left."""

    leaves_out = frozenset({"pipes", "pipes_without_a_monitor"})  # which its program would have to open

    async def make_runtime(self, folder: Path) -> OciRuntime:
        return ShellRuntime(folder)


def bundle_of(folder: Path, *words: str) -> Path:
    """A bundle for a command."""
    folder.mkdir()
    TestSupervised().write_bundle(folder, words)
    return folder


@needs("runc", "busybox", "chroot")
async def test_the_first_process_is_the_containers(tmp_path: Path) -> None:
    """The pid of a created container is that of the process which later runs the program, beside which the supervisor waits."""
    runtime = ShellRuntime(tmp_path)
    pid = await runtime.create("one", bundle_of(tmp_path / "b", "sleep", "60"), Stdio())
    try:
        before = read_text(f"/proc/{pid}/cmdline")
        await runtime.start("one")
        assert (OciStatus.RUNNING, pid) == ((await runtime.state("one")).status, (await runtime.state("one")).pid)
        assert before.startswith("sh\0")
        await until(lambda: "sleep\x0060\0" == read_text(f"/proc/{pid}/cmdline"))
        with pytest.raises(FailedPrecondition):
            await runtime.start("one")
    finally:
        await runtime.delete("one")


@needs("runc", "busybox", "chroot")
@pytest.mark.parametrize("everyone", [False, True])
async def test_a_signal_goes_to_the_program(tmp_path: Path, everyone: bool) -> None:
    """The program gets a signal, and its supervisor, which the signal would end, does not."""
    log, runtime = tmp_path / "log", ShellRuntime(tmp_path)
    bundle = bundle_of(tmp_path / "b", "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    await runtime.create("one", bundle, Stdio(log_path=str(log)))
    try:
        await runtime.start("one")
        await until(lambda: log.exists() and "ready" in log.read_text())
        await runtime.kill("one", signal.SIGTERM, everyone=everyone)
        assert 3 == (await runtime.wait("one")).code
    finally:
        await runtime.delete("one")


@needs("runc", "busybox", "chroot")
async def test_a_created_container_is_killed(tmp_path: Path) -> None:
    """SIGKILL ends a container that was not started, with its supervisor at the gate."""
    runtime = ShellRuntime(tmp_path)
    pid = await runtime.create("one", bundle_of(tmp_path / "b", "sleep", "60"), Stdio())
    first = processes.read(pid)
    assert first is not None
    await runtime.kill("one", signal.SIGKILL)
    assert 128 + signal.SIGKILL == (await runtime.wait("one")).code
    await until(lambda: not processes.runs(first.identity))
    await runtime.delete("one")


@needs("runc", "busybox", "chroot")
async def test_an_engine_that_fails(tmp_path: Path) -> None:
    """Its reason is the error: of the creation, or of the start."""
    runtime = ShellRuntime(tmp_path)
    with pytest.raises(CreateRefused, match="the engine is out of order"):
        await runtime.create("one", bundle_of(tmp_path / "b", "unmakeable"), Stdio())
    await runtime.create("one", bundle_of(tmp_path / "c", "nonsense"), Stdio())
    with pytest.raises(CreateRefused, match="no program nonsense"):
        await runtime.start("one")
    assert OciStatus.STOPPED is (await runtime.state("one")).status
    await runtime.delete("one")


@needs("runc", "busybox", "chroot")
@pytest.mark.parametrize(
    ("word", "error", "reason"),
    [
        ("unwritable", InvalidArgument, "cannot be written"),
        ("unmakeable", CreateRefused, "the engine is out of order"),
        ("gone", CreateRefused, "the first process of the container has ended"),
    ],
)
async def test_a_failed_creation_leaves_nothing(tmp_path: Path, word: str, error: type[Exception], reason: str) -> None:
    """A creation that fails in any step, also by a first process that has ended, leaves no container and no files."""
    runtime, bundle = ShellRuntime(tmp_path), bundle_of(tmp_path / "b", word)
    before = sorted(bundle.iterdir())
    with pytest.raises(error, match=reason):
        await runtime.create("one", bundle, Stdio())
    assert before == sorted(bundle.iterdir())
    with pytest.raises(NotFound):
        await runtime.state("one")


@needs("runc", "busybox", "chroot")
async def test_a_bundle_is_used_again(tmp_path: Path) -> None:
    """After a deletion the bundle can be that of another container."""
    runtime, bundle = ShellRuntime(tmp_path), bundle_of(tmp_path / "b", "sleep", "60")
    for name in ("one", "two"):
        await runtime.create(name, bundle, Stdio())
        await runtime.delete(name)
    assert not (bundle / FILES).exists()


@needs("runc", "busybox", "chroot")
async def test_a_name_is_taken(tmp_path: Path) -> None:
    """A creation with the name of another container leaves that one, and no files in its own bundle."""
    runtime, other = ShellRuntime(tmp_path), bundle_of(tmp_path / "other", "sleep", "60")
    await runtime.create("one", bundle_of(tmp_path / "b", "sleep", "60"), Stdio())
    try:
        with pytest.raises(AlreadyExists):
            await runtime.create("one", other, Stdio())
        assert not (other / FILES).exists()
        assert OciStatus.CREATED is (await runtime.state("one")).status
    finally:
        await runtime.delete("one")


@needs("runc", "busybox", "chroot")
async def test_a_bundle_is_taken(tmp_path: Path) -> None:
    """A second container of one bundle is refused, and the first one is not touched."""
    runtime, bundle = ShellRuntime(tmp_path), bundle_of(tmp_path / "b", "sleep", "60")
    await runtime.create("one", bundle, Stdio())
    try:
        with pytest.raises(AlreadyExists):
            await runtime.create("one", bundle, Stdio())
        await runtime.start("one")
    finally:
        await runtime.delete("one")
