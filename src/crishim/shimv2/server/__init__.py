"""The server side of shim v2: runs the tasks of containerd on an OciRuntime."""
