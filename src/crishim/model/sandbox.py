"""Sandboxes: requested (`PodSandboxConfig`), resolved (`SandboxSpec`), observed (`ObservedSandbox`), shown
(`PodSandboxStatus`).
"""

import enum

import attrs

from crishim.model.resources import Resources
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.model.values import EMPTY, FrozenDict, SandboxId, frozen

__all__ = [
    "DNSConfig",
    "LinuxPodSandboxConfig",
    "ObservedSandbox",
    "PodSandbox",
    "PodSandboxConfig",
    "PodSandboxFilter",
    "PodSandboxMetadata",
    "PodSandboxState",
    "PodSandboxStatus",
    "PortMapping",
    "Protocol",
    "SandboxSpec",
    "SandboxStarted",
]


class PodSandboxState(enum.IntEnum):
    """CRI's two states of a sandbox."""

    READY = 0
    NOTREADY = 1


class Protocol(enum.IntEnum):
    """The protocol of a port mapping."""

    TCP = 0
    UDP = 1
    SCTP = 2


@attrs.frozen
class PodSandboxMetadata:
    """The four parts of a sandbox's unique name, reserved until the sandbox is removed."""

    name: str
    namespace: str
    uid: str
    attempt: int = 0


@attrs.frozen(kw_only=True)
class DNSConfig:
    """The content of the pod's /etc/resolv.conf."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class PortMapping:
    """A port of the node that leads to one of the pod; `host_port` 0 is none."""

    protocol: Protocol = Protocol.TCP
    container_port: int = 0
    host_port: int = 0
    host_ip: str = ""


@attrs.frozen(kw_only=True)
class LinuxPodSandboxConfig:
    """The Linux part of a sandbox's configuration. `overhead` and `resources` are sums over the pod, for sizing a VM."""

    cgroup_parent: str = ""
    security_context: LinuxSandboxSecurityContext = LinuxSandboxSecurityContext()
    sysctls: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    overhead: Resources | None = None
    resources: Resources | None = None


@attrs.frozen(kw_only=True)
class PodSandboxConfig:
    """The configuration in RunPodSandbox. Labels and annotations are returned unchanged. `dns_config` None means the node's
    own.
    """

    metadata: PodSandboxMetadata
    hostname: str = ""
    log_directory: str = ""
    dns_config: DNSConfig | None = None
    port_mappings: tuple[PortMapping, ...] = ()
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    linux: LinuxPodSandboxConfig = LinuxPodSandboxConfig()


@attrs.frozen(kw_only=True)
class SandboxSpec:
    """What a backend receives for a sandbox.

    `netns` is the path of a network namespace that is ready for use; empty on the host network, or where the backend creates
    its own (`NetnsSource.BACKEND`, `NONE`). `ips` are its addresses, the primary one first.
    """

    id: SandboxId
    config: PodSandboxConfig
    handler: str = ""
    netns: str = ""
    ips: tuple[str, ...] = ()

    @property
    def namespaces(self) -> NamespaceOption:
        """The pod's namespace options."""
        return self.config.linux.security_context.namespace_options

    @property
    def host_network(self) -> bool:
        """Whether the pod uses the node's network namespace."""
        return self.namespaces.network is NamespaceMode.NODE


@attrs.frozen(kw_only=True)
class SandboxStarted:
    """What a backend reports of a started sandbox: the path of the network namespace that it created, and the addresses that
    it assigned.
    """

    netns: str = ""
    ips: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class ObservedSandbox:
    """A sandbox as a backend reports it. `ours` is false for one without a mark of this library; that is never touched."""

    id: SandboxId
    ready: bool
    netns: str = ""
    ips: tuple[str, ...] = ()
    ours: bool = True


@attrs.frozen(kw_only=True)
class PodSandbox:
    """A sandbox as lists show it."""

    id: SandboxId
    metadata: PodSandboxMetadata
    state: PodSandboxState
    created_at: int
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    runtime_handler: str = ""


@attrs.frozen(kw_only=True)
class PodSandboxStatus:
    """A sandbox as PodSandboxStatus shows it. Without `ips` the network is left unset: an empty ip would make the kubelet
    create the sandbox again.
    """

    id: SandboxId
    metadata: PodSandboxMetadata
    state: PodSandboxState
    created_at: int
    ips: tuple[str, ...] = ()
    namespaces: NamespaceOption = NamespaceOption()
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    runtime_handler: str = ""


@attrs.frozen(kw_only=True)
class PodSandboxFilter:
    """A list filter: all parts must match, empty parts match everything. State READY is a value, None is no filter."""

    id: str = ""
    state: PodSandboxState | None = None
    label_selector: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
