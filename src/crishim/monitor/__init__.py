"""conmon, the monitor that outlives us: it holds a container's streams, writes its log, and keeps its exit."""
