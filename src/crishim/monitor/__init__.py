"""conmon, the monitor process that outlives ours: it has a container's streams, writes its log, and records its exit."""
