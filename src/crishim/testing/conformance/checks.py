"""All checks of the exam, and what each of them needs of a backend."""

import inspect
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Final

from crishim.interfaces.backend import NetnsSource
from crishim.interfaces.capabilities import SupportsAttach, SupportsExec, SupportsLogReopen, SupportsUpdate
from crishim.model.features import Feature
from crishim.testing.conformance import (
    contract,
    execs,
    features,
    isolation,
    limits,
    logs,
    offers,
    pods,
    refusals,
    restarts,
    service,
    volumes,
)
from crishim.testing.conformance.candidate import World
from crishim.testing.conformance.examine import Check, Restart, name_of


def _checks(*modules: ModuleType) -> Iterator[Check]:
    for module in modules:
        for name, value in inspect.getmembers(module, inspect.iscoroutinefunction):
            if name.startswith("check_") and value.__module__ == module.__name__:
                yield value


CHECKS: Final[tuple[Check | Restart, ...]] = (
    *_checks(contract, logs, offers, execs, pods, features, limits, isolation, volumes, refusals, service),
    *restarts.RESTARTS,
)
"""Every check of the exam."""

CAPABILITIES: Final[Mapping[str, type]] = {
    **{name_of(check): needed for check, needed in {**offers.NEEDS, **pods.POD_NEEDS, **limits.LIMIT_NEEDS}.items()},
    **{name_of(check): SupportsExec for check in _checks(execs)},
    "limits_are_updated": SupportsUpdate,
    "restart_allows_execs": SupportsExec,
    "restart_allows_attach": SupportsAttach,
    "restart_allows_rotation": SupportsLogReopen,
}
"""The capability that a check, by its name, is about."""

FEATURES: Final[Mapping[str, Feature]] = {
    name_of(check): feature
    for table in (
        features.FEATURES,
        execs.EXEC_FEATURES,
        pods.POD_FEATURES,
        limits.LIMIT_FEATURES,
        isolation.ISOLATION_FEATURES,
        volumes.VOLUME_FEATURES,
        offers.OFFER_FEATURES,
    )
    for check, feature in table.items()
}
"""The feature that a check, by its name, is about."""


OF_STREAMS: Final = frozenset(
    {
        "restart_loses_no_output",
        "restart_keeps_what_was_created",
        "restart_allows_execs",
        "restart_allows_attach",
        "restart_allows_rotation",
    }
)
"""The checks of what a backend without `streams_survive` cannot do after a restart."""


OF_APART_PODS: Final = frozenset(
    {
        "pod_has_its_own_network",
        "containers_of_a_pod_share",
        "pods_share_nothing",
        "pid_namespace_can_be_the_pods",
        "host_name_is_the_pods",
        "resolver_is_the_pods",
        "exec_is_in_the_container",
        "plain_containers_have_few_capabilities",
        "oom_score_is_set",
        "exec_has_the_oom_score",
    }
)
"""The checks of pods that have namespaces of their own.

Capabilities and the OOM score are no namespaces, and no features either. A backend without namespaces may start containers as
plain processes of the machine, which have this process's.
"""

OF_OWN_NETWORKS: Final = frozenset({"host_port_leads_to_the_pod"})
"""The checks of pods that the backend connects itself.

All others are in a namespace that crishim's pod network connects, whose plugins open host ports, and which
`pod_has_its_own_network` and `backend_netns_is_reported` look at: there `Feature.HOST_PORTS` asks nothing more of the backend.
"""

IGNORABLE: Final[Mapping[str, str]] = {
    "resolver_is_the_pods": "PodSandboxConfig.dns_config",
    "host_name_is_the_pods": "PodSandboxConfig.hostname",
    "oom_score_is_set": "ContainerConfig.linux.resources.oom_score_adj",
    "exec_has_the_oom_score": "ContainerConfig.linux.resources.oom_score_adj",
    "pid_namespace_can_be_the_pods": "PodSandboxConfig.linux.security_context.namespace_options.pid=POD",
}
"""The field of CRI that a check is about, which a plug-in may state to ignore."""


def not_claimed(check: Check | Restart, world: World) -> str:
    """The capability or feature of a check that the backend does not claim; empty if it claims all that is needed."""
    name = name_of(check)
    capability, feature = CAPABILITIES.get(name), FEATURES.get(name)
    if capability is not None and not world.claims(capability):
        return capability.__name__
    if name in OF_APART_PODS and not world.pods_are_apart:
        return "namespaces of its own"
    if name in OF_OWN_NETWORKS and (world.info.netns is not NetnsSource.NONE or world.candidate.host_network):
        return "a network of its own"
    field = IGNORABLE.get(name)
    if field is not None and any(_covers(ignored, field) for ignored in world.candidate.ignores):
        return f"{field} is ignored"
    if name in OF_STREAMS and not world.candidate.streams_survive:
        return "streams_survive_restart"
    return "" if feature is None or feature in world.info.supported else f"Feature.{feature.name}"


def _covers(ignored: str, field: str) -> bool:
    """Whether a name in `Plugin.ignores` is the field, or one that it is in."""
    return field == ignored or field.startswith((f"{ignored}.", f"{ignored}="))
