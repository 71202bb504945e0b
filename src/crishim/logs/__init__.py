"""Container output: the CRI log file, and the descriptors of a container that nobody else holds."""
