"""Usage of pods and containers as Prometheus metrics, with cAdvisor's names and labels.

Dashboards and alerts read these names from the kubelet's /metrics/cadvisor, where a kubelet shows no containers of runtimes
that cAdvisor does not know, unless its gate PodAndContainerStatsFromCRI is on. The values are those of ListPodSandboxMetrics.
"""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from crishim.model.stats import Metric, MetricDescriptor, MetricType, PodSandboxMetrics

_TOTAL = "_total"


class ContainerFamilies(Collector):
    """The metrics of `pods` as families, one for each of `descriptors` that has a value."""

    def __init__(self, descriptors: Sequence[MetricDescriptor], pods: Sequence[PodSandboxMetrics]) -> None:
        self._descriptors = {descriptor.name: descriptor for descriptor in descriptors}
        self._pods = pods

    def collect(self) -> Iterator[Family]:
        """Every family with its samples. `name` is the container's id, as in cAdvisor; metrics of the pod have an empty
        container.
        """
        families: dict[str, Family] = {}
        for metric in self._metrics():
            if (descriptor := self._descriptors.get(metric.name)) is None:
                continue
            if metric.name not in families:
                families[metric.name] = _family(descriptor)
            labels = dict(zip(descriptor.label_keys, metric.label_values, strict=True))
            families[metric.name].add_sample(metric.name, _named(labels), metric.value)
        yield from families.values()

    def _metrics(self) -> Iterator[Metric]:
        for pod in self._pods:
            yield from pod.metrics
            for container in pod.container_metrics:
                yield from container.metrics


def _family(descriptor: MetricDescriptor) -> Family:
    """The empty family of a descriptor. Counters have no `_total` in the family's name; cAdvisor has counters without that
    suffix.
    """
    if descriptor.metric_type is MetricType.GAUGE:
        return Family(descriptor.name, descriptor.help, "gauge")
    counts = descriptor.name.endswith(_TOTAL)
    return Family(descriptor.name.removesuffix(_TOTAL), descriptor.help, "counter" if counts else "unknown")


def _named(labels: Mapping[str, str]) -> dict[str, str]:
    return {**labels, "name": labels["id"] if labels["container"] else ""}
