"""AppArmor profiles: what the kernel has, the default that is loaded where it is missing, and containers that run in it."""

import asyncio
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from crishim.errors import InvalidArgument
from crishim.interfaces.capabilities import ProcessIO
from crishim.model.container import LinuxContainerConfig
from crishim.model.process import ExecSpec
from crishim.model.sandbox import LinuxPodSandboxConfig
from crishim.model.security import (
    Capability,
    LinuxContainerSecurityContext,
    LinuxSandboxSecurityContext,
    ProfileType,
    SecurityProfile,
)
from crishim.model.values import ContainerId
from crishim.oci.security import APPARMOR_DEFAULT
from crishim.pods.apparmor import LOADED, AppArmorProfiles
from crishim.pods.backend import OciPodBackend
from crishim.testing import Harness
from crishim.testing.conformance.offers import Sink
from tests.backends.runc.world import needs, node
from tests.oci.test_spec import secured, spec

T = TypeVar("T", bound=Callable[..., Any])
DEFAULT = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
MINE = SecurityProfile(ProfileType.LOCALHOST, "mine too")


def parser(folder: Path, script: str = "") -> str:
    """A parser that adds the profile that it reads to the list of those loaded."""
    program = folder / "parser"
    words = f"sed -n 's/^profile \\([^ ]*\\) .*/\\1 (enforce)/p' >> {folder}/loaded"
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{script or words}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


async def test_the_default_is_loaded_once(tmp_path: Path) -> None:
    """The default is loaded by the first container that needs it, and not at all if it is loaded already."""
    (tmp_path / "loaded").write_text("mine too (complain)\n/usr/bin/man (enforce)\n")
    profiles = AppArmorProfiles(used=True, loaded=tmp_path / "loaded", parser=parser(tmp_path))
    assert [APPARMOR_DEFAULT] * 4 == await asyncio.gather(*(profiles.choose(spec()) for _ in range(4)))
    assert "-Kr\n" == (tmp_path / "calls").read_text()
    assert "mine too" == await profiles.choose(secured(apparmor=MINE))


@pytest.mark.parametrize(
    ("script", "reason"),
    [("echo broken >&2; exit 3", "ended with 3: broken"), (None, "No such file")],
)
async def test_a_default_that_cannot_be_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, script: str | None, reason: str
) -> None:
    """Who asks for the default is refused with the reason; who asks for nothing gets none; others' profiles are there."""
    (tmp_path / "loaded").write_text("mine too (enforce)\n")
    program = parser(tmp_path, script) if script else str(tmp_path / "none")
    profiles = AppArmorProfiles(used=True, loaded=tmp_path / "loaded", parser=program)
    with pytest.raises(InvalidArgument, match=f"apparmor.*RuntimeDefault.*{reason}"):
        await profiles.choose(secured(apparmor=DEFAULT))
    assert ("", "mine too") == (await profiles.choose(spec()), await profiles.choose(secured(apparmor=MINE)))
    assert [True] == [reason in record.getMessage() for record in caplog.records if record.name == "crishim.pods.apparmor"]


def test_details_before_the_first_container(tmp_path: Path) -> None:
    """The details have the profile of a container that names none, or the reason why none; nothing is loaded for that."""
    (tmp_path / "loaded").write_text("mine (enforce)\n")
    program = parser(tmp_path)
    assert APPARMOR_DEFAULT == AppArmorProfiles(used=True, loaded=tmp_path / "loaded", parser=program).outlook()
    assert "this machine has no AppArmor" == AppArmorProfiles(used=False).outlook()
    assert "No such file" in AppArmorProfiles(used=True, loaded=tmp_path / "none", parser=program).outlook()
    assert "no /none (apparmor)" in AppArmorProfiles(used=True, loaded=tmp_path / "loaded", parser="/none").outlook()
    assert not (tmp_path / "calls").exists()


async def started(world: Harness, security: LinuxContainerSecurityContext | None = None) -> ContainerId:
    """A container with this security in a sandbox that allows it, after its start."""
    rights = LinuxSandboxSecurityContext(privileged=security is not None and security.privileged)
    sandbox = await world.run_sandbox(linux=LinuxPodSandboxConfig(security_context=rights))
    linux = LinuxContainerConfig(security_context=security)
    return await world.run_container(sandbox, "main", "sleep", "600", linux=linux)


async def said(world: Harness, container: ContainerId, *argv: str) -> str:
    """What an exec writes."""
    assert isinstance(world.backend, OciPodBackend)
    out = Sink()
    await world.backend.exec(container, ExecSpec(argv=argv), ProcessIO(stdout=out, stderr=out))
    return out.data.decode().strip()


in_the_kernel = [
    pytest.mark.node,
    needs("runc", "conmon", "busybox", "apparmor_parser"),
    pytest.mark.skipif(not LOADED.exists(), reason=f"needs {LOADED}: boot a kernel with apparmor=1 security=apparmor"),
]


@pytest.fixture(params=["runc", "crun"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    async with node(tmp_path, runtime=request.param) as world:
        yield world


def marked(test: T) -> T:
    """A test in a kernel that has AppArmor."""
    for mark in in_the_kernel:
        test = mark(test)
    return test


@marked
@pytest.mark.parametrize(
    "security",
    [
        None,
        LinuxContainerSecurityContext(apparmor=DEFAULT),
        LinuxContainerSecurityContext(apparmor=DEFAULT, no_new_privs=True),
    ],
)
async def test_first_processes_and_execs_run_in_the_default(
    world: Harness, security: LinuxContainerSecurityContext | None
) -> None:
    """Whoever names no profile runs in the default, and so does what is executed in the container.

    An exec of crun's with no_new_privs is in its own, unconfined, profile too: `default//&crun`. Both must allow what it does.
    """
    container = await started(world, security)
    labels = [await said(world, container, "cat", f"/proc/{pid}/attr/current") for pid in ("1", "self")]
    assert [APPARMOR_DEFAULT] * 2 == [label.replace("//&", " ").split()[0] for label in labels]


@marked
@pytest.mark.parametrize(
    "security",
    [
        LinuxContainerSecurityContext(apparmor=SecurityProfile(ProfileType.UNCONFINED)),
        LinuxContainerSecurityContext(privileged=True),
    ],
)
async def test_the_unconfined_run_in_no_profile(world: Harness, security: LinuxContainerSecurityContext) -> None:
    """Who asks for none, and the privileged, are in no profile that is enforced."""
    assert "(enforce)" not in await said(world, await started(world, security), "cat", "/proc/self/attr/current")


@marked
async def test_what_the_default_denies(world: Harness) -> None:
    """With every capability and nothing masked a container in the default mounts nothing, and sets nothing of the kernel's."""
    everything = LinuxContainerSecurityContext(capabilities=Capability(add_capabilities=("ALL",)))
    container = await started(world, everything)
    for script in (
        "mount -t tmpfs none /tmp",
        "echo 1 > /proc/sys/kernel/panic",
        "echo 1 > /proc/sys/vm/swappiness",
        "echo 1 > /proc/sysrq-trigger",
        "head -c 1 /proc/kcore",
    ):
        assert "denied" in await said(world, container, "sh", "-c", script), script
    for script in ("echo 1000 > /proc/self/oom_score_adj", "touch /tmp/x", "kill -0 1", "echo 65536 > /proc/sys/kernel/shmmax"):
        assert "" == await said(world, container, "sh", "-c", script), script


@marked
async def test_profiles_that_are_not_loaded_are_refused_before_anything_is_created(world: Harness, tmp_path: Path) -> None:
    """The refusal names the profile, and no bundle is there."""
    with pytest.raises(InvalidArgument, match="'mine too'"):
        await started(world, LinuxContainerSecurityContext(apparmor=MINE))
    assert not (tmp_path / "run" / "containers").exists()
    assert not (tmp_path / "roots").exists()
