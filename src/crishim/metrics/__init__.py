"""Figures for Prometheus: the extra `metrics`."""
