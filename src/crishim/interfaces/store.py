"""Where records are kept."""

from abc import abstractmethod
from typing import Protocol

import attrs

from crishim.lifecycle.records import ContainerRecord, Record, SandboxRecord


@attrs.frozen(kw_only=True)
class Records:
    """All records, in any order."""

    sandboxes: tuple[SandboxRecord, ...] = ()
    containers: tuple[ContainerRecord, ...] = ()


class RecordStore(Protocol):
    """Keeps one record per id: three verbs. What `put` and `delete` have returned from survives a loss of power."""

    @abstractmethod
    async def load(self) -> Records:
        """All records. Called once, first.

        Raises `DataLoss` (naming the file) for what is broken, `FailedPrecondition` for what a newer version wrote.
        """

    @abstractmethod
    async def put(self, record: Record) -> None:
        """Write or replace the record of one id."""

    @abstractmethod
    async def delete(self, id: str) -> None:  # noqa: A002 - the field's word for it
        """Forget a record. Unknown ids are no error."""
