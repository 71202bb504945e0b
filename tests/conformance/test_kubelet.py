"""The requests of the exam's kubelet."""

import asyncio
from pathlib import Path

import attrs
import pytest

from crishim.interfaces.backend import Backend, BackendContext, BackendInfo
from crishim.model.features import Feature
from crishim.oci.facts import Host
from crishim.system import SystemClock
from crishim.testing import FakeBackend
from crishim.testing.conformance.candidate import Candidate
from crishim.testing.conformance.kubelet import Kubelet
from crishim.testing.fakes import FakeNamespaces


class WithoutUnified(FakeBackend):
    """A fake that does not support `unified`."""

    async def probe(self) -> BackendInfo:
        info = await super().probe()
        return attrs.evolve(info, supported=info.supported - {Feature.UNIFIED})


@pytest.mark.parametrize(("cgroup_v2", "unified"), [(True, {"memory.oom.group": "1"}), (False, {})])
def test_the_plainest_container(tmp_path: Path, cgroup_v2: bool, unified: dict[str, str]) -> None:
    """On cgroup v2 every container asks for the end of all its processes when memory runs out, which no backend refuses."""
    seen = []

    async def make(_: BackendContext) -> Backend:
        return WithoutUnified()

    async def run() -> None:
        context = BackendContext(state=tmp_path, runtime_state=tmp_path, clock=SystemClock(), namespaces=FakeNamespaces())
        candidate = Candidate(make=make, context=context, scratch=tmp_path, node=Host(cgroup_v2=cgroup_v2))
        async with candidate.world([]) as world, Kubelet.over(world) as kubelet:
            config = kubelet.container(("sleep",))
            assert config.linux is not None
            seen.append(config.linux.resources.unified)
            await kubelet.create(await kubelet.pod(), config)

    asyncio.run(run())
    assert [unified] == seen
