"""The capabilities that pods have from their runtime: claimed where it has them, and one by one."""

from pathlib import Path
from typing import Any

import pytest

from crishim.errors import NotFound, Unimplemented
from crishim.interfaces.backend import BackendContext, BackendInfo
from crishim.interfaces.capabilities import (
    ProcessIO,
    SupportsAttach,
    SupportsExec,
    SupportsLogReopen,
    SupportsPause,
    SupportsSandboxUpdate,
    SupportsSandboxWait,
    SupportsStats,
    SupportsUpdate,
    capabilities,
)
from crishim.interfaces.oci_runtime import OciRuntime, OciState, OciStatus, Stdio, SupportsExecProcess
from crishim.model.process import ExecSpec, Exit
from crishim.model.resources import Resources
from crishim.model.values import ContainerId
from crishim.oci.facts import Host
from crishim.pods.backend import OciPodBackend
from crishim.pods.bundle import write_bundle
from crishim.pods.usage import MeasuredPods
from crishim.system import SystemClock
from tests.shimv2.memory import PID, MemoryRuntime

ID = ContainerId("c1")


class PlainRuntime(OciRuntime):
    """The seven verbs, and no more."""

    async def probe(self) -> BackendInfo:
        return BackendInfo(name="plain", version="0")

    async def create(self, container_id: str, bundle: Path, stdio: Stdio) -> int:
        return PID

    async def start(self, container_id: str) -> None:
        """Nothing runs."""

    async def state(self, container_id: str) -> OciState:
        return OciState(id=container_id, status=OciStatus.RUNNING, pid=PID)

    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        """Nothing runs."""

    async def delete(self, container_id: str) -> None:
        raise NotFound("container", container_id)

    async def wait(self, container_id: str) -> Exit:
        return Exit(code=0)


def pods(folder: Path, runtime: OciRuntime) -> OciPodBackend:
    """Pods over a runtime, with the bundle of one container."""
    bundle = folder / "containers" / ID
    bundle.mkdir(parents=True)
    write_bundle(bundle, {"process": {"args": ["main"], "env": ["A=1"], "cwd": "/", "user": {"uid": 7, "gid": 8}}}, "")
    return OciPodBackend(runtime, BackendContext(state=folder, runtime_state=folder, clock=SystemClock()), Host())


@pytest.fixture
async def runtime(tmp_path: Path) -> MemoryRuntime:
    """One container runs."""
    runtime = MemoryRuntime()
    await runtime.create(ID, tmp_path / "containers" / ID, Stdio())
    return runtime


OWN = {SupportsSandboxWait, SupportsSandboxUpdate}


async def test_claims_follow_the_runtime(tmp_path: Path, runtime: MemoryRuntime) -> None:
    """Pods claim what their runtime has: of execs, limits and pauses; a runtime of seven verbs adds nothing."""
    assert OWN | {SupportsExec, SupportsUpdate, SupportsPause} == capabilities(pods(tmp_path, runtime))
    assert OWN == capabilities(pods(tmp_path / "plain", PlainRuntime()))


async def test_a_set_that_a_runtime_states_counts(tmp_path: Path) -> None:
    """A runtime that states what it has is believed, whatever verbs there are."""

    class Careful(MemoryRuntime):
        capabilities = frozenset({SupportsExecProcess})

    assert OWN | {SupportsExec} == capabilities(pods(tmp_path, Careful()))


async def test_measured_pods_claim_their_stats(tmp_path: Path) -> None:
    """Usage is the pods' own, whatever the runtime has."""
    context = BackendContext(state=tmp_path, runtime_state=tmp_path, clock=SystemClock())
    assert OWN | {SupportsStats} == capabilities(MeasuredPods(PlainRuntime(), context, Host()))


async def test_an_exec_is_the_containers_process(tmp_path: Path, runtime: MemoryRuntime) -> None:
    """An exec has user, environment and folder of the bundle's process, and arguments and terminal of the request."""
    runtime.exec_end.set_result(Exit(code=3))
    spec = ExecSpec(argv=("id", "-u"), tty=True)
    assert 3 == (await pods(tmp_path, runtime).exec(ID, spec, ProcessIO())).code
    expected = {
        "args": ["id", "-u"],
        "env": ["A=1", "TERM=xterm"],
        "cwd": "/",
        "user": {"uid": 7, "gid": 8},
        "terminal": True,
    }
    assert [expected] == runtime.processes


async def test_limits_reach_the_runtime_as_the_specification_has_them(tmp_path: Path, runtime: MemoryRuntime) -> None:
    """update_container hands `linux.resources` to the runtime."""
    await pods(tmp_path, runtime).update_container(ID, Resources(cpu_shares=512))
    assert [512] == [resources["cpu"]["shares"] for resources in runtime.updates]


async def test_a_pause_is_the_runtimes(tmp_path: Path, runtime: MemoryRuntime) -> None:
    """pause_container and resume_container are the runtime's."""
    backend = pods(tmp_path, runtime)
    await backend.pause_container(ID)
    assert OciStatus.PAUSED is runtime.containers[ID].status
    await backend.resume_container(ID)
    assert OciStatus.RUNNING is runtime.containers[ID].status


async def test_an_exec_without_a_bundle(tmp_path: Path, runtime: MemoryRuntime) -> None:
    """An exec in a container that is not there raises `NotFound`."""
    with pytest.raises(NotFound):
        await pods(tmp_path, runtime).exec(ContainerId("nobody"), ExecSpec(argv=("true",)), ProcessIO())


@pytest.mark.parametrize(
    ("capability", "verb", "args"),
    [
        (SupportsExec, "exec", (ID, ExecSpec(argv=("true",)), ProcessIO())),
        (SupportsAttach, "attach", (ID, ProcessIO())),
        (SupportsUpdate, "update_container", (ID, Resources())),
        (SupportsLogReopen, "reopen_log", (ID,)),
        (SupportsPause, "pause_container", (ID,)),
        (SupportsPause, "resume_container", (ID,)),
    ],
)
async def test_what_is_not_claimed_is_unimplemented(tmp_path: Path, capability: type, verb: str, args: tuple[Any, ...]) -> None:
    """A verb that the runtime has nothing for names the capability."""
    with pytest.raises(Unimplemented) as refused:
        await getattr(pods(tmp_path, PlainRuntime()), verb)(*args)
    assert capability.__name__ == refused.value.capability


async def test_nothing_else_of_the_runtime_shows(tmp_path: Path, runtime: MemoryRuntime) -> None:
    """A name that pods do not have is an error, also where the runtime has it."""
    assert not hasattr(pods(tmp_path, runtime), "refusal")
