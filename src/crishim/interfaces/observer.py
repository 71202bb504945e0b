"""Who is told how the work goes: how long it took, how it ended, what was lost. For figures; nothing depends on the answer.

Every method is called on the event loop, after the fact, must return at once and must not raise.
"""

from abc import abstractmethod
from typing import Protocol

from crishim.errors import Code


class Observer(Protocol):
    """Told of what ends. Names of verbs, backends and repairs come from bounded sets."""

    @abstractmethod
    def verb_ended(self, backend: str, verb: str, code: Code, seconds: float) -> None:
        """A backend's verb with a deadline has ended. Waits, execs and attachments, which last as they like, are not told."""

    @abstractmethod
    def pull_ended(self, code: Code, seconds: float) -> None:
        """PullImage has ended."""

    @abstractmethod
    def fetched(self, size: int) -> None:
        """A pull brought `size` bytes that were not here before."""

    @abstractmethod
    def repaired(self, repair: str) -> None:
        """Recovery has found a record and a backend that did not agree, and set out to repair it."""

    @abstractmethod
    def subscriber_dropped(self) -> None:
        """A stream of events was ended, since its client did not keep up."""


class NoObserver(Observer):
    """Nobody is interested."""

    def verb_ended(self, backend: str, verb: str, code: Code, seconds: float) -> None:
        """See `Observer`."""

    def pull_ended(self, code: Code, seconds: float) -> None:
        """See `Observer`."""

    def fetched(self, size: int) -> None:
        """See `Observer`."""

    def repaired(self, repair: str) -> None:
        """See `Observer`."""

    def subscriber_dropped(self) -> None:
        """See `Observer`."""
