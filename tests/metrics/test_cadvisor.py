"""Usage of containers by cAdvisor's names."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from crishim.metrics.cadvisor import ContainerFamilies
from crishim.metrics.endpoint import scraped
from crishim.metrics.prometheus import Metrics
from crishim.model.stats import ContainerUsage, CpuUsage, MemoryUsage, NetworkInterfaceUsage, NetworkUsage, SandboxUsage
from crishim.model.values import ContainerId, SandboxId
from crishim.service.stats import DESCRIPTORS
from crishim.testing import Harness
from crishim.testing.fakes import FakeBackend
from tests.metrics.test_endpoint import ask


class Measured(FakeBackend):
    """Every container has used ten seconds and a mebibyte, every pod has received a hundred bytes."""

    async def container_usage(self, container_id: ContainerId) -> ContainerUsage:
        return ContainerUsage(
            cpu=CpuUsage(timestamp=1, usage_core_nano_seconds=10_000_000_000),
            memory=MemoryUsage(timestamp=1, working_set_bytes=1 << 20),
        )

    async def sandbox_usage(self, sandbox_id: SandboxId) -> SandboxUsage:
        interface = NetworkInterfaceUsage(name="eth0", rx_bytes=100)
        return SandboxUsage(network=NetworkUsage(timestamp=1, default_interface=interface, interfaces=(interface,)))


def samples(families: ContainerFamilies) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in text_string_to_metric_families(generate_latest(families).decode()):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


async def test_names_and_labels_are_those_of_cadvisor() -> None:
    """A container's metrics have namespace, pod and container, a pod's own have no container, and both formats hold them."""
    async with Harness(Measured(logs_to_disk=False)) as world:
        container_id = await world.run_container(await world.run_sandbox("web"), "main")
        families = ContainerFamilies(tuple(DESCRIPTORS.values()), await world.services.stats.metrics())
    found = {name: (labels, value) for name, labels, value in samples(families)}
    labels, value = found["container_cpu_usage_seconds_total"]
    expected = {"namespace": "default", "pod": "web", "container": "main", "name": container_id}
    assert (expected, 10) == ({key: labels[key] for key in expected}, value)
    assert 1 << 20 == found["container_memory_working_set_bytes"][1]
    labels, value = found["container_network_receive_bytes_total"]
    assert (("web", "", "", "eth0"), 100) == (tuple(labels[key] for key in ("pod", "container", "name", "interface")), value)
    assert openmetrics(families).endswith(b"# EOF\n")  # type: ignore[no-untyped-call]


async def test_they_have_a_path_of_their_own() -> None:
    """`/metrics/cadvisor` is computed at each scrape; if no backend measures anything it is 503 with the reason."""
    async with Harness(Measured(logs_to_disk=False)) as world:
        await world.run_container(await world.run_sandbox("web"), "main")
        stats = world.services.stats

        async def containers() -> ContainerFamilies:
            return ContainerFamilies(await stats.metric_descriptors(), await stats.metrics())

        async with scraped(Metrics("1"), ":0", containers) as url:
            good, plain = await asyncio.to_thread(ask, url, ("GET", "/metrics/cadvisor", {}), ("GET", "/metrics", {}))
            world.fake.capabilities = frozenset()
            for handle in world.services._core.backends.handles:
                handle.capabilities = frozenset()
            (bad,) = await asyncio.to_thread(ask, url, ("GET", "/metrics/cadvisor", {}))
    assert (200, True) == (good[0], b'pod="web"' in good[2])
    assert (200, False) == (plain[0], b'pod="web"' in plain[2])
    assert (503, True) == (bad[0], b"SupportsStats" in bad[2])


def test_the_dashboard_names_metrics_that_there_are() -> None:
    """Each query of the example's dashboard reads a metric of ours, or one that containers have."""
    dashboard = json.loads((Path(__file__).parents[2] / "examples" / "grafana-dashboard.json").read_text())
    queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    ours = {sample.name for family in Metrics("1").collect() for sample in family.samples}
    families = {family.name for family in Metrics("1").collect()}
    named = set(re.findall(r"\b(?:crishim|container)_[a-z_]+\b", queries))
    known = (
        ours | families | DESCRIPTORS.keys() | {f"{name}_total" for name in families} | {f"{name}_bucket" for name in families}
    )
    assert set() == named - known
