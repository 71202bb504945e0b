"""Recovery as a pure function: desired state (records) and actual state (inventory) -> repairs.

The backend decides what the actual state is, the record what the desired one is. The repairs of one plan are carried out in
order. Each of them can be repeated, so after a crash in the middle the next plan is shorter.

- unfinished records (CREATING, REMOVING, or a container without its sandbox): finish the removal;
- a sandbox with a requested stop: stop it again;
- a container in both: record its exit, watch it again, or leave it created; kill it if its exit was already recorded;
- a container in the record only: it has exited, and the exit status is unknown;
- an object in the inventory only: remove it if it carries our mark;
- records of another boot: nothing of them runs, no pid or namespace path is valid, and networks are torn down without a
  namespace; recorded exits stay.
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
    """Free the addresses without the network namespace, which a reboot has deleted."""

    id: SandboxId


@attrs.frozen
class SandboxIs:
    """Show the sandbox as the backend reports it, and watch it if it is ready."""

    id: SandboxId
    ready: bool


@attrs.frozen
class ContainerIs:
    """Show the container in this state; it needs no watch."""

    id: ContainerId
    state: ContainerState


@attrs.frozen
class WatchContainer:
    """The container runs: wait for its exit."""

    id: ContainerId
    started_at: int | None


@attrs.frozen
class TakeExit:
    """The container exited while this process did not watch: record its exit."""

    id: ContainerId
    exit: Exit


@attrs.frozen
class KillAgain:
    """Kill the container again: its exit was recorded, and it still runs."""

    id: ContainerId


@attrs.frozen
class RemoveLeftoverContainer:
    """Remove a container of ours that no record names."""

    id: ContainerId
    running: bool


@attrs.frozen
class RemoveLeftoverSandbox:
    """Remove a sandbox of ours that no record names."""

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
    """The repairs that make records and backend agree, in the order in which to carry them out.

    `sandboxes`, `containers` and `inventory` belong to one backend. `boot_id` is that of the current boot.
    """
    wanted_sandboxes = {record.id: record for record in sandboxes}
    wanted_containers = {record.id: record for record in containers}
    observed_sandboxes = {seen.id: seen for seen in inventory.sandboxes}
    observed_containers = {seen.id: seen for seen in inventory.containers}
    repairs: list[Repair] = [
        RemoveLeftoverContainer(seen.id, running=seen.state is not ContainerState.CREATED and not seen.exit)
        for seen in observed_containers.values()
        if seen.ours and seen.id not in wanted_containers
    ]
    for record in wanted_containers.values():
        sandbox = wanted_sandboxes.get(record.sandbox_id)
        repairs.append(_container(record, observed_containers.get(record.id), sandbox, boot_id))
    for sandbox in wanted_sandboxes.values():
        repairs.extend(_sandbox(sandbox, observed_sandboxes.get(sandbox.id), same_boot=sandbox.boot_id == boot_id))
    repairs.extend(
        RemoveLeftoverSandbox(seen.id) for seen in observed_sandboxes.values() if seen.ours and seen.id not in wanted_sandboxes
    )
    return repairs


_MAY_RUN: Final = frozenset({ContainerState.RUNNING, ContainerState.UNKNOWN})
"""States in which a container is watched, and killed before removal. For UNKNOWN the wait reports whether it has exited."""


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
    """The exit of a container, with its start time; if that is unknown, its creation time."""
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
