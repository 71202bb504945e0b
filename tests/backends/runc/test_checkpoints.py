"""Checkpoints of containers with real CRIU."""

import contextlib
import json
import signal
import tarfile
from pathlib import Path

import pytest

from crishim.backends.runc import checkpoints
from crishim.errors import DataLoss, DeadlineExceeded, NotFound, Unimplemented
from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux.namespaces import raise_loopback
from crishim.linux.processes import recorded, send
from crishim.model.container import ContainerState, LinuxContainerConfig
from crishim.model.image import ImageSpec
from crishim.model.runtime import RestorePod
from crishim.model.security import LinuxContainerSecurityContext, NamespaceMode, NamespaceOption
from crishim.model.values import EMPTY, ContainerId, SandboxId
from crishim.pods.host import cgroup_v2
from crishim.testing import Harness
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import container_config, sandbox_config
from tests.backends.runc.world import needs, needs_criu, node

pytestmark = [pytest.mark.node, needs("runc", "conmon", "busybox"), needs_criu()]

COUNTS = "trap 'exit 9' TERM; exec 5>/tmp/file; i=0; while :; do i=$((i+1)); echo $i; echo $i >&5; sleep 0.05; done"


def last(log: Path) -> int:
    """The number that a counting container has logged last; 0 before the first."""
    words = [line.split()[-1] for line in log.read_text().splitlines()] if log.exists() else []
    return next((int(word) for word in reversed(words) if word.isdigit()), 0)  # the end of a terminal line may be an entry


def member(archive: tarfile.TarFile, name: str) -> bytes:
    """The content of a file of an archive."""
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


async def counting(world: Harness, folder: Path, name: str = "main") -> tuple[SandboxId, ContainerId, Path]:
    """A pod, its container that counts in its log and in an open file, and the log."""
    pod = await world.run_sandbox(log_directory=str(folder / "logs"))
    container_id = await world.run_container(pod, name, "sh", "-c", COUNTS, log_path=f"{name}.log")
    log = folder / "logs" / f"{name}.log"
    await until(lambda: last(log) > 3)
    return pod, container_id, log


async def test_an_archive_is_written_and_the_container_goes_on(tmp_path: Path) -> None:
    """CheckpointContainer writes what containerd and CRI-O write, and nothing beside it; the container counts on."""
    async with node(tmp_path, runtime="runc") as world:
        _, container_id, log = await counting(world, tmp_path)
        target = tmp_path / "out" / "main.tar"
        await world.services.containers.checkpoint(container_id, str(target), 0)
        seen = last(log)
        await until(lambda: last(log) > seen + 3)
        assert [target] == list(target.parent.iterdir())
        with tarfile.open(target) as tar:
            names = {name for name in tar.getnames() if "/" not in name}
            config = json.loads(member(tar, "config.dump"))
        expected = {"config.dump", "spec.dump", "status.dump", "checkpoint", "rootfs-diff.tar", "deleted.files"}
        expected |= {"bind.mounts", "network.status", "dump.log", "stats-dump", "container.log"}
        assert expected == names
        assert ("main", container_id) == (config["name"], config["id"])


async def test_a_dump_that_stands_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CRIU that waits for a stopped process (cgroup v1) is ended, and nothing stays frozen; elsewhere it dumps the process."""
    async with node(tmp_path, runtime="runc") as world:
        _, container_id, log = await counting(world, tmp_path)
        (file,) = (path for path in tmp_path.rglob(FIRST_PROCESS) if path.parent.name == container_id)  # noqa: ASYNC240
        first = recorded(file)
        assert first is not None
        send(first, signal.SIGSTOP)
        target = tmp_path / "main.tar"
        refused = pytest.raises(DeadlineExceeded, match="CRIU has stood still for 2 s")
        with contextlib.nullcontext() if cgroup_v2() else refused, monkeypatch.context() as patch:
            patch.setattr(checkpoints, "STALL", 2.0)
            await world.services.containers.checkpoint(container_id, str(target), 60)
        target.unlink(missing_ok=True)
        send(first, signal.SIGCONT)
        seen = last(log)
        await until(lambda: last(log) > seen + 3)
        await world.services.containers.checkpoint(container_id, str(target), 60)
        assert target.exists()


async def restored(world: Harness, pod: SandboxId, archive: Path, name: str = "again") -> ContainerId:
    """A container created from an archive, not started."""
    return await world.create_container(pod, name, image=ImageSpec(image=str(archive)), log_path=f"{name}.log")


@pytest.mark.parametrize("monitor", ["conmon", "keeper"])
async def test_a_restored_container_goes_on(tmp_path: Path, monitor: str) -> None:
    """CreateContainer from an archive makes a CREATED container; started it counts on, in its open file too.

    Its log, its execs and its exit are those of any container.
    """
    async with node(tmp_path, runtime="runc", monitor=monitor) as world:
        pod, container_id, log = await counting(world, tmp_path)
        archive = tmp_path / "main.tar"
        before = last(log)
        await world.services.containers.checkpoint(container_id, str(archive), 0)
        dumped = last(log)
        await world.services.containers.stop(container_id, 0)
        again = await restored(world, pod, archive)
        assert ContainerState.CREATED is (await world.services.containers.status(again, verbose=False)).status.state
        await world.services.containers.start(again)
        new = tmp_path / "logs" / "again.log"
        await until(lambda: last(new) > dumped + 3)
        first = int(new.read_text().splitlines()[0].split()[-1])
        assert before <= first <= dumped + 3
        done = await world.services.streams.exec_sync(again, ("cat", "/tmp/file"), 10)
        numbers = [int(line) for line in done.stdout.split()]
        assert list(range(1, len(numbers) + 1)) == numbers
        assert len(numbers) > dumped
        await world.services.containers.stop(again, 30)
        assert 9 == (await world.services.containers.status(again, verbose=False)).status.exit_code


async def test_a_pod_of_two_containers(tmp_path: Path) -> None:
    """CheckpointPod dumps both, and both keep running; RestorePod creates CREATED containers, and their starts resume them."""
    async with node(tmp_path, runtime="runc") as world:
        pod, _, one = await counting(world, tmp_path, "one")
        await world.run_container(pod, "two", "sh", "-c", COUNTS, log_path="two.log")
        two = tmp_path / "logs" / "two.log"
        await until(lambda: last(two) > 3)
        out = tmp_path / "out"
        await world.services.pods.checkpoint(pod, str(out), (), EMPTY)
        seen = {log: last(log) for log in (one, two)}
        await until(lambda: all(last(log) > number + 3 for log, number in seen.items()))
        assert {"one.tar", "two.tar", "pod-checkpoint.json"} == {path.name for path in out.iterdir()}
        await world.services.sandboxes.remove(pod)
        configs = tuple(container_config(name, log_path=f"{name}.log") for name in ("one", "two"))
        config = sandbox_config("again", log_directory=str(tmp_path / "again"))
        wanted = RestorePod(checkpoint_path=str(out), config=config, container_configs=configs)
        restored = dict((await world.services.pods.restore(wanted)).containers)
        for container_id in restored.values():
            status = (await world.services.containers.status(container_id, verbose=False)).status
            assert ContainerState.CREATED is status.state
            await world.services.containers.start(container_id)
        logs = {log: tmp_path / "again" / log.name for log in (one, two)}
        await until(lambda: all(last(logs[log]) > number + 3 for log, number in seen.items()))
        for log, number in seen.items():
            assert 3 < int(logs[log].read_text().splitlines()[0].split()[-1]) <= number + 1


SERVES = "while :; do busybox nc -l -p 7000 -e busybox cat; done"
TALKS = """i=0; while :; do
    [ "$(echo $i | busybox nc 127.0.0.1 7000)" = "$i" ] && echo $i && i=$((i+1)); sleep 0.02
done"""


async def test_two_containers_that_talk(tmp_path: Path) -> None:
    """Containers that talk over their pod's loopback are dumped at one moment; in another pod they resume talking, from the
    number that they had.
    """
    async with node(tmp_path, runtime="runc") as world:
        pod = await world.run_sandbox(log_directory=str(tmp_path / "logs"))
        raise_loopback(str(tmp_path / "pins" / pod / "net"))
        await world.run_container(pod, "server", "sh", "-c", SERVES)
        await world.run_container(pod, "talker", "sh", "-c", TALKS, log_path="talker.log")
        log = tmp_path / "logs" / "talker.log"
        await until(lambda: last(log) > 3)
        out = tmp_path / "out"
        await world.services.pods.checkpoint(pod, str(out), (), EMPTY)
        dumped = last(log)
        await until(lambda: last(log) > dumped + 3)
        await world.services.sandboxes.remove(pod)
        configs = (container_config("server"), container_config("talker", log_path="talker.log"))
        config = sandbox_config("again", log_directory=str(tmp_path / "again"))
        wanted = RestorePod(checkpoint_path=str(out), config=config, container_configs=configs)
        answer = await world.services.pods.restore(wanted)
        raise_loopback(str(tmp_path / "pins" / answer.sandbox_id / "net"))
        restored = dict(answer.containers)
        for name in ("server", "talker"):
            await world.services.containers.start(restored[name])
        again = tmp_path / "again" / "talker.log"
        await until(lambda: last(again) > dumped + 3)
        assert 3 < int(again.read_text().splitlines()[0].split()[-1]) <= dumped + 1


@pytest.mark.parametrize("monitor", ["conmon", "keeper"])
async def test_a_terminal(tmp_path: Path, monitor: str) -> None:
    """A container with a terminal is dumped and restored; it has a terminal again, and its output goes on."""
    script = "i=0; while :; do [ -t 1 ] && i=$((i+1)) && echo $i; sleep 0.05; done"
    async with node(tmp_path, runtime="runc", monitor=monitor) as world:
        pod = await world.run_sandbox(log_directory=str(tmp_path / "logs"))
        first = await world.run_container(pod, "first", "sh", "-c", script, log_path="first.log", tty=True)
        log = tmp_path / "logs" / "first.log"
        await until(lambda: last(log) > 3)
        await world.services.containers.checkpoint(first, str(tmp_path / "archive.tar"), 0)
        dumped = last(log)
        await until(lambda: last(log) > dumped + 3)
        await world.services.containers.remove(first)  # which has the process ids of the pod
        again = await world.create_container(
            pod, "again", image=ImageSpec(image=str(tmp_path / "archive.tar")), log_path="again.log", tty=True
        )
        await world.services.containers.start(again)
        after = tmp_path / "logs" / "again.log"
        await until(lambda: last(after) > dumped + 3)


async def test_without_criu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CRIU is missing, checkpoints and restores are refused with how to get it; the container is never frozen."""
    async with node(tmp_path, runtime="runc") as world:
        pod, container_id, log = await counting(world, tmp_path)
        archive = tmp_path / "main.tar"
        await world.services.containers.checkpoint(container_id, str(archive), 0)
        with monkeypatch.context() as missing:
            missing.setenv("PATH", str(tmp_path / "empty"))
            with pytest.raises(Unimplemented, match="apt-get install criu"):
                await world.services.containers.checkpoint(container_id, str(tmp_path / "other.tar"), 0)
            with pytest.raises(Unimplemented, match="apt-get install criu"):
                await restored(world, pod, archive)
        seen = last(log)
        await until(lambda: last(log) > seen)
        assert not (tmp_path / "other.tar").exists()


async def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    """A missing, invalid, truncated or incomplete archive is refused by name, and nothing is created."""
    async with node(tmp_path, runtime="runc") as world:
        pod, container_id, _ = await counting(world, tmp_path)
        whole = tmp_path / "whole.tar"
        await world.services.containers.checkpoint(container_id, str(whole), 0)
        content = whole.read_bytes()
        broken = {"text": b"no archive", "empty": b"", "begun": content[:100]}
        broken |= {f"cut{part}": content[: len(content) * part // 10] for part in range(1, 10)}
        broken["without-its-end"] = content.rstrip(b"\0")
        for name, data in broken.items():
            (tmp_path / name).write_bytes(data)
        with tarfile.open(tmp_path / "other", "w") as tar:
            tar.add(whole, "config.dump")
        for name in (*broken, "other"):
            with pytest.raises(DataLoss, match=f"{tmp_path}/{name}"):
                await restored(world, pod, tmp_path / name)
        with pytest.raises(NotFound, match="none"):
            await restored(world, pod, tmp_path / "none")
        assert [container_id] == [container.id for container in (await world.backend.inventory()).containers]


async def test_a_restored_one_in_a_namespace_of_its_own_is_checkpointed_again(tmp_path: Path) -> None:
    """What was restored can be dumped and restored once more, also after a restart of ours between creation and start."""
    security = LinuxContainerSecurityContext(namespace_options=NamespaceOption(pid=NamespaceMode.CONTAINER))
    linux = LinuxContainerConfig(security_context=security)
    async with node(tmp_path, runtime="runc") as world:
        pod = await world.run_sandbox(log_directory=str(tmp_path / "logs"))
        container_id = await world.run_container(pod, "c0", "sh", "-c", COUNTS, log_path="c0.log", linux=linux)
        for number in range(1, 3):
            log = tmp_path / "logs" / f"c{number - 1}.log"
            await until(lambda log=log: last(log) > 3)  # type: ignore[misc]
            archive = tmp_path / f"{number}.tar"
            await world.services.containers.checkpoint(container_id, str(archive), 0)
            dumped = last(log)
            await world.services.containers.remove(container_id)
            config = container_config(f"c{number}", image=ImageSpec(image=str(archive)), log_path=f"c{number}.log", linux=linux)
            container_id = await world.services.containers.create(pod, config, None)
            observed = (await world.backend.inventory()).containers
            assert [(container_id, ContainerState.CREATED)] == [(one.id, one.state) for one in observed]
            await world.services.containers.start(container_id)
            log = tmp_path / "logs" / f"c{number}.log"
            await until(lambda log=log, dumped=dumped: last(log) > dumped + 3)  # type: ignore[misc]
        await world.services.containers.stop(container_id, 30)
        assert 9 == (await world.services.containers.status(container_id, verbose=False)).status.exit_code


async def test_one_that_was_never_started_leaves_nothing(tmp_path: Path) -> None:
    """A restored container that is removed before its start leaves no folder."""
    async with node(tmp_path, runtime="runc") as world:
        pod, container_id, _ = await counting(world, tmp_path)
        archive = tmp_path / "main.tar"
        await world.services.containers.checkpoint(container_id, str(archive), 0)
        again = await restored(world, pod, archive)
        await world.services.containers.remove(again)
        assert [container_id] == [path.name for path in (tmp_path / "run" / "containers").iterdir()]
        assert [container_id] == [path.name for path in (tmp_path / "roots").iterdir()]
