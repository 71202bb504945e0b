"""Images on this node: pulled by skopeo, unpacked once, and laid under containers by the kernel's overlayfs."""
