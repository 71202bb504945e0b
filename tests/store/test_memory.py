from pathlib import Path

from crishim.interfaces.seats import Records
from crishim.lifecycle.records import ContainerRecord, SandboxRecord, load_record
from crishim.store.memory import MemoryStore

RECORDS = Path(__file__).parent.parent / "golden" / "records"


async def test_what_was_put_is_loaded() -> None:
    """A store answers with every record that was put and not deleted, the last one of each id."""
    store = MemoryStore()
    sandbox = load_record((RECORDS / "sandbox.v2.json").read_bytes())[0]
    container = load_record((RECORDS / "container.v2.json").read_bytes())[0]
    assert isinstance(sandbox, SandboxRecord)
    assert isinstance(container, ContainerRecord)
    assert Records() == await store.load()
    await store.put(sandbox)
    await store.put(container)
    await store.put(container)
    assert Records(sandboxes=(sandbox,), containers=(container,)) == await store.load()
    await store.delete(sandbox.id)
    await store.delete("never put")
    assert Records(containers=(container,)) == await store.load()
