"""CRI's list filters. Parts are joined by "and"; a selector's pairs must all be equal; an empty filter matches everything.

An id matches also by its prefix, as everywhere.
"""

from collections.abc import Mapping

from crishim.model.container import Container, ContainerFilter
from crishim.model.sandbox import PodSandbox, PodSandboxFilter
from crishim.model.stats import ContainerStatsFilter, PodSandboxStatsFilter


def labels_match(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether every pair of the selector is among the labels."""
    return all(labels.get(key) == value for key, value in selector.items())


def sandbox_matches(item: PodSandbox, wanted: PodSandboxFilter) -> bool:
    """Whether a list with this filter shows this sandbox."""
    return (
        item.id.startswith(wanted.id)
        and (wanted.state is None or wanted.state is item.state)
        and labels_match(item.labels, wanted.label_selector)
    )


def container_matches(item: Container, wanted: ContainerFilter) -> bool:
    """Whether a list with this filter shows this container."""
    return (
        item.id.startswith(wanted.id)
        and (wanted.state is None or wanted.state is item.state)
        and item.pod_sandbox_id.startswith(wanted.pod_sandbox_id)
        and labels_match(item.labels, wanted.label_selector)
    )


def container_stats_match(item: Container, wanted: ContainerStatsFilter) -> bool:
    """Whether a stats list with this filter shows this container."""
    same = ContainerFilter(id=wanted.id, pod_sandbox_id=wanted.pod_sandbox_id, label_selector=wanted.label_selector)
    return container_matches(item, same)


def sandbox_stats_match(item: PodSandbox, wanted: PodSandboxStatsFilter) -> bool:
    """Whether a stats list with this filter shows this sandbox."""
    return sandbox_matches(item, PodSandboxFilter(id=wanted.id, label_selector=wanted.label_selector))
