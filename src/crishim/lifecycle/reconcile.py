"""Recovery as a function: what was wanted (records) and what is (inventory) -> what is to be done (repairs).

In any quarrel about what is, the backend is right; about what was wanted, the record is. The repairs of one plan are carried
out in order; every one of them can be repeated, so a crash in the middle only means that the next plan is shorter.

- unfinished records (CREATING, REMOVING, or a container without its sandbox): finish the removal;
- a sandbox that was to be stopped: stop it again;
- a container in both: take over its exit, watch it again, or leave it created; kill it if its end was already told;
- a container that only the record knows: it is over, and nobody can say how;
- what only the inventory knows: remove it, if it carries our mark;
- records of another boot: nothing of them runs, no pid or namespace path is trusted, and networks are torn down without a
  namespace; exits that are known stay.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import attrs

from crishim.lifecycle.records import ContainerRecord, Phase, SandboxRecord
from crishim.model.container import ContainerState, Inventory, ObservedContainer
from crishim.model.process import Exit
from crishim.model.sandbox import ObservedSandbox
from crishim.model.values import ContainerId, SandboxId


@attrs.frozen
class FinishContainerRemoval:
    """Remove the container from backend and records; `running` if it must be killed first."""

    id: ContainerId
    running: bool


@attrs.frozen
class FinishSandboxRemoval:
    """Remove the sandbox, its network and its namespaces, from backend and records."""

    id: SandboxId


@attrs.frozen
class FinishSandboxStop:
    """Stop the sandbox again: containers, backend, network, namespaces."""

    id: SandboxId


@attrs.frozen
class ForgetNetwork:
    """The namespace went with another boot: free the addresses without it."""

    id: SandboxId


@attrs.frozen
class SandboxIs:
    """Show the sandbox as the backend sees it, and watch it where that can be done."""

    id: SandboxId
    ready: bool


@attrs.frozen
class ContainerIs:
    """Show the container so; nothing is to be waited for."""

    id: ContainerId
    state: ContainerState


@attrs.frozen
class WatchContainer:
    """The container runs: wait for its end."""

    id: ContainerId
    started_at: int | None


@attrs.frozen
class TakeExit:
    """The container ended while nobody looked: write its exit."""

    id: ContainerId
    exit: Exit


@attrs.frozen
class KillAgain:
    """The container's end was told already, and yet it runs."""

    id: ContainerId


@attrs.frozen
class RemoveLeftoverContainer:
    """The backend holds a container of ours that no record knows."""

    id: ContainerId
    running: bool


@attrs.frozen
class RemoveLeftoverSandbox:
    """The backend holds a sandbox of ours that no record knows."""

    id: SandboxId


Repair: TypeAlias = (
    FinishContainerRemoval
    | FinishSandboxRemoval
    | FinishSandboxStop
    | ForgetNetwork
    | SandboxIs
    | ContainerIs
    | WatchContainer
    | TakeExit
    | KillAgain
    | RemoveLeftoverContainer
    | RemoveLeftoverSandbox
)


def plan(
    sandboxes: Iterable[SandboxRecord],
    containers: Iterable[ContainerRecord],
    inventory: Inventory,
    *,
    boot_id: str,
) -> list[Repair]:
    """The repairs that make records and reality agree, in the order in which to carry them out.

    The records are those of one backend; so is the inventory. `boot_id` names the machine's present boot.
    """
    wanted_sandboxes = {record.id: record for record in sandboxes}
    wanted_containers = {record.id: record for record in containers}
    held_sandboxes = {seen.id: seen for seen in inventory.sandboxes}
    held_containers = {seen.id: seen for seen in inventory.containers}
    repairs: list[Repair] = [
        RemoveLeftoverContainer(seen.id, running=seen.state is not ContainerState.CREATED and not seen.exit)
        for seen in held_containers.values()
        if seen.ours and seen.id not in wanted_containers
    ]
    for record in wanted_containers.values():
        sandbox = wanted_sandboxes.get(record.sandbox_id)
        repairs.append(_container(record, held_containers.get(record.id), sandbox, boot_id))
    for sandbox in wanted_sandboxes.values():
        repairs.extend(_sandbox(sandbox, held_sandboxes.get(sandbox.id), same_boot=sandbox.boot_id == boot_id))
    repairs.extend(
        RemoveLeftoverSandbox(held.id) for held in held_sandboxes.values() if held.ours and held.id not in wanted_sandboxes
    )
    return repairs


_MAY_RUN: Final = frozenset({ContainerState.RUNNING, ContainerState.UNKNOWN})
"""What is waited for, and killed: where a backend cannot say whether it runs, the wait tells."""


def _container(
    record: ContainerRecord,
    seen: ObservedContainer | None,
    sandbox: SandboxRecord | None,
    boot_id: str,
) -> Repair:
    if record.phase is not Phase.READY or sandbox is None:
        running = seen is not None and seen.state in _MAY_RUN
        return FinishContainerRemoval(record.id, running)
    same_boot = sandbox.boot_id == boot_id
    runs = same_boot and seen is not None and seen.state in _MAY_RUN and seen.exit is None
    if record.exit is not None:
        return KillAgain(record.id) if runs else ContainerIs(record.id, ContainerState.EXITED)
    ended = not same_boot or seen is None or seen.exit is not None or seen.state is ContainerState.EXITED
    if seen is None or ended:
        return TakeExit(record.id, _exit(record, seen))
    if runs:
        return WatchContainer(record.id, seen.started_at)
    return ContainerIs(record.id, seen.state)


def _exit(record: ContainerRecord, seen: ObservedContainer | None) -> Exit:
    """How it ended, with the start that is known; its creation stands for a start that nobody knows any more."""
    end = (seen.exit if seen else None) or Exit.unknown()
    return attrs.evolve(end, started_at=end.started_at or (seen.started_at if seen else None) or record.created_at)


def _sandbox(record: SandboxRecord, seen: ObservedSandbox | None, *, same_boot: bool) -> Iterator[Repair]:
    if not same_boot:
        yield ForgetNetwork(record.id)
    if record.phase in {Phase.CREATING, Phase.REMOVING}:
        yield FinishSandboxRemoval(record.id)
    elif record.phase is Phase.STOPPED:
        yield FinishSandboxStop(record.id)
    else:
        yield SandboxIs(record.id, ready=same_boot and seen is not None and seen.ready)
