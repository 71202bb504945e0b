"""Images on this node: pulled by skopeo, unpacked once, and mounted for containers by the kernel's overlayfs."""
