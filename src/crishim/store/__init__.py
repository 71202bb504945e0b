"""The stores of records: `memory.MemoryStore` for the lifetime of the process, `sqlite.SqliteStore` for persistence."""
