"""The exam, taken by the fake backend."""

from pathlib import Path
from typing import ClassVar

import attrs

from crishim.interfaces.backend import Backend, BackendContext
from crishim.testing import FakeBackend
from crishim.testing.conformance import BackendConformance, Candidate, Programs
from crishim.testing.fake_programs import FakePrograms
from crishim.testing.fakes import FakeNamespaces


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
