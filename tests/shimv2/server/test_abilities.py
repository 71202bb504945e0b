"""What a pod of containerd asks for and its runtime lacks is refused by name, before anything of it runs."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.errors import InvalidArgument, Unimplemented
from crishim.interfaces.oci_runtime import OciRuntime
from crishim.model.features import Feature
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, SandboxSpec
from crishim.model.values import FrozenDict, SandboxId
from crishim.shimv2.server.abilities import Abilities
from crishim.shimv2.server.task import IoPaths
from tests.shimv2.memory import MemoryRuntime
from tests.shimv2.server.test_tasks import KEY, over

NAME = PodSandboxMetadata(name="pod", namespace="ns", uid="uid")
POD = {"io.kubernetes.cri.container-type": "container"}
HARDENED: dict[str, Any] = {"process": {"noNewPrivileges": True}}


def written(bundle: Path, **config: Any) -> Path:
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


async def check(abilities: Abilities, runtime: OciRuntime, bundle: Path) -> None:
    await abilities.check_task("runtime", runtime, bundle, terminal=False)


async def test_a_container_of_a_pod_is_refused(tmp_path: Path) -> None:
    """The task is refused by the field of CRI, and neither created nor left; a runtime that supports it is called."""
    runtime = MemoryRuntime()
    world = over(tmp_path, runtime)
    written(world.bundle, annotations=POD, **HARDENED)
    runtime.supported = frozenset(runtime.supported - {Feature.NO_NEW_PRIVS})
    with pytest.raises(InvalidArgument, match=r"config.linux.security_context.no_new_privs: is set"):
        await world.tasks.create(KEY, world.creation())
    assert ({}, 0) == (runtime.containers, len(world.tasks))
    runtime.supported |= {Feature.NO_NEW_PRIVS}
    await world.tasks.create(KEY, world.creation())
    assert [KEY[1]] == list(runtime.containers)


async def test_others_are_left_to_the_runtime(tmp_path: Path) -> None:
    """A sandbox, a client that is not CRI's, and a config.json that cannot be read are not judged."""
    runtime = MemoryRuntime()
    runtime.supported = frozenset()
    abilities = Abilities()
    await check(abilities, runtime, written(tmp_path / "sandbox", annotations={next(iter(POD)): "sandbox"}, **HARDENED))
    await check(abilities, runtime, written(tmp_path / "ctr", **HARDENED))
    await check(abilities, runtime, written(tmp_path / "odd", annotations=POD, process=["odd"]))
    await check(abilities, runtime, tmp_path / "nothing")
    assert 0 == runtime.probes


async def test_a_runtime_is_asked_again_before_a_refusal(tmp_path: Path) -> None:
    """What a runtime supports is asked once, and again where it lacked something: it may have been upgraded."""
    runtime, abilities = MemoryRuntime(), Abilities()
    hardened = written(tmp_path / "one", annotations=POD, **HARDENED)
    for _ in range(3):
        await check(abilities, runtime, hardened)
    assert 1 == runtime.probes
    mapped = written(tmp_path / "two", annotations=POD, linux={"namespaces": [{"type": "user"}]})
    with pytest.raises(InvalidArgument, match="userns_options"):
        await check(abilities, runtime, mapped)
    runtime.supported |= {Feature.USER_NAMESPACE}
    await check(abilities, runtime, mapped)
    assert 3 == runtime.probes


async def test_a_terminal_without_attach(tmp_path: Path) -> None:
    """A task with a terminal, which the runtime cannot serve, is refused as unimplemented."""
    world = over(tmp_path, MemoryRuntime())
    with pytest.raises(Unimplemented, match="does not support terminals"):
        await world.tasks.create(KEY, world.creation(io=IoPaths(terminal=True)))
    assert 0 == len(world.tasks)


async def test_a_pod_is_refused() -> None:
    """A sandbox that containerd leaves to the shim is refused by its field; its host ports are containerd's own."""
    runtime, abilities = MemoryRuntime(), Abilities()
    runtime.supported = frozenset()
    plain = SandboxSpec(id=SandboxId("5" * 64), config=PodSandboxConfig(metadata=NAME), netns="/net")
    await abilities.check_sandbox("runtime", runtime, plain)
    linux = LinuxPodSandboxConfig(sysctls=FrozenDict({"net.ipv4.ip_forward": "1"}))
    with pytest.raises(InvalidArgument, match=r"config.linux.sysctls"):
        await abilities.check_sandbox(
            "runtime", runtime, attrs.evolve(plain, config=PodSandboxConfig(metadata=NAME, linux=linux))
        )
