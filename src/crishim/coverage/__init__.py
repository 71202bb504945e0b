"""What becomes of each field of CRI's requests with a given backend: honoured, refused, or ignored and why."""
