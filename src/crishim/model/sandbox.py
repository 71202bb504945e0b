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
    """The pod's name."""
    namespace: str
    """The pod's Kubernetes namespace."""
    uid: str
    """The pod's UID."""
    attempt: int = 0
    """How often the kubelet has replaced the pod's sandbox; the first has 0."""


@attrs.frozen(kw_only=True)
class DNSConfig:
    """The content of the pod's /etc/resolv.conf."""

    servers: tuple[str, ...] = ()
    """Addresses for `nameserver` lines, in their order."""
    searches: tuple[str, ...] = ()
    """Domains for the `search` line."""
    options: tuple[str, ...] = ()
    """Words for the `options` line."""


@attrs.frozen(kw_only=True)
class PortMapping:
    """A port of the node that leads to one of the pod."""

    protocol: Protocol = Protocol.TCP
    """The transport protocol of both ports."""
    container_port: int = 0
    """The port in the pod, 0 to 65535."""
    host_port: int = 0
    """The port of the node, 0 to 65535; 0 maps none."""
    host_ip: str = ""
    """The address of the node on which the port is open; empty for all."""


@attrs.frozen(kw_only=True)
class LinuxPodSandboxConfig:
    """The Linux part of a sandbox's configuration."""

    cgroup_parent: str = ""
    """The path of the pod's cgroup below the cgroup root; with the systemd driver its parts are slices. Empty for none."""
    security_context: LinuxSandboxSecurityContext = LinuxSandboxSecurityContext()
    """User, namespaces and profiles of the sandbox itself."""
    sysctls: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """Kernel parameters of the pod's namespaces, by their names with dots."""
    overhead: Resources | None = None
    """What the pod needs beside its containers, by its RuntimeClass, for the size of a VM; None if it is not known."""
    resources: Resources | None = None
    """The sum of the limits of the pod's containers, for the size of a VM; None if it is not known."""


@attrs.frozen(kw_only=True)
class PodSandboxConfig:
    """The configuration in RunPodSandbox."""

    metadata: PodSandboxMetadata
    """The parts of the sandbox's unique name."""
    hostname: str = ""
    """The host name in the pod; empty on the host network."""
    log_directory: str = ""
    """The absolute path of the folder of the containers' logs; empty for no logs."""
    dns_config: DNSConfig | None = None
    """The content of /etc/resolv.conf; None for the node's own."""
    port_mappings: tuple[PortMapping, ...] = ()
    """Ports of the node that lead to the pod."""
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """Returned unchanged."""
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """Returned unchanged; engines may read their own."""
    linux: LinuxPodSandboxConfig = LinuxPodSandboxConfig()
    """The Linux part."""


@attrs.frozen(kw_only=True)
class SandboxSpec:
    """What a backend receives for a sandbox."""

    id: SandboxId
    """64 hexadecimal digits, chosen by the library."""
    config: PodSandboxConfig
    """The request's configuration."""
    handler: str = ""
    """The runtime handler that was requested; empty for the default."""
    netns: str = ""
    """The path of a network namespace that is ready for use; empty on the host network, or where the backend creates its own
    (`NetnsSource.BACKEND`, `NONE`).
    """
    ips: tuple[str, ...] = ()
    """The addresses of `netns`, the primary one first, at most one of each family."""

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
    """What a backend reports of a started sandbox."""

    netns: str = ""
    """The path of the network namespace that the backend has created (`NetnsSource.BACKEND`); empty for none."""
    ips: tuple[str, ...] = ()
    """The addresses that the backend has assigned, the primary one first."""


@attrs.frozen(kw_only=True)
class ObservedSandbox:
    """A sandbox as a backend reports it."""

    id: SandboxId
    """The id of its `SandboxSpec`."""
    ready: bool
    """Whether containers can run in it."""
    netns: str = ""
    """The path of its network namespace; empty if the backend does not know one."""
    ips: tuple[str, ...] = ()
    """Its addresses, the primary one first; empty if the backend does not know them."""
    ours: bool = True
    """False for one without a mark of this library, which the library never changes."""


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
    """A sandbox as PodSandboxStatus shows it."""

    id: SandboxId
    """The sandbox's id."""
    metadata: PodSandboxMetadata
    """The parts of the sandbox's unique name."""
    state: PodSandboxState
    """READY, or NOTREADY once it is stopped or has died."""
    created_at: int
    """Nanoseconds since the epoch."""
    ips: tuple[str, ...] = ()
    """The pod's addresses, the primary one first. Without them the network is left unset: an empty ip would make the kubelet
    create the sandbox again.
    """
    namespaces: NamespaceOption = NamespaceOption()
    """The namespace options of the request."""
    labels: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """Those of the request."""
    annotations: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
    """Those of the request."""
    runtime_handler: str = ""
    """The handler that was requested; empty for the default."""


@attrs.frozen(kw_only=True)
class PodSandboxFilter:
    """A list filter: all parts must match, empty parts match everything. State READY is a value, None is no filter."""

    id: str = ""
    state: PodSandboxState | None = None
    label_selector: FrozenDict[str, str] = attrs.field(default=EMPTY, converter=frozen)
