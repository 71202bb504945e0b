"""Driving somebody's shims."""
