"""Where records are kept: `memory.MemoryStore` for as long as the process lives, `sqlite.SqliteStore` for longer."""
