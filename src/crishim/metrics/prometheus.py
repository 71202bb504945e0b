"""The metrics of this process for Prometheus. docs/metrics.md has the names and labels; a test compares both.

`Metrics` counts what ends, as an `Observer` and as an observer of the dispatcher; it reads gauges (pods by state, streams) at
each scrape. Values of labels come from bounded sets: there are no ids, names or images.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from crishim.cri.dispatch import Call
from crishim.errors import Code
from crishim.interfaces.seats import Observer
from crishim.service.node import Gauges
from crishim.streaming.server import Traffic

__all__ = ["Metrics"]

_RPC_BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_PULL_BUCKETS: Final = (0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0)


class Metrics(Observer, Collector):
    """The collector of all metrics. `collect` is called for each scrape."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._registry = CollectorRegistry()
        self._rpcs = self._counter("crishim_rpcs", "CRI calls that have ended.", "method", "code")
        self._rpc_seconds = self._histogram("crishim_rpc_duration_seconds", "How long CRI calls took.", _RPC_BUCKETS, "method")
        self._verbs = self._counter(
            "crishim_backend_calls", "Calls of backend verbs that have ended.", "backend", "verb", "code"
        )
        self._verb_seconds = self._histogram(
            "crishim_backend_call_duration_seconds", "How long backend verbs took.", _RPC_BUCKETS, "backend", "verb"
        )
        self._pulls = self._counter("crishim_image_pulls", "PullImage calls that have ended.", "code")
        self._pull_seconds = self._histogram("crishim_image_pull_duration_seconds", "How long pulls took.", _PULL_BUCKETS)
        self._pulled = self._counter("crishim_image_pulled_bytes", "Bytes of images that pulls brought.")
        self._repairs = self._counter(
            "crishim_recovery_repairs", "Repairs of differences between records and a backend.", "repair"
        )
        self._dropped = self._counter(
            "crishim_event_streams_dropped", "Streams of container events that were closed because their clients were too slow."
        )
        self._gauges: Callable[[], Gauges] | None = None
        self._traffic: Callable[[], Mapping[str, Traffic]] | None = None

    def attend(self, gauges: Callable[[], Gauges], traffic: Callable[[], Mapping[str, Traffic]] | None) -> None:
        """Register the sources of the gauges, called at every scrape. Without a streaming server there is no traffic."""
        self._gauges = gauges
        self._traffic = traffic

    def call_ended(self, call: Call) -> None:
        """For `Dispatcher(observe=...)`."""
        self._rpcs.labels(call.method, call.code.name).inc()
        self._rpc_seconds.labels(call.method).observe(call.seconds)

    def verb_ended(self, backend: str, verb: str, code: Code, seconds: float) -> None:
        """See `Observer`."""
        self._verbs.labels(backend, verb, code.name).inc()
        self._verb_seconds.labels(backend, verb).observe(seconds)

    def pull_ended(self, code: Code, seconds: float) -> None:
        """See `Observer`."""
        self._pulls.labels(code.name).inc()
        self._pull_seconds.observe(seconds)

    def fetched(self, size: int) -> None:
        """See `Observer`."""
        self._pulled.inc(size)

    def repaired(self, repair: str) -> None:
        """See `Observer`."""
        self._repairs.labels(repair).inc()

    def subscriber_dropped(self) -> None:
        """See `Observer`."""
        self._dropped.inc()

    def collect(self) -> Iterator[Metric]:
        """Every family. The creation times of series, which the library would add as further names, are left out."""
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family
        build = GaugeMetricFamily("crishim_build_info", "Always 1; the label has the version.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build
        yield from self._counted()
        yield from self._streamed()

    def _counted(self) -> Iterator[Metric]:
        sandboxes = GaugeMetricFamily("crishim_sandboxes", "Pod sandboxes by state.", labels=["state"])
        containers = GaugeMetricFamily("crishim_containers", "Containers by state.", labels=["state"])
        backends = GaugeMetricFamily("crishim_backend_up", "1 while the backend can be reached, else 0.", labels=["backend"])
        aside = GaugeMetricFamily("crishim_records_set_aside", "Records that cannot be used, and stay in the store.")
        unrecorded = GaugeMetricFamily("crishim_pods_unrecorded", "Pods in a backend without a record.")
        leftovers = GaugeMetricFamily("crishim_pods_leftovers", "Ended pods with leftovers that could not be freed yet.")
        if self._gauges is not None:
            gauges = self._gauges()
            for sandbox_state, count in gauges.sandboxes.items():
                sandboxes.add_metric([sandbox_state.name.lower()], count)
            for state, count in gauges.containers.items():
                containers.add_metric([state.name.lower()], count)
            for name, up in gauges.backends.items():
                backends.add_metric([name], int(up))
            aside.add_metric([], gauges.set_aside)
            unrecorded.add_metric([], gauges.unrecorded)
            leftovers.add_metric([], gauges.leftovers)
        yield from (sandboxes, containers, backends, aside, unrecorded, leftovers)

    def _streamed(self) -> Iterator[Metric]:
        begun = CounterMetricFamily("crishim_stream_sessions", "Streaming sessions begun.", labels=["kind"])
        live = GaugeMetricFamily("crishim_stream_sessions_open", "Streaming sessions that are open.", labels=["kind"])
        moved = CounterMetricFamily(
            "crishim_stream_bytes", "Bytes of streaming sessions, frames included.", labels=["kind", "direction"]
        )
        for kind, traffic in (self._traffic() if self._traffic is not None else {}).items():
            begun.add_metric([kind], traffic.sessions)
            live.add_metric([kind], traffic.open)
            moved.add_metric([kind, "received"], traffic.received)
            moved.add_metric([kind, "sent"], traffic.sent)
        yield from (begun, live, moved)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)
