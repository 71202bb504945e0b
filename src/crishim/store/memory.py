"""A store in memory, for embedding and tests. The records live as long as the object, so an object shared by two services
simulates a restart.
"""

from crishim.interfaces.seats import Records, RecordStore
from crishim.lifecycle.records import ContainerRecord, Record, SandboxRecord

__all__ = ["MemoryStore"]


class MemoryStore(RecordStore):
    """Stores records in a dictionary. Raises nothing."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    async def load(self) -> Records:
        """All records."""
        records = self._records.values()
        return Records(
            sandboxes=tuple(record for record in records if isinstance(record, SandboxRecord)),
            containers=tuple(record for record in records if isinstance(record, ContainerRecord)),
        )

    async def put(self, record: Record) -> None:
        """Write or replace the record of one id."""
        self._records[record.id] = record

    async def delete(self, id: str) -> None:  # noqa: A002 - the field's word for it
        """Delete a record. Unknown ids are no error."""
        self._records.pop(id, None)
