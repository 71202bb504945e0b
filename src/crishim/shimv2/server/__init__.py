"""Being a shim of containerd's."""
