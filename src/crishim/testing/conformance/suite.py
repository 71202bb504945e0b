"""The conformance suite as a pytest class around the checks."""

import asyncio
import inspect
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from crishim.interfaces.backend import Backend, BackendContext
from crishim.keeper.client import KeeperClient
from crishim.model.values import FrozenDict
from crishim.system import SystemClock
from crishim.testing.conformance import contract, logs, offers, service
from crishim.testing.conformance.candidate import Candidate, Programs
from crishim.testing.conformance.offers import NEEDS, Check


def _checks(*modules: ModuleType) -> Iterator[Check]:
    for module in modules:
        for name, value in inspect.getmembers(module, inspect.iscoroutinefunction):
            if name.startswith("check_") and value.__module__ == module.__name__:
                yield value


CHECKS: tuple[Check, ...] = tuple(_checks(contract, logs, offers, service))
"""Every check of the suite."""


class BackendConformance:
    """Inherit, and implement the construction of the backend. The other attributes are its programs and known weaknesses."""

    programs: ClassVar[Programs] = Programs()
    options: ClassVar[dict[str, Any]] = {}
    host_network: ClassVar[bool] = False
    survives_restart: ClassVar[bool] = True
    restores_exit_after_restart: ClassVar[bool] = True

    async def make_backend(self, context: BackendContext) -> Backend:
        """The backend under test. Called again with the same context for a restart."""
        raise NotImplementedError

    async def close_backend(self, backend: Backend) -> None:
        """Close a backend without ending its containers; for backends with connections."""

    def candidate(self, folder: Path) -> Candidate:
        """The candidate, with folders of its own below `folder`."""
        context = BackendContext(
            state=_folder(folder / "state"),
            runtime_state=_folder(folder / "run"),
            options=FrozenDict(self.options),
            clock=SystemClock(),
            keeper=KeeperClient(folder / "run" / "keeper"),
        )
        return Candidate(
            make=self.make_backend,
            close=self.close_backend,
            context=context,
            scratch=_folder(folder / "scratch"),
            programs=self.programs,
            host_network=self.host_network,
            survives_restart=self.survives_restart,
            restores_exit=self.restores_exit_after_restart,
        )

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))
    def test_contract(self, check: Check) -> None:
        """The backend fulfils one sentence of its contract, and leaves nothing behind."""
        with tempfile.TemporaryDirectory(prefix="exam") as folder:
            asyncio.run(self._examine(check, self.candidate(Path(folder))))

    async def _examine(self, check: Check, candidate: Candidate) -> None:
        async with candidate.world() as world:
            needed = NEEDS.get(check)
            if needed is None or world.claims(needed):
                await check(world)


_ATTRIBUTES = BackendConformance.__annotations__.keys()


def conformance(factory: Callable[[BackendContext], Any], **attributes: Any) -> type[BackendConformance]:
    """The suite for the result of `factory(context)`, a backend or an awaitable of one.

    Raises `TypeError` for an attribute that `BackendConformance` does not have.
    """
    if unknown := [name for name in attributes if name not in _ATTRIBUTES]:
        raise TypeError(f"{min(unknown)} is not an attribute of BackendConformance; known: {', '.join(sorted(_ATTRIBUTES))}")

    async def make_backend(_self: BackendConformance, context: BackendContext) -> Backend:
        built = factory(context)
        return await built if inspect.isawaitable(built) else built  # type: ignore[no-any-return]

    return type("TestBackend", (BackendConformance,), {"make_backend": make_backend, **attributes})


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
