"""The exam, taken by the fake backend."""

from pathlib import Path
from typing import ClassVar, NoReturn

import attrs

from crishim.interfaces.backend import Backend, BackendContext
from crishim.model.values import ContainerId
from crishim.testing import FakeBackend, Harness
from crishim.testing.conformance import BackendConformance, Candidate, Programs
from crishim.testing.fake_programs import FakePrograms
from crishim.testing.fakes import FakeContainer, FakeNamespaces


class TestFake(BackendConformance):
    """The fake fulfils the contract: its state survives a restart, since the test has it."""

    programs: ClassVar[Programs] = FakePrograms()
    in_memory = True
    backends: ClassVar[dict[object, FakeBackend]] = {}

    def candidate(self, folder: Path) -> Candidate:
        candidate = super().candidate(folder)
        return attrs.evolve(candidate, context=attrs.evolve(candidate.context, namespaces=FakeNamespaces()))

    async def make_backend(self, context: BackendContext) -> Backend:
        return self.backends.setdefault(context.state, FakeBackend())


class _NeverListed(dict[ContainerId, FakeContainer]):
    def __iter__(self) -> NoReturn:
        raise AssertionError("looked at every container")

    def values(self) -> NoReturn:
        raise AssertionError("looked at every container")

    def items(self) -> NoReturn:
        raise AssertionError("looked at every container")


async def test_a_pod_costs_the_same_among_many() -> None:
    """No call for one sandbox or one container looks at the containers of all sandboxes."""
    async with Harness() as world:
        world.fake.containers = _NeverListed()
        sandbox_id = await world.run_sandbox()
        await world.run_container(sandbox_id, "main", "serve", "80", "hello")
        stream = await world.fake.dial(sandbox_id, 80)
        assert b"hello\n" == await stream.read()
        await world.services.sandboxes.stop(sandbox_id)
        await world.services.sandboxes.remove(sandbox_id)
        assert {} == world.fake.containers
