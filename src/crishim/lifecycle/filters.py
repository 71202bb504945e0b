"""CRI's list filters. All parts must match; a label selector's pairs must all be equal; an empty filter matches everything.

An id also matches by its prefix, as in all runtimes.
"""

from collections.abc import Mapping

from crishim.model.container import Container, ContainerFilter
from crishim.model.sandbox import PodSandbox, PodSandboxFilter
from crishim.model.stats import ContainerStatsFilter, PodSandboxStatsFilter


def labels_match(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether every pair of the selector is among the labels."""
    return all(labels.get(key) == value for key, value in selector.items())


def sandbox_matches(item: PodSandbox, filter_: PodSandboxFilter) -> bool:
    """Whether a list with this filter shows this sandbox."""
    return (
        item.id.startswith(filter_.id)
        and (filter_.state is None or filter_.state is item.state)
        and labels_match(item.labels, filter_.label_selector)
    )


def container_matches(item: Container, filter_: ContainerFilter) -> bool:
    """Whether a list with this filter shows this container."""
    return (
        item.id.startswith(filter_.id)
        and (filter_.state is None or filter_.state is item.state)
        and item.pod_sandbox_id.startswith(filter_.pod_sandbox_id)
        and labels_match(item.labels, filter_.label_selector)
    )


def container_stats_match(item: Container, filter_: ContainerStatsFilter) -> bool:
    """Whether a stats list with this filter shows this container."""
    same = ContainerFilter(id=filter_.id, pod_sandbox_id=filter_.pod_sandbox_id, label_selector=filter_.label_selector)
    return container_matches(item, same)


def sandbox_stats_match(item: PodSandbox, filter_: PodSandboxStatsFilter) -> bool:
    """Whether a stats list with this filter shows this sandbox."""
    return sandbox_matches(item, PodSandboxFilter(id=filter_.id, label_selector=filter_.label_selector))
