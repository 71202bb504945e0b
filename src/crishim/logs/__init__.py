"""Container output: the CRI log file, and the streams of containers that have no monitor or engine."""
