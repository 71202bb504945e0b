"""Time, chance and addresses: what tests replace."""

from abc import abstractmethod
from typing import Protocol

from crishim.model.ids import ContainerId, SandboxId
from crishim.model.streams import StreamRequest


class Clock(Protocol):
    """The only source of time."""

    @abstractmethod
    def now(self) -> int:
        """Nanoseconds since the epoch; what clients see."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds that never go back; for intervals."""

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of `monotonic`."""


class IdSource(Protocol):
    """The only source of ids: 64 hexadecimal digits, never twice."""

    @abstractmethod
    def sandbox_id(self) -> SandboxId:
        """A new sandbox id."""

    @abstractmethod
    def container_id(self) -> ContainerId:
        """A new container id."""


class StreamUrls(Protocol):
    """Where a client goes for a stream."""

    @abstractmethod
    def mint(self, request: StreamRequest) -> str:
        """A URL for this request, good once and for a minute. Raises `ResourceExhausted` with a thousand outstanding."""
