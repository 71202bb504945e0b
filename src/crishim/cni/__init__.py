"""Pods' networks by CNI plugins: configuration, invocation, results; and connections into a pod's network namespace."""
