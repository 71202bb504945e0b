"""containerd's shim v2 protocol, both sides: driving somebody's shim binaries, and being one."""
