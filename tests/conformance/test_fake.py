"""The exam, taken by the fake backend."""

from typing import ClassVar

from crishim.interfaces.backend import Backend, BackendContext
from crishim.testing import FakeBackend
from crishim.testing.conformance import BackendConformance, Programs


class FakePrograms(Programs):
    """The fake's own commands."""

    ready = ""

    def prints(self, text: str) -> tuple[str, ...]:
        return ("print", text)

    def complains(self, text: str) -> tuple[str, ...]:
        return ("complain", text)

    def fails(self, code: int) -> tuple[str, ...]:
        return ("fail", str(code))

    def sleeps(self) -> tuple[str, ...]:
        return ("sleep",)

    def stubborn(self) -> tuple[str, ...]:
        return ("stubborn",)

    def prints_variable(self, variable: str) -> tuple[str, ...] | None:
        return None

    def ticks(self, text: str) -> tuple[str, ...] | None:
        return None


class TestFake(BackendConformance):
    """The fake keeps the contract: it lives on over a restart, since the test keeps it."""

    programs: ClassVar[Programs] = FakePrograms()
    backends: ClassVar[dict[object, FakeBackend]] = {}

    async def make_backend(self, context: BackendContext) -> Backend:
        return self.backends.setdefault(context.state, FakeBackend())
