"""Pods out of any OCI runtime on a Linux node."""
