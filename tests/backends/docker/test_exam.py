"""The exam, taken on a real engine."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.backends.docker import DockerBackend, build
from crishim.backends.docker.engine import Engine
from crishim.interfaces.backend import Backend, BackendContext
from crishim.model.image import ImageSpec
from crishim.model.values import FrozenDict, ImageId
from crishim.testing.conformance import BackendConformance, Candidate
from crishim.testing.conformance.examination import Examination
from crishim.testing.conformance.examine import Grade, Result
from crishim.testing.conformance.pods import check_host_port_leads_to_the_pod
from tests.backends.docker.world import IMAGE, Dockerd, needs


class OnAnEngine(Examination):
    """The docker backend over an engine of the session; `network` is its option."""

    engine: Dockerd
    network = "cni"

    def candidate(self, folder: Path) -> Candidate:
        candidate = super().candidate(folder)
        options = FrozenDict({"socket": self.engine.socket, "network": self.network})
        context = attrs.evolve(candidate.context, options=options)
        return attrs.evolve(candidate, context=context, image=ImageSpec(image=IMAGE), image_id=ImageId(IMAGE))

    async def make_backend(self, context: BackendContext) -> Backend:
        return build(context)

    async def close_backend(self, backend: Backend) -> None:
        assert isinstance(backend, DockerBackend)
        await backend.disconnect()


@pytest.mark.node
@needs("dockerd", "busybox", "catatonit")
class TestDocker(OnAnEngine, BackendConformance):
    """The docker backend keeps the contract."""

    @pytest.fixture(autouse=True)
    def on(self, engine: Dockerd) -> None:
        """Use the engine of the session."""
        self.engine = engine


@pytest.fixture
def bridge(engine: Dockerd) -> Iterator[str]:
    """The name of a network of the engine."""

    async def ask(method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        client = Engine(engine.socket)
        try:
            return await (client.post(path, body=body) if method == "POST" else client.delete(path))
        finally:
            client.close()

    body = {"Name": "crishim-ports", "Driver": "bridge", "IPAM": {"Config": [{"Subnet": "10.86.10.0/24"}]}}
    network = asyncio.run(ask("POST", "/networks/create", body))
    try:
        yield "crishim-ports"
    finally:
        asyncio.run(ask("DELETE", f"/networks/{network['Id']}"))


@pytest.mark.node
@needs("dockerd", "busybox", "catatonit")
def test_host_ports_of_a_network_of_the_engine(engine: Dockerd, bridge: str) -> None:
    """Where the engine connects pods it opens their host ports; with CNI they are the work of its plugins."""
    exam = OnAnEngine()
    exam.engine = engine
    assert Result(Grade.NOT_CLAIMED, "a network of its own") == exam.grade(check_host_port_leads_to_the_pod)
    exam.network = bridge
    assert Result(Grade.PASSED) == exam.grade(check_host_port_leads_to_the_pod)
