"""NRI, the Node Resource Interface: plugins that see, and may change, what the runtime does with pods and containers.

The protocol is that of github.com/containerd/nri, whose plugins work here unchanged; docs/nri.md tells what is served.
"""
