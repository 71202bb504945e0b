"""The example of a runtime that is one class passes the exam for pods."""

import pytest

from crishim.interfaces.backend import Backend, BackendContext
from crishim.testing.conformance import BackendConformance
from tests.backends.runc.world import needs
from tests.examples import load_example


@pytest.mark.node
@needs("busybox", "unshare", "nsenter", "catatonit")
class TestProgramRuntime(BackendConformance):
    """Its pods have namespaces of their own, and survive a restart."""

    needs_node = True
    ignores = load_example("program_runtime").IGNORES

    async def make_backend(self, context: BackendContext) -> Backend:
        backend = load_example("program_runtime").build(context)
        assert isinstance(backend, Backend)
        return backend
