"""The exam, taken by the kata backend over a stand-in that forgives nothing that kata's own shim does not."""

from typing import ClassVar

import pytest

from crishim.interfaces.backend import Backend, BackendContext
from crishim.pods.usage import MeasuredPods
from crishim.shimv2.client.runtime import ShimRuntime
from crishim.testing.conformance import BackendConformance, Candidate, Fact, Programs
from crishim.testing.conformance.examine import Check, Restart, Result
from tests.backends.runc.world import needs
from tests.shimv2.world import host_leftovers, kata, shims_below


class InTheStandIn(Programs):
    """Commands of processes in a plain root, for which the stand-in makes no namespaces, limits, users or mounts."""

    def shows(self, fact: Fact) -> tuple[str, ...] | None:
        return super().shows(fact) if fact in {Fact.FOLDER, Fact.TERMINAL} else None

    def reads(self, path: str) -> tuple[str, ...] | None:
        return None

    def reads_after(self, event: str, path: str) -> tuple[str, ...] | None:
        return None

    def writes(self, path: str) -> tuple[str, ...] | None:
        return None

    def opens(self, path: str) -> tuple[str, ...] | None:
        return None

    def exhausts(self) -> tuple[str, ...] | None:
        return None

    def serves(self, port: int, text: str) -> tuple[str, ...] | None:
        return None


@pytest.mark.node
@needs("busybox", "unshare", "catatonit")
class TestKata(BackendConformance):
    """Pods over kata's shim keep the contract; no shim, no machine and no folder is left when one is gone."""

    programs: ClassVar[Programs] = InTheStandIn()
    needs_node = True

    async def make_backend(self, context: BackendContext) -> Backend:
        return kata(context.state.parent)(context)

    async def close_backend(self, backend: Backend) -> None:
        assert isinstance(backend, MeasuredPods)
        assert isinstance(backend._runtime, ShimRuntime)
        await backend._runtime.detach()

    def examine(self, check: Check | Restart, candidate: Candidate) -> Result:
        result = super().examine(check, candidate)
        folder = candidate.context.state.parent
        assert ([], []) == (shims_below(folder), host_leftovers(folder))
        return result
