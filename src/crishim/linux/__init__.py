"""Interfaces of Linux that Python lacks. Nothing here knows containers."""
