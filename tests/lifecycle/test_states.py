"""The two tables."""

import ast
import itertools
from pathlib import Path

import pytest

import crishim
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


@pytest.mark.parametrize("table", [CONTAINER, SANDBOX])
def test_everything_is_shown_first(table: dict[tuple[object, object], object]) -> None:
    """An object under creation has no state, and every state can be the first: a restart may find any."""
    first = {after for (state, _), after in table.items() if state is None}
    assert {after for after in table.values() if after is not ContainerState.RUNNING} == first


def test_states_have_one_writer() -> None:
    """Only the tables change a state: nothing in the service but the entries' `apply` assigns one."""
    written = []
    for path in (Path(crishim.__file__).parent / "service").glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                targets = [
                    target
                    for node in ast.walk(function)
                    if isinstance(node, ast.Assign | ast.AnnAssign)
                    for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
                ]
                names = [target.attr for target in targets if isinstance(target, ast.Attribute)]
                written += [(path.name, function.name) for name in names if name in {"state", "_state"}]
    assert {("entries.py", "__init__"), ("entries.py", "apply")} == set(written)
