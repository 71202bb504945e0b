"""The client side of shim v2: runs containers through containerd's shims."""
