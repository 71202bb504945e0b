"""The index of reserved names: one sandbox per (name, namespace, uid, attempt), one container per (sandbox, name, attempt).

A name is reserved before anything is created, and released when the removal is complete. CRI has no call that looks a name up;
through the reservation a repeated RunPodSandbox or CreateContainer finds the existing object instead of creating a second one.
"""

from typing import Generic, NamedTuple, TypeVar

from crishim.errors import AlreadyExists
from crishim.model.container import ContainerMetadata
from crishim.model.sandbox import PodSandboxMetadata
from crishim.model.values import SandboxId


class SandboxName(NamedTuple):
    """What must be unique among sandboxes."""

    name: str
    namespace: str
    uid: str
    attempt: int

    @classmethod
    def of(cls, metadata: PodSandboxMetadata) -> "SandboxName":
        """The name in a sandbox's metadata."""
        return cls(metadata.name, metadata.namespace, metadata.uid, metadata.attempt)


class ContainerName(NamedTuple):
    """What must be unique among containers."""

    sandbox_id: SandboxId
    name: str
    attempt: int

    @classmethod
    def of(cls, sandbox_id: SandboxId, metadata: ContainerMetadata) -> "ContainerName":
        """The name in a container's metadata."""
        return cls(sandbox_id, metadata.name, metadata.attempt)


Name = TypeVar("Name", SandboxName, ContainerName)
Id = TypeVar("Id", bound=str)


class NameIndex(Generic[Name, Id]):
    """Maps reserved names to ids."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._ids: dict[Name, Id] = {}

    def get(self, name: Name) -> Id | None:
        """The id for which a name is reserved, or None."""
        return self._ids.get(name)

    def reserve(self, name: Name, id: Id) -> None:  # noqa: A002 - the field's word for it
        """Reserve a name for an id. Raises `AlreadyExists` if it is reserved for another."""
        if self._ids.setdefault(name, id) != id:
            raise AlreadyExists(self._kind, "_".join(str(part) for part in name))

    def release(self, name: Name) -> None:
        """Release a name. Unknown names are no error."""
        self._ids.pop(name, None)

    def __len__(self) -> int:
        return len(self._ids)
