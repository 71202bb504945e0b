"""The example of a runtime that is one class passes the exam for pods."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from crishim.interfaces.backend import Backend, BackendContext
from crishim.testing.conformance import BackendConformance
from tests.backends.runc.world import needs

SOURCE = Path(__file__).parents[2] / "examples" / "program_runtime.py"


def module() -> Any:
    spec = importlib.util.spec_from_file_location("program_runtime", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.node
@needs("busybox", "unshare", "nsenter", "catatonit")
class TestProgramRuntime(BackendConformance):
    """Its pods have namespaces of their own, and survive a restart."""

    needs_node = True
    ignores = module().IGNORES

    async def make_backend(self, context: BackendContext) -> Backend:
        backend = module().build(context)
        assert isinstance(backend, Backend)
        return backend
