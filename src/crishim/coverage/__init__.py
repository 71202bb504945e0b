"""The treatment of each field of CRI's requests by a given backend: supported, refused, or ignored with the reason."""
