"""CgroupUsage for Prometheus: the extra `metrics`."""
