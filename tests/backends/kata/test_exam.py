"""The exam, taken by the kata backend over a stand-in that forgives nothing that kata's own shim does not."""

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from crishim.interfaces.backend import Backend, BackendContext
from crishim.pods.namespaces import PinnedNamespaces
from crishim.pods.usage import MeasuredPods
from crishim.shimv2.client.runtime import ShimRuntime
from crishim.testing.conformance import BackendConformance, Candidate
from crishim.testing.conformance.offers import Check
from tests.backends.runc.world import BusyboxRoots, needs
from tests.shimv2.world import host_leftovers, kata, shims_below


@pytest.mark.node
@needs("busybox", "unshare", "catatonit")
class TestKata(BackendConformance):
    """Pods over kata's shim keep the contract; no shim, no machine and no folder is left when one is gone."""

    @pytest.fixture(autouse=True)
    def pins(self, tmp_path: Path) -> Iterator[None]:
        """A folder of pins, which is a mount of its own until it is closed."""
        self._pins = PinnedNamespaces(tmp_path / "pins")
        yield
        self._pins.close()

    def candidate(self, folder: Path) -> Candidate:
        candidate = super().candidate(folder)
        context = attrs.evolve(candidate.context, rootfs=BusyboxRoots(folder / "roots"), namespaces=self._pins)
        return attrs.evolve(candidate, context=context)

    async def make_backend(self, context: BackendContext) -> Backend:
        return kata(context.state.parent)(context)

    async def close_backend(self, backend: Backend) -> None:
        assert isinstance(backend, MeasuredPods)
        assert isinstance(backend._runtime, ShimRuntime)
        await backend._runtime.detach()

    async def _examine(self, check: Check, candidate: Candidate) -> None:
        await super()._examine(check, candidate)
        folder = candidate.context.state.parent
        assert ([], []) == (shims_below(folder), host_leftovers(folder))
