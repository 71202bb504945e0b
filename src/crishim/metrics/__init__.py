"""Metrics for Prometheus: the extra `metrics`."""
