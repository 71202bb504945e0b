"""The two tables."""

import itertools

import pytest

from crishim.errors import FailedPrecondition
from crishim.lifecycle.states import CONTAINER, SANDBOX, ContainerAct, SandboxAct, container_after, sandbox_after
from crishim.model.container import ContainerState
from crishim.model.sandbox import PodSandboxState


@pytest.mark.parametrize(("state", "act"), [*itertools.product(ContainerState, ContainerAct)])
def test_container_table_is_the_law(state: ContainerState, act: ContainerAct) -> None:
    """Every act leads where the table says, and is FailedPrecondition where it says nothing."""
    if (state, act) in CONTAINER:
        assert CONTAINER[state, act] is container_after(state, act)
    else:
        with pytest.raises(FailedPrecondition):
            container_after(state, act)


@pytest.mark.parametrize(("state", "act"), [*itertools.product(PodSandboxState, SandboxAct)])
def test_sandbox_table_is_the_law(state: PodSandboxState, act: SandboxAct) -> None:
    """Every act leads where the table says, and is FailedPrecondition where it says nothing."""
    if (state, act) in SANDBOX:
        assert SANDBOX[state, act] is sandbox_after(state, act)
    else:
        with pytest.raises(FailedPrecondition):
            sandbox_after(state, act)


def test_nothing_leads_back_from_an_end() -> None:
    """There is no restart: from EXITED nothing leads anywhere else (rpc.md 5)."""
    assert {ContainerState.EXITED} == {after for (state, _), after in CONTAINER.items() if state is ContainerState.EXITED}


def test_removal_is_always_allowed() -> None:
    """Every state allows the removal: it ends first what runs (rpc.md 5, RemoveContainer)."""
    assert all((state, ContainerAct.REMOVE) in CONTAINER for state in ContainerState)
    assert all((state, SandboxAct.REMOVE) in SANDBOX for state in PodSandboxState)
