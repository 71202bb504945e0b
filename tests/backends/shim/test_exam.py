"""The exam, taken by ShimRuntime over containerd's own shim, on real containers."""

import pytest

from crishim.backends.shim import build
from crishim.interfaces.backend import Backend, BackendContext
from crishim.pods.usage import MeasuredPods
from crishim.shimv2.client.runtime import ShimRuntime
from crishim.testing.conformance import BackendConformance, Candidate
from crishim.testing.conformance.examine import Check, Restart, Result
from tests.backends.runc.world import needs
from tests.shimv2.world import shims_below


@pytest.mark.node
@needs("containerd-shim-runc-v2", "runc", "busybox", "unshare", "catatonit")
class TestRuncShim(BackendConformance):
    """Pods over containerd's own shim keep the contract, and no shim is left when one is gone."""

    needs_node = True

    async def make_backend(self, context: BackendContext) -> Backend:
        return build(context)

    async def close_backend(self, backend: Backend) -> None:
        assert isinstance(backend, MeasuredPods)
        assert isinstance(backend._runtime, ShimRuntime)
        await backend._runtime.detach()

    def examine(self, check: Check | Restart, candidate: Candidate) -> Result:
        result = super().examine(check, candidate)
        assert [] == shims_below(candidate.context.runtime_state)
        return result
