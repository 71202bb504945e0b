"""The pod's network: who makes the namespace, who connects it, who dials into it."""

from abc import abstractmethod
from typing import Protocol

import attrs

from crishim.interfaces.capabilities import ByteStream
from crishim.model.ids import SandboxId
from crishim.model.sandbox import SandboxSpec


@attrs.frozen(kw_only=True)
class NetworkReady:
    """Whether pods can be connected, and why not: the NetworkReady condition."""

    ready: bool
    reason: str = ""
    message: str = ""


class PodNetwork(Protocol):
    """Connects network namespaces: three verbs. Never called for pods on the host network."""

    @abstractmethod
    async def set_up(self, spec: SandboxSpec) -> tuple[str, ...]:
        """Connect `spec.netns` and answer the pod's addresses, the primary first, at most one of each family.

        The sandbox's record is written before. After an error `tear_down` is called.
        """

    @abstractmethod
    async def tear_down(self, spec: SandboxSpec) -> None:
        """Disconnect and free the addresses. Repeatable; an empty `spec.netns` says that the namespace is gone already."""

    @abstractmethod
    async def ready(self) -> NetworkReady:
        """Whether the network is configured. Asked with every Status: no process may be started for it."""


class SandboxNamespaces(Protocol):
    """Makes the namespaces of a pod for backends that want them ready (`NetnsSource.LIBRARY`)."""

    @abstractmethod
    async def create(self, spec: SandboxSpec) -> str:
        """Make them and answer the path of the network namespace; empty on the host network."""

    @abstractmethod
    def path(self, sandbox_id: SandboxId, kind: str) -> str:
        """Where a namespace of the pod can be joined: `net`, `ipc`, `uts` or `user`; empty where the pod uses the host's."""

    @abstractmethod
    async def remove(self, sandbox_id: SandboxId) -> None:
        """Let go of them. Repeatable, also for what was never made."""


class NetnsDialer(Protocol):
    """Connects to a port inside a network namespace."""

    @abstractmethod
    async def dial(self, netns: str, port: int) -> ByteStream:
        """A TCP connection to the loopback of the namespace at path `netns` (empty: the host's), IPv4 first, then IPv6.

        Raises `Unavailable`, naming both failures, when nobody listens. Use the backend's own dial where it has one.
        """
