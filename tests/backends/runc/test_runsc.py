"""Pods in gVisor, whose containers share one sandbox."""

import asyncio
import functools
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crishim.backends.runc.runsc import descendants
from crishim.errors import CrishimError
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux.processes import recorded
from crishim.model.container import ContainerState, LinuxContainerConfig
from crishim.model.features import Feature
from crishim.model.security import LinuxContainerSecurityContext, ProfileType, SecurityProfile
from crishim.model.values import ContainerId
from crishim.testing import Harness
from crishim.testing.conformance.candidate import until
from crishim.testing.conformance.offers import Sink, Source
from tests.backends.runc.world import needs, node

TABLE = """UID       PID       PPID      C         TTY       STIME     TIME      CMD
0         2         0         92        ?         06:50     0s        sh
0         5         4         5         ?         06:50     20ms      sleep
0         4         2         5         ?         06:50     0s        sh
0         9         0         5         ?         06:50     0s        sh
"""


def test_descendants() -> None:
    """A process's descendants are found in whatever order the table has them."""
    assert [2, 4, 5] == descendants(TABLE, 2)
    assert [9] == descendants(TABLE, 9)


pytestmark = pytest.mark.node
gvisor = needs("runsc", "conmon", "busybox", "unshare", "catatonit")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Harness]:
    async with node(tmp_path, runtime="runsc", runtime_args=["--platform=ptrace", "--network=none"]) as world:
        yield world


async def ended(world: Harness, container: ContainerId) -> int:
    """The exit code of a container, once it has one."""
    backend = world.services._core.backends.get("").backend
    return (await backend.wait_container(container)).code


def complete(log: Path) -> bool:
    """Whether both lines have come."""
    return 2 == len(log.read_text().splitlines())


@gvisor
async def test_two_containers_share_one_sandbox(world: Harness, tmp_path: Path) -> None:
    """Each of a pod's two containers has its own log and its own exit code, and one sandbox runs them."""
    sandbox = await world.run_sandbox(log_directory=str(tmp_path / "logs"))
    running = {}
    for name, code in (("one", 3), ("two", 4)):
        argv = ("sh", "-c", f"trap 'exit {code}' TERM; echo I am {name}; echo and {name} errs >&2; while :; do sleep 0.1; done")
        running[name, code] = await world.run_container(sandbox, name, *argv, log_path=f"{name}.log")
    for (name, code), container in running.items():
        log = tmp_path / "logs" / f"{name}.log"
        await until(functools.partial(complete, log))
        lines = log.read_text().splitlines()
        assert {f"stdout F I am {name}", f"stderr F and {name} errs"} == {line.split(" ", 1)[1] for line in lines}
        await world.services.containers.stop(container, 30)
        assert code == await ended(world, container)
    assert 1 == len(
        {json.loads(state.read_text())["sandbox"]["pid"] for state in (tmp_path / "run" / "runtime").glob("*.state")}
    )


@gvisor
async def test_a_members_terminal(world: Harness) -> None:
    """A member with a terminal has one, and its output reaches attached clients."""
    argv = ("sh", "-c", "read x; test -t 0 && echo a terminal; sleep 60")
    container = await world.run_container(await world.run_sandbox(), "main", *argv, tty=True, stdin=True)
    source, out = Source(), Sink()
    attached = asyncio.ensure_future(world.services.streams.run_attach(container, ProcessIO(stdin=source, stdout=out)))
    source.feed(b"go\n")
    await out.has(b"a terminal")
    await world.services.containers.stop(container, 0)
    await attached


@gvisor
async def test_exec_inside_is_killed_with_its_family(world: Harness) -> None:
    """An exec that ran out of time leaves no process in the sandbox, not even those that it has started."""
    container = await world.run_container(await world.run_sandbox(), "main", "sleep", "600")
    processes = world.services.streams
    with pytest.raises(CrishimError):
        await processes.exec_sync(container, ("sh", "-c", "sleep 601 & sleep 602"), 1)
    left = await processes.exec_sync(container, ("busybox", "ps"), 10)
    assert b"sleep 60" in left.stdout
    assert b"60[12]" not in left.stdout


@gvisor
async def test_the_sandboxs_death(world: Harness, tmp_path: Path) -> None:
    """When the sandbox is killed its containers have ended, and all of the pod can be removed."""
    sandbox = await world.run_sandbox()
    container = await world.run_container(sandbox, "main", "sleep", "600")
    first = recorded(tmp_path / "run" / "sandboxes" / sandbox / "pause" / FIRST_PROCESS)
    assert first is not None
    os.kill(first.pid, signal.SIGKILL)
    assert 0 != await ended(world, container)
    await until(lambda: ContainerState.EXITED is world.services._core.table.container(container).state)
    await world.services.sandboxes.stop(sandbox)
    await world.services.sandboxes.remove(sandbox)
    assert not list((tmp_path / "run" / "runtime").glob("*.state"))


@gvisor
async def test_filters_are_loaded_into_gvisor(tmp_path: Path) -> None:
    """A seccomp profile of a container in gVisor is enforced; the node's AppArmor and SELinux are refused."""
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
    profile = tmp_path / "profile.json"
    profile.write_text(
        json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]})
    )
    security = LinuxContainerSecurityContext(seccomp=SecurityProfile(ProfileType.LOCALHOST, str(profile)))
    async with node(tmp_path, runtime="runsc", runtime_args=["--platform=ptrace", "--network=none"]) as world:
        sandbox = await world.run_sandbox()
        linux = LinuxContainerConfig(security_context=security)
        denied = await world.run_container(sandbox, "denied", "busybox", "mkdir", "/tmp/a", linux=linux)
        allowed = await world.run_container(sandbox, "allowed", "busybox", "mkdir", "/tmp/b")
        assert (1, 0) == (await ended(world, denied), await ended(world, allowed))
        supported = (await world.backend.probe()).supported
    assert frozenset() == supported & {Feature.APPARMOR, Feature.SELINUX}
