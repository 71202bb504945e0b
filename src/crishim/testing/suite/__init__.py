"""The official conformance suite, critest of kubernetes-sigs/cri-tools, for any backend: `crishim critest PLUGIN`.

critest itself is no part of this package. Here are a loopback registry with the images that it wants, a server with the
backend, and the report, in which each spec that failed or was left out has a reason or counts.
"""
