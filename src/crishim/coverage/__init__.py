"""What becomes of each field of CRI's requests with a given backend: supported, refused, or ignored and why."""
