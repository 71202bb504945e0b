"""The exam, taken by runc, crun and gVisor, on real containers."""

from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest

from crishim.backends.runc.pods import build
from crishim.interfaces.backend import Backend, BackendContext
from crishim.model.runtime import CgroupDriver
from crishim.testing.conformance import BackendConformance, Candidate, Fact, Programs
from tests.backends.runc.world import needs, needs_systemd, without_hybrid


class OnThisNode(BackendConformance):
    """A runtime of this machine, with a busybox for every container and pinned namespaces."""

    driver = CgroupDriver.CGROUPFS
    needs_node = True

    def candidate(self, folder: Path) -> Candidate:
        candidate = super().candidate(folder)
        context = attrs.evolve(candidate.context, cgroup_driver=self.driver)
        return attrs.evolve(candidate, context=context)

    async def make_backend(self, context: BackendContext) -> Backend:
        return build(context)


@pytest.mark.node
@needs("runc", "conmon", "busybox", "unshare")
class TestRunc(OnThisNode):
    """runc keeps the contract."""

    options: ClassVar[dict[str, Any]] = {"runtime": "runc"}


@pytest.mark.node
@needs("crun", "conmon", "busybox", "unshare")
class TestCrun(OnThisNode):
    """crun keeps the contract."""

    options: ClassVar[dict[str, Any]] = {"runtime": "crun"}

    @pytest.fixture(autouse=True)
    def no_hybrid(self) -> None:
        """The machine is as crun wants it."""
        without_hybrid()


@pytest.mark.node
@needs("runc", "busybox", "unshare")
class TestRuncByKeeper(OnThisNode):
    """runc keeps the contract with the node's keeper as its monitor."""

    options: ClassVar[dict[str, Any]] = {"runtime": "runc", "monitor": "keeper"}


@pytest.mark.node
@needs("crun", "busybox", "unshare")
class TestCrunByKeeper(TestCrun):
    """As does crun."""

    options: ClassVar[dict[str, Any]] = {"runtime": "crun", "monitor": "keeper"}


@needs_systemd()
class TestRuncByKeeperUnderSystemd(TestRuncByKeeper):
    """The same where systemd makes the cgroups."""

    driver = CgroupDriver.SYSTEMD


@needs_systemd()
class TestRuncUnderSystemd(TestRunc):
    """The same where systemd makes the cgroups."""

    driver = CgroupDriver.SYSTEMD


@needs_systemd()
class TestCrunUnderSystemd(TestCrun):
    """The same where systemd makes the cgroups."""

    driver = CgroupDriver.SYSTEMD


class InGvisor(Programs):
    """Commands that see gVisor's own kernel, which shows nothing of the node's namespaces and cgroups."""

    def shows(self, fact: Fact) -> tuple[str, ...] | None:
        hidden = {Fact.NETWORK, Fact.IPC, Fact.PROCESSES, Fact.NO_NEW_PRIVS, Fact.MEMORY_LIMIT}
        hidden |= {Fact.CPU_QUOTA, Fact.CPUS, Fact.HUGEPAGE_LIMIT, Fact.OOM_SCORE}
        return None if fact in hidden else super().shows(fact)

    def opens(self, path: str) -> tuple[str, ...] | None:
        return None  # only the devices that gVisor's kernel has, such as GPUs with its option --nvproxy

    def exhausts(self) -> tuple[str, ...] | None:
        return None  # a pod's containers are one process of the node, whose memory the kubelet's cgroup of the pod limits


@pytest.mark.node
@needs("runsc", "conmon", "busybox", "unshare", "catatonit")
class TestRunsc(OnThisNode):
    """GVisor keeps the contract. Without network: Debian's version takes every namespace of newer kernels for the host's."""

    programs: ClassVar[Programs] = InGvisor()
    options: ClassVar[dict[str, Any]] = {"runtime": "runsc", "runtime_args": ("--platform=ptrace", "--network=none")}
