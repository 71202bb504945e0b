"""Records in memory: for embedding and tests. They last as long as the object, so an object shared by two services shows what
a restart would find.
"""

from crishim.interfaces.seats import Records, RecordStore
from crishim.lifecycle.records import ContainerRecord, Record, SandboxRecord


class MemoryStore(RecordStore):
    """Keeps records in a dictionary. Nothing here can fail."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    async def load(self) -> Records:
        """All records."""
        kept = self._records.values()
        return Records(
            sandboxes=tuple(record for record in kept if isinstance(record, SandboxRecord)),
            containers=tuple(record for record in kept if isinstance(record, ContainerRecord)),
        )

    async def put(self, record: Record) -> None:
        """Write or replace the record of one id."""
        self._records[record.id] = record

    async def delete(self, id: str) -> None:  # noqa: A002 - the field's word for it
        """Forget a record. Unknown ids are no error."""
        self._records.pop(id, None)
