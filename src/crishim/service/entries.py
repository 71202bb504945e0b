"""The entries of the table: a sandbox or container, with its record, its state and its operations.

Entries change only by the methods of `Table`.
"""

import asyncio
from collections.abc import Mapping

import attrs

from crishim.lifecycle.records import ContainerRecord, Phase, SandboxRecord
from crishim.lifecycle.states import ContainerAct, SandboxAct, container_after, sandbox_after
from crishim.model.container import Container, ContainerState, ContainerStatus
from crishim.model.sandbox import PodSandbox, PodSandboxState, PodSandboxStatus
from crishim.model.values import ContainerId, SandboxId, Versioned
from crishim.service.locks import Operations


class SandboxEntry:
    """A sandbox: its record, its state (None while it is being started; lists leave it out then), and its operations."""

    def __init__(self, record: SandboxRecord) -> None:
        self.record = record
        self.stop_done = False
        self.stop_reported = False
        self.operations = Operations()
        self.containers: dict[ContainerId, ContainerEntry] = {}
        self.listed: Versioned[PodSandbox] | None = None
        self._status: tuple[Versioned[PodSandbox] | None, PodSandboxStatus] | None = None
        self._state: PodSandboxState | None = None

    @property
    def state(self) -> PodSandboxState | None:
        """The state in CRI; None while the sandbox is being started."""
        return self._state

    def apply(self, act: SandboxAct) -> None:
        """Move to the state after `act`. For `Table.apply` alone. Raises `FailedPrecondition`."""
        self._state = sandbox_after(self._state, act, f"sandbox {self.id}")

    @property
    def id(self) -> SandboxId:
        """The sandbox's id."""
        return self.record.id

    @property
    def shown_state(self) -> PodSandboxState:
        """The state in CRI, NOTREADY while the sandbox is being started."""
        return PodSandboxState.NOTREADY if self.state is None else self.state

    def item(self) -> PodSandbox:
        """The sandbox as lists show it."""
        config = self.record.config
        return PodSandbox(
            id=self.record.id,
            metadata=config.metadata,
            state=self.shown_state,
            created_at=self.record.created_at,
            labels=config.labels,
            annotations=config.annotations,
            runtime_handler=self.record.handler,
        )

    def status(self) -> PodSandboxStatus:
        """The sandbox as PodSandboxStatus shows it, the same object until something in it changes. A stopped sandbox has no
        addresses, nor has one on the host network.
        """
        if self._status is None or self._status[0] is not self.listed or self.listed is None:
            self._status = self.listed, self._new_status()
        return self._status[1]

    def _new_status(self) -> PodSandboxStatus:
        config = self.record.config
        ready = self.shown_state is PodSandboxState.READY
        return PodSandboxStatus(
            id=self.record.id,
            metadata=config.metadata,
            state=self.shown_state,
            created_at=self.record.created_at,
            ips=self.record.ips if ready and not self.record.spec.host_network else (),
            namespaces=config.linux.security_context.namespace_options,
            labels=config.labels,
            annotations=config.annotations,
            runtime_handler=self.record.handler,
        )

    def container_statuses(self) -> tuple[ContainerStatus, ...]:
        """The status of every shown container, the newest first: with evented PLEG the kubelet takes the first of each name."""
        shown = [entry for entry in self.containers.values() if entry.state is not None]
        return tuple(entry.status() for entry in sorted(shown, key=lambda entry: entry.record.created_at, reverse=True))


class ContainerEntry:
    """A container: its record, its state as the backend reported it (None while it is being created), and its operations."""

    def __init__(self, record: ContainerRecord, sandbox: SandboxEntry) -> None:
        self.record = record
        self.sandbox = sandbox
        self.started_at = 0
        self.stop_sent = False
        self.ended = asyncio.Event()
        self.operations = Operations()
        self.listed: Versioned[Container] | None = None
        self._status: tuple[Versioned[Container] | None, ContainerStatus] | None = None
        self.argv: tuple[str, ...] = ()
        self.env: Mapping[str, str] = {}
        """The command and the environment with which it was created; empty after a restart of the server."""
        self.stop_report: asyncio.Task[None] | None = None
        """The report of its exit to plugins of the node."""
        self._state: ContainerState | None = None

    @property
    def state(self) -> ContainerState | None:
        """The state in CRI; None while the container is being created."""
        return self._state

    def apply(self, act: ContainerAct) -> None:
        """Move to the state after `act`. For `Table.apply` alone. Raises `FailedPrecondition`."""
        self._state = container_after(self._state, act, f"container {self.id}")

    @property
    def id(self) -> ContainerId:
        """The container's id."""
        return self.record.id

    @property
    def shown_state(self) -> ContainerState:
        """The state in CRI, CREATED while the container is being created."""
        return ContainerState.CREATED if self.state is None else self.state

    @property
    def may_run(self) -> bool:
        """Whether a process of the container may still be alive."""
        return self.state in {ContainerState.RUNNING, ContainerState.UNKNOWN}

    def item(self) -> Container:
        """The container as lists show it."""
        record, config = self.record, self.record.config
        return Container(
            id=record.id,
            pod_sandbox_id=record.sandbox_id,
            metadata=config.metadata,
            image=config.image,
            image_ref=record.image_ref,
            state=self.shown_state,
            created_at=record.created_at,
            labels=config.labels,
            annotations=config.annotations,
            image_id=record.image_id,
        )

    def status(self) -> ContainerStatus:
        """The container as ContainerStatus shows it, the same object until something in it changes."""
        if self._status is None or self._status[0] is not self.listed or self.listed is None:
            self._status = self.listed, self._new_status()
        return self._status[1]

    def _new_status(self) -> ContainerStatus:
        record, config, end = self.record, self.record.config, self.record.exit
        status = ContainerStatus(
            id=record.id,
            metadata=config.metadata,
            state=self.shown_state,
            created_at=record.created_at,
            started_at=self.started_at,
            image=attrs.evolve(config.image, image=record.image),
            image_ref=record.image_ref,
            labels=config.labels,
            annotations=config.annotations,
            mounts=record.mounts or config.mounts,
            log_path=record.log_path,
            resources=record.resources,
            image_id=record.image_id,
            user=record.user,
            stop_signal=record.stop_signal,
        )
        if end is None or self.state is not ContainerState.EXITED:
            return status
        return attrs.evolve(
            status,
            started_at=end.started_at,
            finished_at=end.finished_at,
            exit_code=end.code,
            reason=end.reason,
            message=end.message,
        )


def is_usable(entry: SandboxEntry) -> bool:
    """Whether containers may be created in the sandbox: it is ready, and no stop was requested."""
    return entry.record.phase is Phase.READY and entry.state is PodSandboxState.READY
